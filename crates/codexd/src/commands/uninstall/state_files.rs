//! The files of codexd in a home.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use codexd_core::config::RecordFolders;
use codexd_host::Home;

/// The files of codexd in the state folder; each may have a rotated file `<name>.1` beside it.
const FILES: [&str; 17] = [
    "server.json",
    "server.stdout.log",
    "server.stderr.log",
    "supervisor.json",
    "supervisor.lock",
    "supervisor.sock",
    "supervisor.log",
    "control.sock",
    "gateway.json",
    "gateway-goals.json",
    "gateway-client-identity.json",
    "gateway.token",
    "gateway.log",
    "commands.log",
    "codex-binaries.json",
    "backend.json",
    "events.jsonl",
];
/// The lock of the changing commands, which this command holds. It comes last.
const LOCK: &str = "daemon.lock";

/// Whether a file in the state folder or in the folder of the control socket belongs to codexd.
fn is_ours(name: &str) -> bool {
    let plain = name.strip_suffix(".1").unwrap_or(name);
    // What a killed writer has left: `<name>.<pid>.tmp`.
    let written = name.strip_suffix(".tmp").and_then(|name| name.rsplit_once('.')).map(|(name, _)| name);
    // The server puts a lock beside its socket.
    let socket = name.strip_suffix(".lock").unwrap_or(name);
    let generation = socket.strip_prefix("app-server-").and_then(|rest| rest.strip_suffix(".sock"));
    FILES.contains(&plain)
        || written.is_some_and(|name| FILES.contains(&name))
        || generation
            .is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Whether a file is one of codexd, or a link to one: a server that writes its own log is led to that of codexd.
fn belongs_to_codexd(path: &Path) -> bool {
    let target = fs::read_link(path).ok();
    name_of(path).is_some_and(is_ours) || target.is_some_and(|target| name_of(&target).is_some_and(is_ours))
}

/// Removes the files of codexd and gives their paths. Folders that are empty then go as well.
///
/// # Errors
/// The file that cannot be removed, and why.
pub fn remove(home: &Home) -> Result<Vec<PathBuf>, (PathBuf, io::Error)> {
    let mut removed = Vec::new();
    for folder in [home.control_dir(), home.state_dir()] {
        for path in entries(&folder).into_iter().filter(|path| belongs_to_codexd(path)) {
            fs::remove_file(&path).or_else(already_gone).map_err(|error| (path.clone(), error))?;
            removed.push(path);
        }
    }
    if !is_used_by_upstream(home) {
        let lock = home.state_dir().join(LOCK);
        // A command that waits for the lock holds a file without a name then, and creates the state again.
        fs::remove_file(&lock).or_else(already_gone).map_err(|error| (lock.clone(), error))?;
    }
    for folder in [home.control_dir(), home.state_dir()] {
        // Files of Codex or of the user may be in it.
        let _ = fs::remove_dir(folder);
    }
    Ok(removed)
}

/// Removes what `codexd run` has put into the folders of logs and of state: links to the logs. Folders that are empty then go as well.
///
/// # Errors
/// The link that cannot be removed, and why.
pub fn remove_record(home: &Home, folders: &RecordFolders) -> Result<Vec<PathBuf>, (PathBuf, io::Error)> {
    let is_link =
        |path: &PathBuf| fs::read_link(path).is_ok_and(|target| target.starts_with(home.state_dir()));
    let links: Vec<PathBuf> = entries(&folders.logs).into_iter().filter(is_link).collect();
    for link in &links {
        fs::remove_file(link).or_else(already_gone).map_err(|error| (link.clone(), error))?;
    }
    for folder in [&folders.logs, &folders.state, &home.root().join("codexd")] {
        // Files of the user may be in it.
        let _ = fs::remove_dir(folder);
    }
    Ok(links)
}

/// The files of the user that stay: the configuration, and what is left in the state folder.
pub fn kept(home: &Home) -> Vec<PathBuf> {
    let config = Some(home.config()).filter(|path| path.exists());
    config.into_iter().chain(entries(&home.state_dir())).collect()
}

/// Whether upstream's daemon has files in the state folder: then its lock stays.
fn is_used_by_upstream(home: &Home) -> bool {
    let is_theirs = |name: &str| name != LOCK && name != "settings.json" && !is_ours(name);
    entries(&home.state_dir()).iter().filter_map(|path| name_of(path)).any(is_theirs)
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn name_of(path: &Path) -> Option<&str> {
    path.file_name().and_then(|name| name.to_str())
}

fn already_gone(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use super::{is_ours, kept, remove};
    use codexd_host::Home;
    use std::fs;

    #[test]
    fn only_files_of_codexd_are_removed() {
        for name in [
            "server.json",
            "gateway.log.1",
            "events.jsonl.1",
            "app-server-12.sock",
            "app-server-3.sock.lock",
            "server.json.77.tmp",
        ] {
            assert!(is_ours(name), "{name}");
        }
        for name in [
            "settings.json",
            "app-server.pid",
            "app-server-x.sock",
            "app-server-control.sock",
            "x.tmp",
            "loaded-threads.json",
        ] {
            assert!(!is_ours(name), "{name}");
        }
    }

    #[test]
    fn settings_threads_and_files_of_upstream_stay() {
        let folder = tempfile::tempdir().expect("a folder");
        let home = Home::new(folder.path());
        home.create_state().expect("made");
        for name in ["server.json", "daemon.lock"] {
            fs::write(home.state_file(name), "").expect("written");
        }
        assert_eq!(remove(&home).expect("removed"), [home.pid_record()]);
        assert!(!home.state_dir().exists() && !home.control_dir().exists());
        home.create_state().expect("made");
        for name in ["server.json", "daemon.lock", "settings.json", "daemon.pid"] {
            fs::write(home.state_file(name), "").expect("written");
        }
        std::os::unix::fs::symlink("server.stderr.log", home.state_file("daemon.stderr.log"))
            .expect("linked");
        remove(&home).expect("removed");
        let names = ["daemon.lock", "daemon.pid", "settings.json"];
        assert_eq!(kept(&home), names.map(|name| home.state_file(name)));
    }
}
