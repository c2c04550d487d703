//! What everybody in the chaos shares: where to connect, what is known of it, who was killed, and the count.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use codexd_testkit::Wire;

/// Questions that are to be put to the end at the least: on a busy machine each takes seconds, and deaths get in its way.
const QUESTIONS_MIN: usize = 4;

/// xorshift64*: one seed, one story.
#[derive(Debug)]
pub(in crate::gateway) struct Rng(u64);

impl Rng {
    pub(in crate::gateway) fn new(seed: u64) -> Rng {
        // Seeds that follow each other are to tell different stories; none may be zero.
        Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(in crate::gateway) fn below(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % sides
    }

    /// Whether one of so many times came.
    pub(in crate::gateway) fn one_in(&mut self, sides: u64) -> bool {
        self.below(sides) == 0
    }

    /// A place in a list that is not empty.
    pub(in crate::gateway) fn place(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap_or_default()
    }
}

/// The deaths of one kind of process. What a death may do to somebody it may do from the moment before the signal until
/// everybody has been seen to be served again.
#[derive(Debug, Default)]
pub(super) struct Deaths {
    begun: AtomicUsize,
    over: AtomicUsize,
}

impl Deaths {
    /// One is about to be killed.
    pub(super) fn begin(&self) {
        self.begun.fetch_add(1, Ordering::SeqCst);
    }

    /// Nothing can come of it any more.
    pub(super) fn end(&self) {
        self.over.fetch_add(1, Ordering::SeqCst);
    }

    /// How many there were.
    pub(super) fn count(&self) -> usize {
        self.begun.load(Ordering::SeqCst)
    }

    /// Now, for [`Deaths::since`].
    pub(super) fn now(&self) -> usize {
        self.over.load(Ordering::SeqCst)
    }

    /// Whether one of these may have done something since then.
    pub(super) fn since(&self, then: usize) -> bool {
        self.count() > then
    }
}

/// A thread that everybody may read, and the one turn that it has had.
#[derive(Debug)]
pub(super) struct SharedThread {
    pub(super) thread: String,
    pub(super) turn: String,
}

/// How something went wrong for one client.
#[derive(Debug)]
pub(super) enum ClientError {
    /// A gateway died and took the connection with it.
    Disconnected,
    /// A promise was broken.
    BrokenPromise(String),
}

impl From<ClientError> for anyhow::Error {
    fn from(trouble: ClientError) -> anyhow::Error {
        anyhow::anyhow!("{trouble:?}")
    }
}

/// How much of what there was.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Requests and answers that clients sent.
    pub(super) messages: AtomicUsize,
    /// Requests that were answered as they should be.
    pub(super) answered: AtomicUsize,
    /// Requests that were answered with the death of the app-server.
    pub(super) refused: AtomicUsize,
    /// Clients that lost their connection to the death of a gateway.
    pub(super) cut: AtomicUsize,
    /// Clients that left with requests open, in one way or another.
    pub(super) left: AtomicUsize,
    /// Clients that ended only their sending half, and read on.
    pub(super) half_closed: AtomicUsize,
    /// Questions that were put to the end.
    pub(super) questions: AtomicUsize,
    /// Questions that a death got in the way of.
    pub(super) disturbed: AtomicUsize,
}

/// Counts one more.
pub(super) fn count(counter: &AtomicUsize) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// What all share.
#[derive(Debug)]
pub(super) struct Harness {
    pub(super) socket: PathBuf,
    pub(super) work: PathBuf,
    pub(super) shared_threads: Vec<SharedThread>,
    /// It is over after so many messages, and not before one of each kind was killed, and [`QUESTIONS_MIN`].
    pub(super) limit: usize,
    pub(super) counts: Counts,
    pub(super) servers: Deaths,
    pub(super) gateways: Deaths,
    /// The number of the question that was asked last.
    pub(super) question: AtomicU64,
    pub(super) failed: AtomicBool,
}

impl Harness {
    pub(super) fn sent(&self) -> usize {
        self.counts.messages.load(Ordering::Relaxed)
    }

    pub(super) fn is_over(&self) -> bool {
        let enough_asked = self.counts.questions.load(Ordering::Relaxed) >= QUESTIONS_MIN;
        let enough_killed = self.servers.count() > 0 && self.gateways.count() > 0;
        self.failed.load(Ordering::Relaxed) || (self.sent() >= self.limit && enough_asked && enough_killed)
    }

    /// Connects and introduces itself; none may be refused, and one that was let in may only lose its gateway.
    pub(super) fn connect(&self) -> Result<(Wire, usize), ClientError> {
        let came = self.gateways.now();
        let wire = Wire::connect(&self.socket).map_err(|error| self.lost(&error, came))?;
        Ok((wire, came))
    }

    /// What it means that a connection failed that was made at a moment of [`Harness::gateways`].
    pub(super) fn lost(&self, error: &anyhow::Error, came: usize) -> ClientError {
        if Wire::is_timeout(error) {
            ClientError::BrokenPromise(format!("something was lost without an error: {error:#}"))
        } else if error.to_string().starts_with("failed to connect") {
            ClientError::BrokenPromise(format!("a client was refused: {error:#}"))
        } else if self.gateways.since(came) {
            count(&self.counts.cut);
            ClientError::Disconnected
        } else {
            ClientError::BrokenPromise(format!("cut although no gateway died: {error:#}"))
        }
    }
}
