//! Starts a program that inherits a listening socket, with `LISTEN_FDS` and `LISTEN_FDS_FIRST_FD` as the crate `listenfd` reads them.
//!
//! Unlike in sd_listen_fds(3), the descriptor need not be 3 and `LISTEN_PID` is not set: both would need code between fork and
//! exec. Both ends are codexd.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::process::{Child, Command};

use codexd_core::launch_spec::LaunchSpec;

/// Starts `program` with its arguments and environment. `command` has its executable, streams, process group and working directory.
///
/// Call it from a process with one thread: until it returns, a child that another thread starts would inherit the socket as
/// well.
///
/// # Errors
/// The program cannot be started.
pub fn spawn(mut command: Command, program: &LaunchSpec, socket: BorrowedFd<'_>) -> io::Result<Child> {
    // dup(2) does not set close-on-exec.
    let inherited = rustix::io::dup(socket)?;
    let is_own = |name: &[u8]| !name.starts_with(b"LISTEN_");
    let variables = program.env.iter().filter(|(name, _)| is_own(name.0.as_bytes()));
    command
        .args(program.args.iter().map(|argument| &argument.0))
        .env_clear()
        .envs(variables.map(|(name, value)| (&name.0, &value.0)))
        .env("LISTEN_FDS", "1")
        .env("LISTEN_FDS_FIRST_FD", inherited.as_raw_fd().to_string());
    command.spawn()
}

#[cfg(test)]
mod tests {
    use super::spawn;
    use codexd_core::launch_spec::LaunchSpec;
    use std::io::Read;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixListener;
    use std::process::{Command, Stdio};

    fn shell(script: &str) -> LaunchSpec {
        LaunchSpec {
            executable: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            env: vec![("KEPT".into(), "a b".into()), ("LISTEN_PID".into(), "1".into())],
            cwd: "/".into(),
            embedded: false,
            socket: None,
            named: None,
            version: None,
            umask: None,
            memory_ceiling_mib: None,
        }
    }

    #[test]
    fn the_child_inherits_the_socket() {
        let folder = tempfile::tempdir().expect("a folder");
        let listener = UnixListener::bind(folder.path().join("s")).expect("bound");
        let script = r#"echo "$KEPT:$LISTEN_FDS:$LISTEN_PID"; readlink /proc/$$/fd/$LISTEN_FDS_FIRST_FD"#;
        let mut command = Command::new("/bin/sh");
        command.stdout(Stdio::piped());
        let mut child = spawn(command, &shell(script), listener.as_fd()).expect("started");
        let mut said = String::new();
        child.stdout.take().expect("piped").read_to_string(&mut said).expect("read");
        assert!(child.wait().expect("reaped").success());
        let mut lines = said.lines();
        assert_eq!(lines.next(), Some("a b:1:"));
        assert!(lines.next().is_some_and(|link| link.starts_with("socket:")), "{said}");
    }

    #[test]
    fn a_missing_program_is_reported_by_its_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let listener = UnixListener::bind(folder.path().join("s")).expect("bound");
        let error =
            spawn(Command::new("/nonexistent"), &shell(""), listener.as_fd()).expect_err("not started");
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    }
}
