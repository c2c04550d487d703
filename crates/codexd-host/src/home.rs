//! The paths of the files and sockets in one CODEX_HOME.

use std::path::{Path, PathBuf};
use std::{fs, io};

use rustix::fs::Mode;

use crate::atomic;
use crate::ownership::Folder;

/// The files of the state folder that are replaced as a whole.
const REPLACED: [&str; 9] = [
    "settings.json",
    "server.json",
    "app-server.pid",
    "supervisor.json",
    "codex-binaries.json",
    "gateway.json",
    "backend.json",
    GATEWAY_GOALS,
    GATEWAY_CLIENT_IDENTITY,
];

const CONFIG: &str = "codexd.toml";
const GATEWAY_GOALS: &str = "gateway-goals.json";
const GATEWAY_CLIENT_IDENTITY: &str = "gateway-client-identity.json";

/// The paths of one CODEX_HOME.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Home {
    root: PathBuf,
}

impl Home {
    /// The home at `root`, an absolute path.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// CODEX_HOME itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of codexd's state.
    pub fn state_dir(&self) -> PathBuf {
        self.root.join("app-server-daemon")
    }

    /// The folder of the control socket.
    pub fn control_dir(&self) -> PathBuf {
        self.root.join("app-server-control")
    }

    /// The well-known control socket.
    pub fn control_socket(&self) -> PathBuf {
        self.control_dir().join("app-server-control.sock")
    }

    /// A file of codexd's state.
    pub fn state_file(&self, name: &str) -> PathBuf {
        self.state_dir().join(name)
    }

    /// The record of the current app-server.
    pub fn pid_record(&self) -> PathBuf {
        self.state_file("server.json")
    }

    /// The record of upstream's daemon, and of an older codexd: read to adopt the app-server, never written.
    pub fn upstream_pid_record(&self) -> PathBuf {
        self.state_file("app-server.pid")
    }

    /// `codexd.toml`, the configuration.
    pub fn config(&self) -> PathBuf {
        self.root.join(CONFIG)
    }

    /// `settings.json`, the settings that upstream's daemon shares.
    pub fn settings(&self) -> PathBuf {
        self.state_file("settings.json")
    }

    /// The lock of the changing commands.
    pub fn operation_lock(&self) -> PathBuf {
        self.state_file("daemon.lock")
    }

    /// The event log.
    pub fn events(&self) -> PathBuf {
        self.state_file("events.jsonl")
    }

    /// Which service manager runs the supervisor.
    pub fn backend(&self) -> PathBuf {
        self.state_file("backend.json")
    }

    /// The state of the supervisor.
    pub fn supervisor_state(&self) -> PathBuf {
        self.state_file("supervisor.json")
    }

    /// The lock that the supervisor holds as long as it runs.
    pub fn supervisor_lock(&self) -> PathBuf {
        self.state_file("supervisor.lock")
    }

    /// The socket on which the supervisor takes orders.
    pub fn supervisor_socket(&self) -> PathBuf {
        self.state_file("supervisor.sock")
    }

    /// The version cache of Codex binaries.
    pub fn binary_cache(&self) -> PathBuf {
        self.state_file("codex-binaries.json")
    }

    /// The app-server's stdout.
    pub fn stdout_log(&self) -> PathBuf {
        self.state_file("server.stdout.log")
    }

    /// The app-server's stderr.
    pub fn stderr_log(&self) -> PathBuf {
        self.state_file("server.stderr.log")
    }

    /// The log to read: `path`, or the log of an app-server that an older codexd started and still supervises.
    pub fn written_log(&self, path: PathBuf) -> PathBuf {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let older = self.state_file(&format!("app-{name}"));
        if !path.exists() && older.is_file() { older } else { path }
    }

    /// The gateway's output and diagnostic log.
    pub fn gateway_log(&self) -> PathBuf {
        self.state_file("gateway.log")
    }

    /// The log of the commands, if `CODEXD_LOG` turns it on.
    pub fn commands_log(&self) -> PathBuf {
        self.state_file("commands.log")
    }

    /// The gateway's last reports.
    pub fn gateway_state(&self) -> PathBuf {
        self.state_file("gateway.json")
    }

    /// The active goals behind the gateway.
    pub fn gateway_goals(&self) -> PathBuf {
        self.state_file(GATEWAY_GOALS)
    }

