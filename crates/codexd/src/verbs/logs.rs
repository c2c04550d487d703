//! `codexd logs`: what the app-server wrote.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use codexd_core::contract::{ErrorCode, Failure};
use codexd_host::logs;
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
        Stream::Stdout => ("stdout", context.home.stdout_log()),
        Stream::Stderr => ("stderr", context.home.stderr_log()),
    };
    let lines = logs::last_lines(&path, args.lines);
    if !args.follow {
        let reply = Reply { status: "ok", stream, path, lines };
        return output::finish(mode, Ok(reply));
    }
    match follow(&path, &lines) {
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

/// Prints what is there, then what comes, until interrupted. A log that gets shorter was rotated: what is left of it
/// after the cut has been shown.
fn follow(path: &Path, lines: &[String]) -> io::Result<()> {
    let mut file = File::open(path)?;
    let inotify = inotify::init(inotify::CreateFlags::CLOEXEC)?;
    inotify::add_watch(&inotify, path, inotify::WatchFlags::MODIFY)?;
    let mut stdout = io::stdout().lock();
    for line in lines {
        writeln!(stdout, "{line}")?;
    }
    let mut shown = file.seek(SeekFrom::End(0))?;
    loop {
        stdout.flush()?;
        wait(&inotify)?;
        let length = file.metadata()?.len();
        if length < shown {
            shown = 0;
        }
        file.seek(SeekFrom::Start(shown))?;
        let mut more = Vec::new();
        (&mut file).take(length - shown).read_to_end(&mut more)?;
        shown = length;
        stdout.write_all(&more)?;
    }
}

fn wait(inotify: &OwnedFd) -> io::Result<()> {
    let mut waits = [PollFd::new(inotify, PollFlags::IN)];
    rustix::event::poll(&mut waits, None)?;
    let mut buffer = [MaybeUninit::uninit(); 1024];
    inotify::Reader::new(inotify, &mut buffer).next()?;
    Ok(())
}
