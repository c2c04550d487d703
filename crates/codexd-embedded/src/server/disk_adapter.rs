//! The disk side of the event loop: reads what a request needs, carries out what the model decided.
//!
//! A failed write is reported on stderr and the turn continues. As upstream, a full disk does not stop a conversation.

use std::io;
use std::path::Path;

use crate::ExitReason;
use crate::ids::{ConnectionId, ThreadId};
use crate::model::{Action, Found, Lookup, Wants};
use crate::store::Store;
use crate::store::locks::WriterLocks;
use crate::wire::Frame;

/// The files and the locks of the home.
#[derive(Debug)]
pub(crate) struct DiskAdapter {
    store: Store,
    locks: WriterLocks,
}

/// What remains for the event loop to do.
#[derive(Debug)]
pub(crate) enum Done {
    Nothing,
    Send { to: Vec<ConnectionId>, frame: Frame },
    Leave(ExitReason),
}

impl DiskAdapter {
    pub(crate) fn new(codex_home: &Path) -> Self {
        Self { store: Store::new(codex_home.to_owned()), locks: WriterLocks::new(codex_home) }
    }

    /// Reads what the model asks for. A lock that was taken is released by [`DiskAdapter::release`], unless the thread
    /// is loaded by then.
    pub(crate) fn look_up(&mut self, wants: Option<Wants>) -> Lookup {
        match wants {
            None | Some(Wants::Nothing) => Lookup::Nothing,
            Some(Wants::Threads { archived }) => Lookup::Threads(self.store.all(archived)),
            Some(Wants::Memory) => Lookup::Memory { resident_bytes: resident_bytes() },
            Some(Wants::Thread { thread, lock }) => {
                let mut found = self.find(thread);
                if lock && found.transcript.is_some() {
                    found.other_writer = !self.locks.take(thread).unwrap_or_else(|error| {
                        log_failure(&format!("lock thread {thread}"), &error);
                        false
                    });
                    if !found.other_writer {
                        // The previous writer may have written until this process took the lock.
                        found = self.find(thread);
                    }
                }
                Lookup::Thread(found)
            }
        }
    }

    /// Carries out the actions that concern the disk.
    pub(crate) fn carry_out(&mut self, action: Action) -> Done {
        let (what, outcome) = match action {
            Action::Send { to, frame } => return Done::Send { to, frame },
            Action::Exit(reason) => return Done::Leave(reason),
            #[expect(clippy::disallowed_methods, reason = "a test asks the built-in server to crash")]
            Action::Abort => std::process::abort(),
            Action::Append { thread, record } => ("write", self.store.append(thread, &record)),
            Action::Archive(thread) => ("archive", self.store.relocate(thread, true)),
            Action::Unarchive(thread) => ("unarchive", self.store.relocate(thread, false)),
            Action::Claim(thread) => ("lock", self.locks.take(thread).map(drop)),
        };
        if let Err(error) = outcome {
            log_failure(&format!("{what} a thread"), &error);
        }
        Done::Nothing
    }

    /// Releases the locks of threads that are no longer loaded.
    pub(crate) fn release(&mut self, is_loaded: impl Fn(ThreadId) -> bool) {
        match self.locks.release(is_loaded) {
            Ok(threads) => threads.into_iter().for_each(|thread| self.store.close(thread)),
            Err(error) => log_failure("unlock a thread", &error),
        }
    }

    fn find(&mut self, thread: ThreadId) -> Found {
        match self.store.find(thread) {
            Some((transcript, archived)) => {
                Found { transcript: Some(transcript), archived, other_writer: false }
            }
            None => Found::default(),
        }
    }
}

fn log_failure(what: &str, error: &io::Error) {
    eprintln!("failed to {what}: {error}");
}

/// The resident memory of this process, in bytes; 0 if /proc is not readable.
fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let resident = pages.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
    resident.unwrap_or_default() * rustix::param::page_size() as u64
}
