//! A throw-away `CODEX_HOME`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, ensure};
use rustix::process::Signal;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::{MockModel, Process, limits};

mod config;
pub use config::Config;

/// Variables of the caller that a program run in a home may see; everything else is taken away.
const KEPT_VARIABLES: [&str; 7] =
    ["PATH", "LANG", "LC_ALL", "TERM", "TZ", "RUST_BACKTRACE", "LLVM_PROFILE_FILE"];

/// A temporary `CODEX_HOME` with a user profile and a work folder beside it. When it is dropped, every process that was
/// started with it (and still lives) is killed, and the files go.
#[derive(Debug)]
pub struct Home {
    root: TempDir,
    path: PathBuf,
}

/// Where a managed Codex lies in a home.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Layout {
    /// `packages/standalone/current/codex`, the place since 0.131.0.
    Standalone,
    /// `packages/app-server-daemon/current/bin/codex`, the place of 0.169.0.
    Dedicated,
}

impl Home {
    /// An empty home with a short path. Turns fail: there is no model.
    ///
    /// # Errors
    /// The temporary folder's.
    pub fn new() -> anyhow::Result<Home> {
        Home::named("h")
    }

    /// A home whose turns are answered by `model`.
    ///
    /// # Errors
    /// The temporary folder's.
    pub fn with_model(model: &MockModel) -> anyhow::Result<Home> {
        let home = Home::new()?;
        home.configure(&Config::for_model(model))?;
        Ok(home)
    }

    /// A home below a folder of this name (it may have blanks, quotes, several parts, or be very long).
    ///
    /// # Errors
    /// The temporary folder's.
    pub fn named(name: &str) -> anyhow::Result<Home> {
        const LONGEST_TEMPORARY: usize = 24;
        let usual = std::env::temp_dir();
        let short = if usual.as_os_str().len() > LONGEST_TEMPORARY { Path::new("/tmp") } else { &usual };
        let root = tempfile::Builder::new().prefix("cxd-").tempdir_in(short)?;
        let path = root.path().join(name);
        let home = Home { root, path };
        for folder in [home.path(), &home.profile(), &home.work()] {
            fs::create_dir_all(folder).with_context(|| format!("failed to create {}", folder.display()))?;
        }
        home.configure(&Config::default())?;
        Ok(home)
    }

    /// `CODEX_HOME`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder that holds all of it; nothing else on the machine has this path.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// `HOME`: the profile of a user who has nothing.
    pub fn profile(&self) -> PathBuf {
        self.root().join("u")
    }

    /// A folder for threads to work in.
    pub fn work(&self) -> PathBuf {
        self.root().join("w")
    }

    /// The socket that an app-server listens on unless told otherwise.
    pub fn control_socket(&self) -> PathBuf {
        self.path.join("app-server-control/app-server-control.sock")
    }

    /// A file of the daemon's state folder.
    pub fn state(&self, name: &str) -> PathBuf {
        self.path.join("app-server-daemon").join(name)
    }

    /// Replaces `config.toml`.
    ///
    /// # Errors
    /// The file's.
    pub fn configure(&self, config: &Config) -> anyhow::Result<()> {
        fs::write(self.path.join("config.toml"), config.to_toml(&self.work()))?;
        Ok(())
    }

    /// Writes a file below `CODEX_HOME`, with the folders on its way.
    ///
    /// # Errors
    /// The file's.
    pub fn write(&self, relative: &str, text: impl AsRef<[u8]>) -> anyhow::Result<PathBuf> {
        let path = self.path.join(relative);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&path, text).with_context(|| format!("failed to write {}", path.display()))?;
        Ok(path)
    }

    /// Where the managed Codex lies, or would.
    pub fn managed_codex(&self, layout: Layout) -> PathBuf {
        self.path.join(match layout {
            Layout::Standalone => "packages/standalone/current/codex",
            Layout::Dedicated => "packages/app-server-daemon/current/bin/codex",
        })
    }

    /// Makes `binary` the managed Codex, as a link.
    ///
    /// # Errors
    /// Something is at the place already.
    pub fn install(&self, layout: Layout, binary: &Path) -> anyhow::Result<PathBuf> {
        let place = self.managed_codex(layout);
        if let Some(folder) = place.parent() {
            fs::create_dir_all(folder)?;
        }
        symlink(binary, &place).with_context(|| format!("failed to make {}", place.display()))?;
        Ok(place)
    }

    /// A command that sees this home, and of the caller's environment only the innocuous part.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env_clear().current_dir(self.work());
        for name in KEPT_VARIABLES {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.env("CODEX_HOME", &self.path).env("HOME", self.profile());
        command
    }

    /// Every living process that was started with this home.
    pub fn processes(&self) -> Vec<Process> {
        Process::with_environment(self.root())
    }

    /// Fails if a process that was started with this home still lives.
    ///
    /// # Panics
    /// With a list of them.
    pub fn assert_no_process_left(&self) {
        let left = self.processes();
        assert!(left.is_empty(), "processes left behind: {left:#?}");
    }

    /// Kills every process that was started with this home, and those that they start meanwhile.
    ///
    /// # Errors
    /// Some are still there at the deadline.
    pub fn end_processes(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + limits::PROCESS_GONE;
        loop {
            let left = self.processes();
            if left.is_empty() {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "processes survive SIGKILL: {left:?}");
            for process in &left {
                let _gone_already = process.signal(Signal::KILL);
            }
            for process in &left {
                process.wait_gone(limits::PROCESS_GONE)?;
            }
        }
    }

    /// A socket of its own for a bare app-server.
    pub fn bare_socket(&self) -> PathBuf {
        self.root().join("s")
    }

    /// Removes what app-server 0.169.0 leaves outside of the home: the locks of the hashed names of its sockets.
    fn remove_hashed_sockets(&self) {
        let folder = format!("/tmp/codex-daemon-{}", rustix::process::getuid().as_raw());
        for socket in [self.control_socket(), self.bare_socket()] {
            let digest = Sha256::digest(socket.as_os_str().as_encoded_bytes());
            let name: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            for file in [name.clone(), format!("{name}.lock")] {
                let _not_there = fs::remove_file(Path::new(&folder).join(file));
            }
        }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Err(error) = self.end_processes() {
            eprintln!("{}: {error:#}", self.root().display());
        }
        self.remove_hashed_sockets();
    }
}

#[cfg(test)]
mod tests {
    use super::Home;

    #[test]
    fn dropping_a_home_ends_what_was_started_with_it() {
        let home = Home::new().expect("a home");
        let mut command = home.command("/bin/sh");
        command.args(["-c", "setsid sleep 1000 & exec sleep 1000"]);
        let mut child = command.spawn().expect("a shell");
        crate::until(crate::limits::PROCESS_GONE, "both sleepers", || {
            let found = home.processes();
            (found.iter().filter(|process| process.command.starts_with("sleep")).count() == 2).then_some(())
        })
        .expect("both run");
        let seen = home.processes();
        drop(home);
        child.wait().expect("reaped");
        assert!(seen.iter().all(|process| !process.is_alive()));
    }
}
