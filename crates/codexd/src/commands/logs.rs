//! `codexd logs`: the log of the app-server, the gateway or the supervisor, with its rotated file. In text, control characters
//! are escaped; `--raw` prints the bytes of the log.

mod list;

use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use codexd_core::contract::{ErrorCode, Failure};
use codexd_core::foreign_text::VisibleStream;
use codexd_host::Home;
use codexd_host::logs::{self, Follower};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::inotify;
use serde::Serialize;

use crate::cli::{LogProcess, LogsArgs, Stream};
use crate::context::Context;
use crate::failures;
use crate::output::{self, Answer, Mode};
use crate::style::Text;

/// The answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reply {
    status: &'static str,
    process: &'static str,
    /// `None` for other processes than the app-server: they have one log.
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<&'static str>,
    path: PathBuf,
    lines: Vec<String>,
    /// The lines without changes.
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
    if args.list {
        return output::finish(mode, Ok(list::run(&context.home)));
    }
    let log = match Log::chosen(&context.home, args) {
        Ok(log) => log,
        Err(failure) => return output::finish::<Reply>(mode, Err(failure)),
    };
    if !args.follow {
        let bytes = logs::last_lines(&log.path, args.lines);
        if bytes.is_empty() && mode == Mode::Text && !log.path.exists() {
            output::say(&log.absent());
        }
        if args.raw {
            return print_raw(&bytes);
        }
        let lines = String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect();
        let Log { process, stream, path } = log;
        return output::finish(mode, Ok(Reply { status: "ok", process, stream, path, lines, bytes }));
    }
    match follow(&log.path, args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            let failure = match error.kind() {
                io::ErrorKind::NotFound => Failure::new(ErrorCode::NotAnswering, log.absent())
                    .hint("`codexd logs --list` shows the logs that exist"),
                _ => failures::state("follow", &log.path, &error),
            };
            output::finish::<Reply>(Mode::Text, Err(failure))
        }
    }
}

/// A log of this home, whether it exists or not.
struct Log {
    process: &'static str,
    stream: Option<&'static str>,
    path: PathBuf,
}

impl Log {
    fn chosen(home: &Home, args: &LogsArgs) -> Result<Self, Failure> {
        let (process, stream) = match (args.process, args.stream) {
            (LogProcess::AppServer, stream) => ("app-server", Some(stream.unwrap_or(Stream::Stderr))),
            (LogProcess::Gateway, None) => ("gateway", None),
            (LogProcess::Supervisor, None) => ("supervisor", None),
            (LogProcess::Command, None) => ("command", None),
            (_, Some(_)) => {
                let message =
                    "--stream applies to --process app-server only: the other processes have one log";
                return Err(Failure::new(ErrorCode::BadArguments, message).hint("leave out --stream"));
            }
        };
        let known = Self::all(home).into_iter();
        let stream = stream.map(Stream::name);
        let mut matching = known.filter(|log| (log.process, log.stream) == (process, stream));
        matching
            .next()
            .ok_or_else(|| Failure::new(ErrorCode::Internal, format!("no log of {process} is known")))
    }

    fn all(home: &Home) -> [Self; 5] {
        let server = |stream: Stream, path| Self {
            process: "app-server",
            stream: Some(stream.name()),
            path: home.written_log(path),
        };
        [
            server(Stream::Stderr, home.stderr_log()),
            server(Stream::Stdout, home.stdout_log()),
            Self { process: "gateway", stream: None, path: home.gateway_log() },
            Self { process: "supervisor", stream: None, path: home.supervisor_log() },
            Self { process: "command", stream: None, path: home.commands_log() },
        ]
    }

    fn absent(&self) -> String {
        format!("no log of the {} yet: {} does not exist", self.process, self.path.display())
    }
}

fn print_raw(bytes: &[u8]) -> ExitCode {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => output::stdout_closed(&error),
    }
}

/// Standard output: the bytes of the log, or text without control characters.
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

/// Prints the last lines, then new lines until it is interrupted.
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
