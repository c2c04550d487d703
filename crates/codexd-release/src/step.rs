//! The steps of an install, and who is told about them.

/// What an install has done. A process that is killed after any of them leaves a home in which the next install reaches the same end.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Step {
    /// The install lock is held.
    Locked,
    /// What an interrupted install left is removed.
    Cleaned,
    /// The package is in the staging folder.
    Fetched,
    /// Its digest is that of the source.
    Verified,
    /// It is unpacked.
    Unpacked,
    /// Its files are where a release has them, and none is missing.
    Arranged,
    /// The Codex in it works.
    Proved,
    /// Its files are on the disk.
    Synced,
    /// The release has its final name.
    Published,
    /// `current` leads to it.
    Selected,
    /// The record names it.
    Recorded,
    /// Releases that are no longer needed are removed.
    Pruned,
}

impl Step {
    /// Every step, in order.
    pub const ALL: [Step; 12] = [
        Step::Locked,
        Step::Cleaned,
        Step::Fetched,
        Step::Verified,
        Step::Unpacked,
        Step::Arranged,
        Step::Proved,
        Step::Synced,
        Step::Published,
        Step::Selected,
        Step::Recorded,
        Step::Pruned,
    ];
}

/// A part of an install that takes time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Phase {
    /// Another installer holds the lock.
    Waiting,
    /// The source is asked which release it has.
    Resolving,
    /// The package is downloaded or copied.
    Fetching,
    /// Its digest is computed.
    Verifying,
    /// It is unpacked.
    Unpacking,
    /// Its files are written to the disk.
    Syncing,
}

impl Phase {
    /// A word for it, as the beginning of a line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Phase::Waiting => "waiting for another installer",
            Phase::Resolving => "looking up the release",
            Phase::Fetching => "fetching",
            Phase::Verifying => "verifying",
            Phase::Unpacking => "unpacking",
            Phase::Syncing => "writing to the disk",
        }
    }
}

/// How far a phase is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Progress<'a> {
    /// The phase.
    pub phase: Phase,
    /// What it works on; the holder of the lock.
    pub subject: &'a str,
    /// Bytes so far; none if they are not known.
    pub done: Option<u64>,
    /// All bytes; none if they are not known.
    pub total: Option<u64>,
}

/// Who follows an install.
pub trait Observer {
    /// A step is done. `false` stops the install as a kill would: nothing is cleaned up.
    fn reached(&mut self, _step: Step) -> bool {
        true
    }

    /// A phase goes on; called often.
    fn progress(&mut self, _progress: Progress<'_>) {}
}

/// Follows nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Observer for Silent {}
