//! `codexd launch`: the process of a unit of systemd, until it becomes the program that the unit is to run.
//!
//! It asks the supervisor for the program and replaces itself with it. The connection to the supervisor is closed by exec(2), and by nothing
//! else: that is how the supervisor learns that the program runs.

use std::io::{self, ErrorKind, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use codexd_core::limits::LAUNCH_TIMEOUT_MS;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::Mode;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use super::framing::{self, Message, NumberedOrder, ReplyStatus};
use super::launch_plan::LaunchPlan;
use super::observe::connect;
use super::wire::{LaunchedUnit, Order, Report};
use crate::home::Home;
use crate::{logs, process_context};

/// Why this process did not become the program.
#[derive(Debug, thiserror::Error)]
pub enum NotLaunched {
    /// The supervisor has nothing to run for this unit: another process has asked systemd to start it.
    #[error("nothing to run: {0}")]
    Refused(String),
    /// The program cannot be run. The supervisor was told.
    #[error("failed to run the program: {0}")]
    Failed(#[from] io::Error),
}

/// Becomes what the supervisor of `home` wants the unit to run.
pub fn launch(home: &Home, unit: LaunchedUnit) -> NotLaunched {
    let mut supervisor = match connect(home) {
        Ok(supervisor) => supervisor,
        Err(error) => return NotLaunched::Refused(format!("no supervisor answers: {error}")),
    };
    let (plan, socket) = match ask(&mut supervisor, unit) {
        Ok(plan) => plan,
        Err(not_launched) => return not_launched,
    };
    let error = become_program(&supervisor, &plan, socket);
    let order = Order::LaunchFailed { message: error.to_string(), errno: error.raw_os_error() };
    let told = framing::line(&order).map_err(io::Error::from).and_then(|line| supervisor.write_all(&line));
    // One that is gone has nothing to wait for.
    drop(told);
    NotLaunched::Failed(error)
}

/// The plan, and the listening socket that comes along with that of a gateway.
fn ask(
    supervisor: &mut UnixStream,
    unit: LaunchedUnit,
) -> Result<(LaunchPlan, Option<OwnedFd>), NotLaunched> {
    let timeout = Duration::from_millis(LAUNCH_TIMEOUT_MS);
    supervisor.set_read_timeout(Some(timeout))?;
    supervisor.set_write_timeout(Some(timeout))?;
    let order = NumberedOrder { id: 1, order: &Order::Launch { unit } };
    supervisor.write_all(&framing::line(&order).map_err(io::Error::from)?)?;
    let (mut unread, mut files) = (Vec::new(), Vec::new());
    loop {
        while let Some(end) = unread.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = unread.drain(..=end).collect();
            match framing::read_message(&line) {
                Some(Message::Report(Report::LaunchPlan)) => {
                    let mut files = std::mem::take(&mut files).into_iter();
                    let plan = files.next().ok_or(ErrorKind::InvalidData).map_err(io::Error::from)?;
                    return Ok((LaunchPlan::from_memory_file(plan)?, files.next()));
                }
                Some(Message::Reply(reply)) if reply.re == 1 => {
                    if let ReplyStatus::Refused(refusal) = reply.status {
                        return Err(NotLaunched::Refused(refusal.message));
                    }
                }
                _ => {}
            }
        }
        match receive(supervisor, &mut unread, &mut files) {
            Ok(0) => return Err(NotLaunched::Refused("the supervisor has left".to_owned())),
            Ok(_) => {}
            Err(error) => {
                return Err(NotLaunched::Refused(format!("the supervisor does not answer: {error}")));
            }
        }
    }
}

fn receive(stream: &UnixStream, unread: &mut Vec<u8>, files: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut bytes = [0u8; 8192];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut along = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(&mut bytes)];
    let received = rustix::net::recvmsg(stream, &mut slices, &mut along, RecvFlags::CMSG_CLOEXEC)?.bytes;
    for message in along.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            files.extend(descriptors);
        }
    }
    unread.extend_from_slice(&bytes[..received]);
    Ok(received)
}

/// Returns only if it fails.
fn become_program(supervisor: &UnixStream, plan: &LaunchPlan, socket: Option<OwnedFd>) -> io::Error {
    let LaunchPlan { program, stdout, stderr, umask } = plan;
    // What the kernel refuses stays as systemd has set it.
    process_context::normalize();
    let prepared = || {
        let (stdout, stderr) = (logs::open_for_append(stdout)?, logs::open_for_append(stderr)?);
        if let Some(umask) = umask {
            rustix::process::umask(Mode::from_raw_mode(*umask));
        }
        // A supervisor that was killed meanwhile would not know this process.
        if has_left(supervisor) { Err(ErrorKind::NotConnected.into()) } else { Ok((stdout, stderr)) }
    };
    let (stdout, stderr) = match prepared() {
        Ok(logs) => logs,
        Err(error) => return error,
    };
    let is_own = |name: &[u8]| !name.starts_with(b"LISTEN_");
    let variables = program.env.iter().filter(|(name, _)| is_own(name.0.as_bytes()));
    let mut command = Command::new(&program.executable);
    command
        .args(program.args.iter().map(|argument| &argument.0))
        .env_clear()
        .envs(variables.map(|(name, value)| (&name.0, &value.0)))
        .current_dir(&program.cwd)
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(stderr);
    let Some(socket) = socket else { return command.exec() };
    // dup(2) does not set close-on-exec.
    match rustix::io::dup(&socket) {
        Ok(inherited) => command
            .env("LISTEN_FDS", "1")
            .env("LISTEN_FDS_FIRST_FD", inherited.as_raw_fd().to_string())
            .exec(),
        Err(error) => error.into(),
    }
}

fn has_left(supervisor: &UnixStream) -> bool {
    let mut waits = [PollFd::new(supervisor, PollFlags::IN)];
    let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(rustix::event::poll(&mut waits, Some(&now)), Ok(1..))
        && waits[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
}
