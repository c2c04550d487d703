//! `codexd proxy`: stdin and stdout are the control socket, byte by byte. With `--lines`, a line is a message.
//!
//! stdout carries what the server says and nothing else. What goes wrong is said on stderr and by the exit code.
//!
//! As `codex app-server proxy` (0.169.0): at the end of stdin the server is told so by a half-close, and what it still says
//! is passed on until it hangs up. A server that only says no more is still told the rest of stdin. Where that one waits for the
//! end of stdin although the server is gone, this one ends.

mod lines;

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;

use codexd_core::contract::{ErrorCode, Failure};
use codexd_core::lifecycle::Refusal;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use crate::cli::{Global, ProxyArgs};
use crate::commands::lifecycle::Reply;
use crate::context::Context;
use crate::failures;
use crate::output::{self, Mode};

/// How much is passed on at once.
const BUFFER_BYTES: usize = 64 * 1024;

/// Runs until either side ends.
pub fn run(global: Global, args: &ProxyArgs) -> ExitCode {
    let outcome = socket(global, args).and_then(|socket| {
        let stream = connect(&socket)?;
        if args.lines { lines::run(stream, &socket) } else { tunnel(stream, &socket) }
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => output::finish::<Reply>(Mode::Text, Err(failure)),
    }
}

fn socket(global: Global, args: &ProxyArgs) -> Result<PathBuf, Failure> {
    match &args.sock {
        Some(socket) => Ok(socket.clone()),
        None => Ok(Context::new(global)?.home.control_socket()),
    }
}

fn connect(socket: &Path) -> Result<UnixStream, Failure> {
    let stream = codexd_protocol::unix::connect(socket).map_err(|error| {
        let message = format!("failed to connect to {}: {error}", socket.display());
        gone(message, socket).hint("start an app-server with `codexd start`")
    })?;
    match codexd_protocol::unix::peer(&stream) {
        Ok(peer) if !peer.is_trusted() => Err(failures::refusal(Refusal::OtherUser(peer.uid), socket)),
        _ => Ok(stream),
    }
}

/// Whoever listened does not, or not any more.
fn gone(message: String, socket: &Path) -> Failure {
    Failure::new(ErrorCode::NotAnswering, message).with("socketPath", socket.to_string_lossy().into_owned())
}

/// stdout does not take what the server said.
fn unwritable(error: &io::Error) -> Failure {
    let message = format!("failed to write the server's messages to standard output: {error}");
    match error.kind() {
        ErrorKind::StorageFull => Failure::new(ErrorCode::DiskFull, message).hint(failures::MAKE_ROOM),
        _ => Failure::new(ErrorCode::StdoutClosed, message),
    }
}

fn tunnel(stream: UnixStream, socket: &Path) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::new(ErrorCode::Internal, format!("failed to start: {error}"));
    // The descriptors themselves: nothing of what passes waits in a buffer.
    let mut stdin = File::from(io::stdin().as_fd().try_clone_to_owned().map_err(failed)?);
    let mut stdout = File::from(io::stdout().as_fd().try_clone_to_owned().map_err(failed)?);
    let mut sending = stream.try_clone().map_err(failed)?;
    thread::spawn(move || {
        // However stdin ends: the server sees the end, and says what it still has to say. If it is gone, that is seen below.
        let _ = pass_on(&mut stdin, &mut sending);
        let _ = sending.shutdown(Shutdown::Write);
    });
    let mut receiving = stream;
    match pass_on(&mut receiving, &mut stdout) {
        Ok(()) => {
            await_end_of_both(&receiving);
            Ok(())
        }
        Err(Broken::Source(error)) => {
            Err(gone(format!("connection to {} lost: {error}", socket.display()), socket))
        }
        Err(Broken::Sink(error)) => Err(unwritable(&error)),
    }
}

/// Which end of a copy failed.
enum Broken {
    Source(io::Error),
    Sink(io::Error),
}

/// Passes everything on as it comes. Not `io::copy`: it splices, and of what is spliced into a pipe a reader that sleeps was
/// seen not to be told (Linux 6.18: the bytes were in the pipe and the reader slept on).
fn pass_on(source: &mut impl Read, sink: &mut impl Write) -> Result<(), Broken> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match source.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => sink.write_all(&buffer[..count]).map_err(Broken::Sink)?,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(Broken::Source(error)),
        }
    }
}

/// Waits until the server has hung up, or stdin has ended, too. The kernel reports a hang-up when nothing can pass either way
/// any more.
fn await_end_of_both(stream: &UnixStream) {
    let mut hang_up = [PollFd::new(stream, PollFlags::empty())];
    while matches!(poll(&mut hang_up, None), Ok(0) | Err(Errno::INTR)) {}
}
