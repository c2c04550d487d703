//! `codexd logs`: what the app-server wrote. As text, control characters are printed as escapes; `--raw` prints the bytes of the log.

use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use codexd_core::contract::{ErrorCode, Failure};
use codexd_core::foreign_text::VisibleStream;
use codexd_host::logs::{self, Follower};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::inotify;
use serde::Serialize;

use crate::cli::{LogsArgs, Stream};
use crate::context::Context;
use crate::failures;
use crate::output::{self, Answer, Mode};
use crate::style::Text;

/// The answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reply {
    status: &'static str,
    stream: &'static str,
    path: PathBuf,
    lines: Vec<String>,
    /// The lines as they are in the log.
    #[serde(skip)]
    bytes: Vec<u8>,
}

impl Answer for Reply {
    fn text(&self) -> Text {
        Text::of_log(&self.bytes)
    }
}

/// Runs the command.
pub fn run(context: &Context, mode: Mode, args: &LogsArgs) -> ExitCode {
    let (stream, path) = match args.stream {
        Stream::Stdout => ("stdout", context.home.written_log(context.home.stdout_log())),
        Stream::Stderr => ("stderr", context.home.written_log(context.home.stderr_log())),
    };
    if !args.follow {
        let bytes = logs::last_lines(&path, args.lines);
        if args.raw {
            return print_raw(&bytes);
        }
        let lines = String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect();
        let reply = Reply { status: "ok", stream, path, lines, bytes };
        return output::finish(mode, Ok(reply));
    }
    match follow(&path, args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            let failure = match error.kind() {
                io::ErrorKind::NotFound => Failure::new(
                    ErrorCode::NotAnswering,
                    format!("no app-server has written to {} yet", path.display()),
                ),
                _ => failures::state("follow", &path, &error),
            };
            output::finish::<Reply>(Mode::Text, Err(failure))
        }
    }
}

fn print_raw(bytes: &[u8]) -> ExitCode {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => output::stdout_closed(&error),
    }
}

/// Standard output, which gets the bytes of the log, or text that cannot control a terminal.
struct Sink {
    stdout: io::StdoutLock<'static>,
    visible: Option<VisibleStream>,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.visible {
            None => self.stdout.write_all(bytes)?,
            Some(visible) => self.stdout.write_all(visible.push(bytes).as_bytes())?,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stdout.flush()
    }
}

/// Prints the last lines, then what comes, until interrupted.
fn follow(path: &Path, args: &LogsArgs) -> io::Result<()> {
    let inotify = inotify::init(inotify::CreateFlags::CLOEXEC)?;
    inotify::add_watch(&inotify, path, inotify::WatchFlags::MODIFY)?;
    let mut follower = Follower::open(path)?;
    let visible = (!args.raw).then(VisibleStream::default);
    let mut stdout = Sink { stdout: io::stdout().lock(), visible };
    stdout.write_all(&follower.last_lines(args.lines))?;
    loop {
        follower.copy_new(&mut stdout)?;
        stdout.flush()?;
        wait(&inotify)?;
    }
}

fn wait(inotify: &OwnedFd) -> io::Result<()> {
    let mut waits = [PollFd::new(inotify, PollFlags::IN)];
    rustix::event::poll(&mut waits, None)?;
    let mut buffer = [MaybeUninit::uninit(); 1024];
    inotify::Reader::new(inotify, &mut buffer).next()?;
    Ok(())
}
