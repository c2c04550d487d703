//! The files of upstream's own daemon in the state folder.
//!
//! `codex app-server daemon` and the TUI's `/daemon` act on the process that `app-server.pid` or `daemon.pid` names, and refuse ("not
//! managed") if neither does. So codexd has its own record under another name, and removes upstream's record once codexd manages the
//! app-server that it names. Older versions of codexd wrote `app-server.pid` and `app-server.*.log` as well.
//!
//! Failure modes: a file that cannot be removed or renamed stays; upstream's commands then still act on that app-server.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use codexd_core::identity::{Pid, Process};
use codexd_core::record;

use crate::home::Home;
use crate::{atomic, logs, ownership};

/// The records of upstream's daemon: since 0.131.0, and in the newer installation layout.
const PID_RECORDS: [&str; 2] = ["app-server.pid", "daemon.pid"];
/// Any of these makes upstream since 0.169.0 use the older installation, unless there is a newer one.
const OLDER_LAYOUT: [&str; 4] =
    ["app-server.pid", OLDER_STDERR, "app-server-updater.pid", "app-server-updater.stderr.log"];
/// Any of these makes it use the newer one.
const NEWER_LAYOUT: [&str; 4] =
    ["daemon.pid", NEWER_STDERR, "daemon-updater.pid", "daemon-updater.stderr.log"];
const OLDER_STDERR: &str = "app-server.stderr.log";
const NEWER_STDERR: &str = "daemon.stderr.log";
/// Written by older versions of codexd only.
const OLDER_STDOUT: &str = "app-server.stdout.log";

/// Removes the records of upstream's daemon that name `process`, which codexd manages from now on.
///
/// # Errors
/// A record cannot be removed.
pub fn remove_records_of(home: &Home, process: &Process) -> io::Result<()> {
    for path in PID_RECORDS.map(|name| home.state_file(name)) {
        let record = atomic::read(&path)?.and_then(|bytes| record::parse(&bytes).ok());
        let names_it = record.is_some_and(|record| {
            record.pid == process.pid
                && record.process_identity.is_none_or(|identity| identity == process.identity)
        });
        if names_it {
            atomic::remove_if_exists(&path)?;
        }
    }
    Ok(())
}

/// Renames the logs that `pid` writes to in the state folder to codexd's names. The process keeps writing to the same files.
pub fn take_over_logs(home: &Home, pid: Pid) {
    for (fd, log) in [(1, home.stdout_log()), (2, home.stderr_log())] {
        let written = fs::read_link(format!("/proc/{pid}/fd/{fd}")).ok();
        let is_another =
            |path: &Path| path.parent() == Some(&home.state_dir()) && path != log && path.is_file();
        if let Some(theirs) = written.filter(|path| is_another(path)) {
            let _ = fs::rename(&log, logs::rotated(&log));
            let _ = fs::rename(theirs, &log);
        }
    }
}

/// Renames the logs of an older codexd whose app-server has exited.
pub fn rename_older_logs(home: &Home) {
    // Upstream's own log of this name stays.
    if !home.state_file(OLDER_STDOUT).is_file() {
        return;
    }
    for (name, log) in [(OLDER_STDOUT, home.stdout_log()), (OLDER_STDERR, home.stderr_log())] {
        let older = home.state_file(name);
        for (from, to) in [(logs::rotated(&older), logs::rotated(&log)), (older, log)] {
            if !to.exists() {
                let _ = fs::rename(from, to);
            }
        }
    }
}