    /// The client identity that the gateway sent to the app-servers.
    pub fn gateway_client_identity(&self) -> PathBuf {
        self.state_file(GATEWAY_CLIENT_IDENTITY)
    }

    /// The token of the gateway's TCP listener.
    pub fn gateway_token(&self) -> PathBuf {
        self.state_file("gateway.token")
    }

    /// The spare hard link to the control socket.
    pub fn spare_socket(&self) -> PathBuf {
        self.state_file("control.sock")
    }

    /// The spare hard link to the socket of an app-server.
    pub fn spare_of(&self, socket: &Path) -> PathBuf {
        match socket.file_name() {
            Some(name) if *socket != self.control_socket() => self.state_dir().join(name),
            _ => self.spare_socket(),
        }
    }

    /// The socket number `nth` for generations; those that run at the same time have different numbers.
    pub fn generation_socket(&self, nth: u32) -> PathBuf {
        self.control_dir().join(format!("app-server-{nth}.sock"))
    }

    /// The supervisor's output and diagnostic log.
    pub fn supervisor_log(&self) -> PathBuf {
        self.state_file("supervisor.log")
    }

    /// Creates the state folders, accessible only to their owner, and removes the temporary files of killed writers.
    ///
    /// # Errors
    /// Errors of the file system: read-only, full, not permitted, or a file in place of a folder.
    pub fn create_state(&self) -> io::Result<()> {
        self.create_folders()?;
        atomic::remove_abandoned(&self.state_dir(), &REPLACED);
        atomic::remove_abandoned(&self.root, &[CONFIG]);
        Ok(())
    }

    /// Creates the state folders and changes nothing in them. For other pid namespaces, where killed writers cannot be identified.
    ///
    /// # Errors
    /// Errors of the file system: read-only, full, not permitted, or a file in place of a folder.
    pub fn create_folders(&self) -> io::Result<()> {
        if !self.root.is_dir() {
            if let Some(folder) = self.root.parent() {
                fs::create_dir_all(folder)?;
            }
            private_dir(&self.root)?;
        }
        for folder in [self.state_dir(), self.control_dir()] {
            private_dir(&folder)?;
        }
        Ok(())
    }
}

/// Creates a folder with mode 0700, independent of the umask. The mode of an existing folder is corrected.
fn private_dir(path: &Path) -> io::Result<()> {
    let is_new = match rustix::fs::mkdir(path, Mode::RWXU) {
        Ok(()) => true,
        Err(rustix::io::Errno::EXIST) => false,
        Err(error) => return Err(error.into()),
    };
    match Folder::open_own(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(dangling(path, error)),
        Ok(folder) if is_new => folder.set_private(),
        other => other?.make_private(),
    }
}

/// The error for a dangling link.
fn dangling(path: &Path, error: io::Error) -> io::Error {
    let Ok(target) = fs::read_link(path) else { return error };
    let message = format!("{} is a link to {}, which does not exist", path.display(), target.display());
    io::Error::new(io::ErrorKind::NotADirectory, message)
}

#[cfg(test)]
mod tests {
    use super::{Home, fs};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn creating_the_folders_removes_temporary_files_of_killed_writers() {
        let folder = tempfile::tempdir().expect("a folder");
        let home = Home::new(folder.path());
        home.create_state().expect("made");
        let mut gone = std::process::Command::new("true").spawn().expect("a child");
        gone.wait().expect("ended and reaped");
        for path in [home.settings(), home.pid_record(), home.supervisor_state(), home.binary_cache()] {
            fs::write(path.with_added_extension(format!("{}.tmp", gone.id())), "half").expect("written");
        }
        home.create_state().expect("made");
        assert_eq!(fs::read_dir(home.state_dir()).expect("listed").count(), 0);
    }

    #[test]
    fn folders_closed_by_a_umask_are_opened_to_their_owner() {
        let folder = tempfile::tempdir().expect("a folder");
        let home = Home::new(folder.path());
        fs::create_dir(home.state_dir()).expect("made");
        fs::set_permissions(home.state_dir(), fs::Permissions::from_mode(0o000)).expect("closed");
        home.create_state().expect("made");
        let mode = fs::metadata(home.state_dir()).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }
}
