//! The harness that all chaos clients share: the socket, the shared threads, the kills so far, and the counters.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use codexd_testkit::Wire;

/// The fewest approvals that must be completed: on a busy machine each takes seconds, and kills disturb them.
const QUESTIONS_MIN: usize = 4;

/// xorshift64*: one seed gives one sequence.
#[derive(Debug)]
pub(in crate::gateway) struct Rng(u64);

impl Rng {
    pub(in crate::gateway) fn new(seed: u64) -> Rng {
        // Consecutive seeds must give different sequences, and the state must not be zero.
        Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(in crate::gateway) fn below(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % sides
    }

    /// True once in `sides` calls on average.
    pub(in crate::gateway) fn one_in(&mut self, sides: u64) -> bool {
        self.below(sides) == 0
    }

    /// A random index into a list that is not empty.
    pub(in crate::gateway) fn place(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap_or_default()
    }
}

/// The kills of one kind of process. A kill may affect a client from the moment before the signal until
/// every client has been seen to be served again.
#[derive(Debug, Default)]
pub(super) struct Deaths {
    begun: AtomicUsize,
    over: AtomicUsize,
}

impl Deaths {
    /// A process is about to be killed.
    pub(super) fn begin(&self) {
        self.begun.fetch_add(1, Ordering::SeqCst);
    }

    /// The kill can no longer affect a client.
    pub(super) fn end(&self) {
        self.over.fetch_add(1, Ordering::SeqCst);
    }

    /// The number of kills so far.
    pub(super) fn count(&self) -> usize {
        self.begun.load(Ordering::SeqCst)
    }

    /// The kills that are over: the argument of [`Deaths::since`].
    pub(super) fn now(&self) -> usize {
        self.over.load(Ordering::SeqCst)
    }

    /// Whether a kill may have affected a client since then.
    pub(super) fn since(&self, then: usize) -> bool {
        self.count() > then
    }
}

/// A thread that all clients read, and its one turn.
#[derive(Debug)]
pub(super) struct SharedThread {
    pub(super) thread: String,
    pub(super) turn: String,
}

/// Why an exchange of one client failed.
#[derive(Debug)]
pub(super) enum ClientError {
    /// A gateway was killed, which closed the connection.
    Disconnected,
    /// A promise was broken.
    BrokenPromise(String),
}

impl From<ClientError> for anyhow::Error {
    fn from(trouble: ClientError) -> anyhow::Error {
        anyhow::anyhow!("{trouble:?}")
    }
}

/// Counters.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Requests and answers that clients sent.
    pub(super) messages: AtomicUsize,
    /// Requests with the right answer.
    pub(super) answered: AtomicUsize,
    /// Requests that were answered with `appServerRestarted`.
    pub(super) refused: AtomicUsize,
    /// Clients that lost their connection when a gateway was killed.
    pub(super) cut: AtomicUsize,
    /// Clients that disconnected with open requests.
    pub(super) left: AtomicUsize,
    /// Clients that closed only their sending half and read on.
    pub(super) half_closed: AtomicUsize,
    /// Approvals that were completed.
    pub(super) questions: AtomicUsize,
    /// Approvals that a kill disturbed.
    pub(super) disturbed: AtomicUsize,
}

/// Increments a counter.
pub(super) fn count(counter: &AtomicUsize) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// The state that all clients share.
#[derive(Debug)]
pub(super) struct Harness {
    pub(super) socket: PathBuf,
    pub(super) work: PathBuf,
    pub(super) shared_threads: Vec<SharedThread>,
    /// The run ends after this many messages, at least one kill of each kind, and [`QUESTIONS_MIN`] approvals.
    pub(super) limit: usize,
    pub(super) counts: Counts,
    pub(super) servers: Deaths,
    pub(super) gateways: Deaths,
    /// The number of the latest approval.
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

    /// Connects and initializes. A client must not be refused; a connected client may only lose its gateway.
    pub(super) fn connect(&self) -> Result<(Wire, usize), ClientError> {
        let came = self.gateways.now();
        let wire = Wire::connect(&self.socket).map_err(|error| self.lost(&error, came))?;
        Ok((wire, came))
    }

    /// Classifies the failure of a connection. `came`: [`Deaths::now`] of [`Harness::gateways`] when it was opened.
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