/// Makes the log that an app-server opens with `--managed-daemon` a link to codexd's stderr log. So both outputs of the app-server are in one
/// bounded file.
///
/// # Errors
/// The link cannot be created.
pub fn link_managed_log(home: &Home) -> io::Result<()> {
    let any = |names: [&str; 4]| names.iter().any(|name| home.state_file(name).symlink_metadata().is_ok());
    let newer = home.root().join("packages/app-server-daemon/current").symlink_metadata().is_ok();
    let is_older = !newer && !any(NEWER_LAYOUT) && any(OLDER_LAYOUT);
    let link = home.state_file(if is_older { OLDER_STDERR } else { NEWER_STDERR });
    match link.symlink_metadata() {
        // The link of another user could redirect the log to any file.
        Ok(found) if found.is_symlink() && ownership::is_trusted(found.uid()) => return Ok(()),
        Ok(_) => fs::rename(&link, link.with_added_extension("previous"))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let stderr = home.stderr_log();
    std::os::unix::fs::symlink(stderr.file_name().unwrap_or_default(), link)
}

#[cfg(test)]
mod tests {
    use super::{link_managed_log, remove_records_of, rename_older_logs, take_over_logs};
    use crate::home::Home;
    use crate::process;
    use codexd_core::identity::Pid;
    use std::fs;
    use std::process::{Command, Stdio};

    fn home() -> (tempfile::TempDir, Home) {
        let folder = tempfile::tempdir().expect("a folder");
        let home = Home::new(folder.path().canonicalize().expect("there"));
        home.create_state().expect("made");
        (folder, home)
    }

    #[test]
    fn upstreams_record_of_another_process_stays() {
        let (_folder, home) = home();
        let me = process::myself().expect("me");
        for name in ["app-server.pid", "daemon.pid"] {
            let record =
                |pid: u32| format!(r#"{{"pid":{pid},"processStartTime":"Fri Nov 20 03:21:40 2026"}}"#);
            fs::write(home.state_file(name), record(me.pid.0 + 1)).expect("written");
            remove_records_of(&home, &me).expect("removed");
            assert!(home.state_file(name).exists(), "{name} names another process");
            fs::write(home.state_file(name), record(me.pid.0)).expect("written");
            remove_records_of(&home, &me).expect("removed");
            assert!(!home.state_file(name).exists(), "{name} names an app-server of codexd");
        }
    }

    #[test]
    fn the_logs_of_an_adopted_server_are_renamed_while_it_writes() {
        let (_folder, home) = home();
        let open = |name: &str| fs::File::create(home.state_file(name)).expect("a log");
        fs::write(home.stderr_log(), "before\n").expect("written");
        let mut child = Command::new("sh")
            .args(["-c", "read line; echo out; echo err >&2"])
            .stdin(Stdio::piped())
            .stdout(open("app-server.stdout.log"))
            .stderr(open("app-server.stderr.log"))
            .spawn()
            .expect("a child");
        take_over_logs(&home, Pid(child.id()));
        drop(child.stdin.take());
        child.wait().expect("ended");
        let text = |path: &std::path::Path| fs::read_to_string(path).expect("there");
        assert_eq!(text(&home.stdout_log()), "out\n");
        assert_eq!(text(&home.stderr_log()), "err\n");
        assert_eq!(text(&home.state_file("server.stderr.log.1")), "before\n");
        assert!(!home.state_file("app-server.stderr.log").exists());
    }

    #[test]
    fn the_log_of_a_managed_server_is_a_link_in_upstreams_layout() {
        let (_folder, home) = home();
        link_managed_log(&home).expect("linked");
        let points_to = |name: &str| fs::read_link(home.state_file(name)).ok();
        assert_eq!(points_to("daemon.stderr.log"), Some("server.stderr.log".into()));
        fs::remove_file(home.state_file("daemon.stderr.log")).expect("removed");
        fs::write(home.state_file("app-server.stderr.log"), "upstream's").expect("written");
        rename_older_logs(&home);
        link_managed_log(&home).expect("linked");
        assert_eq!(points_to("daemon.stderr.log"), None);
        assert_eq!(points_to("app-server.stderr.log"), Some("server.stderr.log".into()));
        assert!(home.state_file("app-server.stderr.log.previous").exists(), "upstream's log is kept");
    }
}
