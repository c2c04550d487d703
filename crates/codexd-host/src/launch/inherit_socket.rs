//! Starting a program with a listening socket in its hands, by the `LISTEN_FDS` protocol (sd_listen_fds(3)).
//!
//! The socket is descriptor 3, and `LISTEN_PID` must name the very process: which number that is, is known only after the
//! fork. So the child calls execve(2) itself, with everything laid out before the fork but for those digits.

use std::ffi::{CString, OsStr, c_char};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use codexd_core::launch_spec::LaunchSpec;

/// The first descriptor of the protocol.
const FIRST: RawFd = 3;
const LISTEN_PID: &[u8] = b"LISTEN_PID=";
/// Enough for the digits of any process number and the closing zero.
const DIGITS_MAX: usize = 11;

/// Starts `program` as `command` has prepared it (its streams, its group, its folder; arguments and environment of `command`
/// itself do not count), with `socket` in its hands under the name `name`.
///
/// # Errors
/// The system's; `InvalidInput` if something that is to be handed over holds a zero byte.
pub fn spawn(
    mut command: Command,
    program: &LaunchSpec,
    socket: BorrowedFd<'_>,
    name: &str,
) -> io::Result<Child> {
    let mut image = Image::new(program, name)?;
    // From here on descriptor 3 is taken, so that the pipe by which the child tells that it failed is another one.
    let _third = rustix::io::fcntl_dupfd_cloexec(socket, FIRST)?;
    let socket = socket.as_raw_fd();
    // SAFETY: after the fork the closure calls dup2, fcntl, getpid and execve, which are async-signal-safe, and writes into
    // memory that it owns and that was allocated before; it allocates nothing and takes no lock.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(move || Err(image.become_it(socket)));
    }
    command.spawn()
}

/// What execve takes, laid out.
struct Image {
    path: CString,
    args: Vec<CString>,
    env: Vec<CString>,
    /// `LISTEN_PID=`, the digits, zeros.
    listen_pid: Vec<u8>,
    /// Room for the pointers to the above and the closing null; filled in the child.
    argv: Vec<*const c_char>,
    envp: Vec<*const c_char>,
}

// SAFETY: the pointers are null until they are filled in, which happens in the child, that has one thread.
#[allow(unsafe_code)]
unsafe impl Send for Image {}
// SAFETY: as above; and nothing looks at them through a shared reference.
#[allow(unsafe_code)]
unsafe impl Sync for Image {}

impl Image {
    fn new(program: &LaunchSpec, name: &str) -> io::Result<Self> {
        let text = |text: &OsStr| Ok::<_, io::Error>(CString::new(text.as_bytes())?);
        let path = text(program.executable.as_os_str())?;
        let mut args = vec![path.clone()];
        for argument in &program.args {
            args.push(text(&argument.0)?);
        }
        let mut env = Vec::new();
        for (key, value) in program.env.iter().filter(|(key, _)| !key.0.as_bytes().starts_with(b"LISTEN_")) {
            env.push(CString::new([key.0.as_bytes(), b"=", value.0.as_bytes()].concat())?);
        }
        env.push(CString::new("LISTEN_FDS=1")?);
        env.push(CString::new(format!("LISTEN_FDNAMES={name}"))?);
        let mut listen_pid = LISTEN_PID.to_vec();
        listen_pid.resize(LISTEN_PID.len() + DIGITS_MAX, 0);
        let argv = vec![std::ptr::null(); args.len() + 1];
        let envp = vec![std::ptr::null(); env.len() + 2];
        Ok(Self { path, args, env, listen_pid, argv, envp })
    }

    /// Answers only if it fails.
    fn become_it(&mut self, socket: RawFd) -> io::Error {
        write_digits(&mut self.listen_pid[LISTEN_PID.len()..], std::process::id());
        for (slot, text) in self.argv.iter_mut().zip(&self.args) {
            *slot = text.as_ptr();
        }
        for (slot, text) in self.envp.iter_mut().zip(&self.env) {
            *slot = text.as_ptr();
        }
        self.envp[self.env.len()] = self.listen_pid.as_ptr().cast();
        // SAFETY: the descriptors are open; dup2 takes the mark close-on-exec away, and where the socket is number 3 already
        // fcntl does. The path, both lists and what they point to are closed by zeros and live until execve is done.
        #[allow(unsafe_code)]
        unsafe {
            let moved = if socket == FIRST {
                libc::fcntl(FIRST, libc::F_SETFD, 0)
            } else {
                libc::dup2(socket, FIRST)
            };
            if moved != -1 {
                libc::execve(self.path.as_ptr(), self.argv.as_ptr(), self.envp.as_ptr());
            }
        }
        io::Error::last_os_error()
    }
}

/// The digits of `number` at the front, zeros behind them. Allocates nothing.
fn write_digits(room: &mut [u8], number: u32) {
    room.fill(0);
    let mut digits = [0u8; DIGITS_MAX];
    let (mut rest, mut count) = (number, 0);
    while rest > 0 || count == 0 {
        digits[count] = b'0' + u8::try_from(rest % 10).unwrap_or_default();
        (rest, count) = (rest / 10, count + 1);
    }
    for (slot, digit) in room.iter_mut().zip(digits[..count].iter().rev()) {
        *slot = *digit;
    }
}

#[cfg(test)]
mod tests {
    use super::{spawn, write_digits};
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
        }
    }

    #[test]
    fn digits_are_written_as_people_write_them() {
        for number in [0, 7, 10, 4_194_304, u32::MAX] {
            let mut room = [1u8; 11];
            write_digits(&mut room, number);
            let text: Vec<u8> = room.into_iter().take_while(|&byte| byte != 0).collect();
            assert_eq!(String::from_utf8(text).expect("digits"), number.to_string());
        }
    }

    #[test]
    fn the_child_has_the_socket_and_is_told_so_by_its_own_number() {
        let folder = tempfile::tempdir().expect("a folder");
        let listener = UnixListener::bind(folder.path().join("s")).expect("bound");
        let script =
            r#"echo "$KEPT:$LISTEN_FDS:$LISTEN_FDNAMES:$((LISTEN_PID - $$))"; readlink /proc/$$/fd/3"#;
        let mut command = Command::new("/bin/false");
        command.stdout(Stdio::piped());
        let mut child = spawn(command, &shell(script), listener.as_fd(), "control").expect("started");
        let mut said = String::new();
        child.stdout.take().expect("piped").read_to_string(&mut said).expect("read");
        assert!(child.wait().expect("reaped").success());
        let mut lines = said.lines();
        assert_eq!(lines.next(), Some("a b:1:control:0"));
        assert!(lines.next().is_some_and(|link| link.starts_with("socket:")), "{said}");
    }

    #[test]
    fn a_program_that_is_not_there_is_told_by_its_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let listener = UnixListener::bind(folder.path().join("s")).expect("bound");
        let program = LaunchSpec { executable: "/nonexistent".into(), ..shell("") };
        let error =
            spawn(Command::new("/bin/true"), &program, listener.as_fd(), "control").expect_err("none");
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    }
}
