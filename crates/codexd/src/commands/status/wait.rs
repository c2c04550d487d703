//! `codexd status --wait`: waits until the home reaches a state.
//!
//! The supervisor, the gateway and the commands replace or remove a file of the state folder with every change, and each
//! app-server creates its socket in the folder beside it. The wait watches both folders with inotify and observes again after a
//! change. An app-server that begins to answer changes no file, so the wait also observes again at an interval.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use codexd_core::contract::{ErrorCode, Failure, State};
use codexd_core::generations::Role;
use codexd_core::limits::STATUS_WAIT_RECHECK_MS;
use codexd_host::Home;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::inotify::{self, WatchFlags};
use serde::Serialize;

use super::Reply;
use crate::cli::WaitFor;
use crate::context::Context;
use crate::progress::ProgressReporter;

/// The outcome of the wait.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The state of `--wait`.
    condition: &'static str,
    /// Always true: otherwise the command fails.
    reached: bool,
    waited_ms: u64,
}

/// Waits until the state is reached, for `timeout_seconds` at most.
///
/// # Errors
/// `wait-timeout`.
pub fn run(context: &Context, wanted: WaitFor, timeout_seconds: u64) -> Result<Reply, Failure> {
    let began = Instant::now();
    let deadline = began.checked_add(Duration::from_secs(timeout_seconds));
    let mut progress = ProgressReporter::start();
    let mut changes = Changes::new(&context.home);
    loop {
        changes.watch(&context.home);
        let mut reply = super::observe_all(context);
        let waited = began.elapsed();
        if is_reached(wanted, &reply) {
            reply.wait = Some(Report {
                condition: name(wanted),
                reached: true,
                waited_ms: u64::try_from(waited.as_millis()).unwrap_or(u64::MAX),
            });
            return Ok(reply);
        }
        let state = reply.report.state;
        let left =
            deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_zero() {
            return Err(not_reached(wanted, &reply, timeout_seconds));
        }
        progress.report(|| format!("waiting for {} (now: {})", description(wanted), state_name(state)));
        changes.wait(left.min(Duration::from_millis(STATUS_WAIT_RECHECK_MS)));
    }
}

fn is_reached(wanted: WaitFor, reply: &Reply) -> bool {
    let report = &reply.report;
    match wanted {
        WaitFor::Running => matches!(report.state, State::Running | State::Unmanaged),
        WaitFor::Drained => {
            report.state != State::Draining
                && report.generations.iter().all(|generation| generation.role != Role::Outgoing)
        }
        WaitFor::Stopped => report.state == State::Stopped,
    }
}

fn name(wanted: WaitFor) -> &'static str {
    match wanted {
        WaitFor::Running => "running",
        WaitFor::Drained => "drained",
        WaitFor::Stopped => "stopped",
    }
}

fn description(wanted: WaitFor) -> &'static str {
    match wanted {
        WaitFor::Running => "an app-server that answers",
        WaitFor::Drained => "the old app-server to finish draining",
        WaitFor::Stopped => "the app-server to stop",
    }
}

/// The state as JSON has it.
fn state_name(state: State) -> String {
    serde_json::to_value(state).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default()
}

fn not_reached(wanted: WaitFor, reply: &Reply, timeout_seconds: u64) -> Failure {
    let report = &reply.report;
    let state = state_name(report.state);
    let outgoing = report.generations.iter().find(|generation| generation.role == Role::Outgoing);
    let detail = match (wanted, outgoing) {
        (WaitFor::Drained, Some(outgoing)) => format!(", app-server pid {} is still draining", outgoing.pid),
        _ => String::new(),
    };
    let message = format!(
        "state `{}` not reached within {timeout_seconds} s: {} is in state `{state}`{detail}",
        name(wanted),
        report.paths.codex_home.display()
    );
    Failure::new(ErrorCode::WaitTimeout, message)
        .hint("`codexd status` shows problems and recent events; wait longer with --timeout SECONDS")
        .with("condition", name(wanted))
        .with("reached", false)
        .with("state", state)
        .with("timeoutSeconds", timeout_seconds)
}

/// Changes in the folders of a home. Without inotify, whose instances are limited per user, the wait only uses the interval.
struct Changes {
    inotify: Option<OwnedFd>,
}

impl Changes {
    fn new(home: &Home) -> Self {
        let changes = Self { inotify: inotify::init(inotify::CreateFlags::CLOEXEC).ok() };
        changes.watch(home);
        changes
    }

    /// Watches the folders that exist. Does nothing for a folder that is watched already.
    fn watch(&self, home: &Home) {
        let Some(inotify) = &self.inotify else { return };
        let changes = WatchFlags::MOVED_TO | WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::ONLYDIR;
        for folder in [home.root().to_owned(), home.state_dir(), home.control_dir()] {
            // The creation of a missing folder is a change of the home.
            let _ = inotify::add_watch(inotify, folder, changes);
        }
    }

    /// Waits for a change, for `timeout` at most.
    fn wait(&mut self, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut waits: Vec<_> = self.inotify.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
            match rustix::event::poll(&mut waits, left.try_into().ok().as_ref()) {
                Ok(0) => return,
                Ok(_) => match self.inotify.as_ref().map(concerns_state) {
                    Some(Ok(true)) => return,
                    Some(Ok(false)) => {}
                    _ => self.inotify = None,
                },
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }
}

/// Reads the changes. Whether one of them is more than a temporary file or the cache of versions that `status` itself writes.
fn concerns_state(inotify: &OwnedFd) -> io::Result<bool> {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(inotify, &mut buffer);
    let mut found = false;
    loop {
        let event = reader.next()?;
        let name = event.file_name().map(|name| name.to_bytes()).unwrap_or_default();
        found |= !name.ends_with(b".tmp") && name != b"codex-binaries.json";
        if reader.is_buffer_empty() {
            return Ok(found);
        }
    }
}
