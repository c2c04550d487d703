//! `codexd proxy`: connects stdin and stdout to the control socket, byte by byte. With `--lines`, each line is a message.
//!
//! stdout carries only what the server sends. Errors are on stderr and in the exit code.
//!
//! Like `codex app-server proxy` (0.169.0), it half-closes the connection at the end of stdin and copies to stdout until the
//! server closes the connection, and it keeps sending stdin to a server that has closed only its half. Unlike that proxy, it
//! exits when the server has closed the connection, although stdin is open.

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
use crate::limits::PROXY_BUFFER_BYTES;
use crate::output::{self, Mode};

/// Runs until one side closes.
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

/// The server does not listen, or has closed the connection.
fn gone(message: String, socket: &Path) -> Failure {
    Failure::new(ErrorCode::NotAnswering, message).with("socketPath", socket.to_string_lossy().into_owned())
}

/// Writing to stdout failed.
fn unwritable(error: &io::Error) -> Failure {
    let message = format!("failed to write the server's messages to standard output: {error}");
    match error.kind() {
        ErrorKind::StorageFull => Failure::new(ErrorCode::DiskFull, message).hint(failures::MAKE_ROOM),
        _ => Failure::new(ErrorCode::StdoutClosed, message),
    }
}

fn tunnel(stream: UnixStream, socket: &Path) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::new(ErrorCode::Internal, format!("failed to start: {error}"));
    // Unbuffered: each read is written at once.
    let mut stdin = File::from(io::stdin().as_fd().try_clone_to_owned().map_err(failed)?);
    let mut stdout = File::from(io::stdout().as_fd().try_clone_to_owned().map_err(failed)?);
    let mut sending = stream.try_clone().map_err(failed)?;
    thread::spawn(move || {
        // The server sees the end of stdin, and may still send. If the server is gone, the other copy fails.
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

/// The end of a copy that failed.
enum Broken {
    Source(io::Error),
    Sink(io::Error),
}

/// Copies until the end. Not `io::copy`, which splices: with splice into a pipe, a sleeping reader was not woken (Linux 6.18).
fn pass_on(source: &mut impl Read, sink: &mut impl Write) -> Result<(), Broken> {
    let mut buffer = vec![0; PROXY_BUFFER_BYTES];
    loop {
        match source.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => sink.write_all(&buffer[..count]).map_err(Broken::Sink)?,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(Broken::Source(error)),
        }
    }
}

/// Waits until both directions of the connection are closed, which the kernel reports as a hang-up.
fn await_end_of_both(stream: &UnixStream) {
    let mut hang_up = [PollFd::new(stream, PollFlags::empty())];
    while matches!(poll(&mut hang_up, None), Ok(0) | Err(Errno::INTR)) {}
}
