//! `codexd logs`: what the app-server wrote.

use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use codexd_core::contract::{ErrorCode, Failure};
use codexd_host::logs::{self, Follower};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::inotify;
use serde::Serialize;

use crate::cli::{LogsArgs, Stream};
use crate::context::Context;
use crate::failures;
use crate::output::{self, Answer, Mode};

/// The answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reply {
    status: &'static str,
    stream: &'static str,
    path: PathBuf,
    lines: Vec<String>,
}

impl Answer for Reply {
    fn text(&self) -> String {
        self.lines.join("\n")
    }
}

/// Runs the verb.
pub fn run(context: &Context, mode: Mode, args: &LogsArgs) -> ExitCode {
    let (stream, path) = match args.stream {
        Stream::Stdout => ("stdout", context.home.written_log(context.home.stdout_log())),
        Stream::Stderr => ("stderr", context.home.written_log(context.home.stderr_log())),
    };
    if !args.follow {
        let lines = logs::last_lines(&path, args.lines);
        let reply = Reply { status: "ok", stream, path, lines };
        return output::finish(mode, Ok(reply));
    }
    match follow(&path, args.lines) {
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

/// Prints the last lines, then what comes, until interrupted.
fn follow(path: &Path, count: usize) -> io::Result<()> {
    let inotify = inotify::init(inotify::CreateFlags::CLOEXEC)?;
    inotify::add_watch(&inotify, path, inotify::WatchFlags::MODIFY)?;
    let mut follower = Follower::open(path)?;
    let mut stdout = io::stdout().lock();
    stdout.write_all(&follower.last_lines(count))?;
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
