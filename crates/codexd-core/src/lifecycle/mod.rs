//! The next step of a command, from what it wants and what is there.
//!
//! A command observes, asks [`decide`], acts, and observes again until the answer is [`Step::Finish`] or [`Step::Refuse`].
//! Nothing is remembered between two commands but what the machine itself shows, so a command that was killed at any point and
//! is run again reaches the same end.

#[cfg(test)]
mod tests;

use crate::contract::LifecycleStatus;
use crate::identity::Pid;
use crate::record::RecordDefect;
use crate::supervise::Then;

pub use crate::record::Gone;

/// What a command wants.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Command {
    /// A server that runs.
    Start {
        /// Take an unmanaged server under management.
        adopt: bool,
    },
    /// No server.
    Stop,
    /// A fresh server (`restart`, `reload`, and a changed setting).
    Restart,
}

/// What the pid record shows.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Recorded {
    /// There is no record.
    Absent,
    /// The record identifies no process.
    Unusable(RecordDefect),
    /// The process it names is gone.
    Gone(Gone),
    /// The process it names lives.
    Alive(Pid),
}

/// What the supervisor shows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SupervisorSeen {
    /// There is none.
    Absent,
    /// A process holds the supervisor's lock and does not answer.
    Unresponsive(Option<Pid>),
    /// It manages no server.
    Idle,
    /// It manages this process.
    Keeping(Pid),
    /// It waits to start the server again.
    Waiting,
    /// It is ending the server.
    Stopping(Then),
}

/// What the control socket shows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ListenerSeen {
    /// Nothing is at the path.
    Nothing,
    /// A socket without a listening process.
    Stale,
    /// A file that is not a socket.
    NotASocket,
    /// A process of another user listens. It was told nothing.
    OtherUser {
        /// The user's number.
        uid: u32,
    },
    /// A process listens and does not answer.
    Unresponsive {
        /// The process, if it is known.
        pid: Option<Pid>,
        /// Whether it is the recorded server or a child of it, or the gateway or the supervisor of this home.
        ours: bool,
    },
    /// `initialize` was answered.
    Answering {
        /// The process that answered, if it is known.
        pid: Option<Pid>,
        /// Whether it is the recorded server or a child of it, or the gateway of this home.
        ours: bool,
    },
}

/// What a command sees.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Observation {
    /// The pid record.
    pub record: Recorded,
    /// The supervisor.
    pub supervisor: SupervisorSeen,
    /// The control socket.
    pub listener: ListenerSeen,
    /// Whether processes that a dead server had started live on, and no supervisor is there to end them.
    pub orphaned: bool,
    /// Whether a gateway, or a server beside the current one, lives on after its supervisor.
    pub beside: bool,
    /// Whether another server may be started beside the one that runs, and its threads moved there.
    pub overlap: bool,
}

/// What the command has already done.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Progress {
    /// It told the supervisor to start the server.
    pub started: bool,
    /// It told the supervisor to replace the server.
    pub restarted: bool,
    /// It told the supervisor to end the server.
    pub stopped: bool,
}

/// Something to repair before going on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Repair {
    /// Remove the pid record, which names no living process.
    Record(RecordProblem),
    /// Remove the socket, on which no process listens.
    Socket,
    /// End a supervisor that does not answer.
    UnresponsiveSupervisor(Option<Pid>),
    /// End what a dead server had started.
    Orphaned,
}

/// What is wrong with a pid record.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RecordProblem {
    /// It cannot be read.
    Defect(RecordDefect),
    /// Its process is gone.
    Gone(Gone),
}

/// Why a command will not go on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refusal {
    /// A server that codexd does not manage answers.
    Unmanaged(Option<Pid>),
    /// A process that does not answer holds the control socket.
    Occupied(Option<Pid>),
    /// A process of another user, with this number, holds the control socket.
    OtherUser(u32),
    /// A file that is not a socket is at the socket's path.
    NotASocket,
}

/// The next step.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Step {
    /// Repair something, then observe again.
    Repair(Repair),
    /// Have a supervisor take over the recorded process.
    AdoptRecorded,
    /// Have a supervisor take over the process that answers.
    AdoptListener(Pid),
    /// Have the supervisor start the server.
    Start,
    /// Have the supervisor end the server and start it again.
    Replace,
    /// Have the supervisor start another server beside this one, and make it the current one once it answers.
    Succeed,
    /// Have the supervisor end the server and leave.
    Stop,
    /// Wait until `initialize` is answered, or the server ends, or time is up.
    AwaitReady,
    /// The goal is reached, as the last look shows.
    Finish {
        /// In upstream's words.
        status: LifecycleStatus,
        /// Whether codexd manages the server that runs.
        managed: bool,
    },
    /// The goal cannot be reached.
    Refuse(Refusal),
}

/// Decides the next step.
pub fn decide(command: Command, seen: &Observation, progress: Progress) -> Step {
    if let SupervisorSeen::Unresponsive(pid) = seen.supervisor {
        return Step::Repair(Repair::UnresponsiveSupervisor(pid));
    }
    if seen.orphaned {
        return Step::Repair(Repair::Orphaned);
    }
    match command {
        Command::Start { adopt } => start(seen, progress, adopt),
        Command::Stop => stop(seen, progress),
        Command::Restart => restart(seen, progress),
    }
}

fn start(seen: &Observation, progress: Progress, adopt: bool) -> Step {
    if let (Recorded::Alive(_), SupervisorSeen::Absent | SupervisorSeen::Idle) =
        (&seen.record, seen.supervisor)
    {
        return Step::AdoptRecorded;
    }
    let reached = if progress.started { LifecycleStatus::Started } else { LifecycleStatus::AlreadyRunning };
    match seen.listener {
        // A gateway may answer for a server that is gone.
        ListenerSeen::Answering { ours: true, .. } if !matches!(seen.record, Recorded::Alive(_)) => {
            bring_up(seen, progress)
        }
        ListenerSeen::Answering { ours: true, .. } => match seen.supervisor {
            SupervisorSeen::Stopping(Then::Leave) => Step::Start,
            SupervisorSeen::Stopping(Then::StartAgain) => Step::AwaitReady,
            _ => Step::Finish { status: reached, managed: true },
        },
        ListenerSeen::Answering { pid, ours: false } => match (adopt, pid, &seen.record) {
            // A home keeps one server: ours would be forgotten.
            (true, _, Recorded::Alive(_)) => Step::Refuse(Refusal::Unmanaged(pid)),
            (true, Some(pid), _) => Step::AdoptListener(pid),
            (true, None, _) => Step::Refuse(Refusal::Unmanaged(None)),
            _ => Step::Finish { status: LifecycleStatus::AlreadyRunning, managed: false },
        },
        _ => bring_up(seen, progress),
    }
}

/// No server answers: take the next step to one that does.
fn bring_up(seen: &Observation, progress: Progress) -> Step {
    match seen.listener {
        ListenerSeen::Unresponsive { pid: pid @ Some(_), ours: false } => {
            return Step::Refuse(Refusal::Occupied(pid));
        }
        ListenerSeen::OtherUser { uid } => return Step::Refuse(Refusal::OtherUser(uid)),
        _ => {}
    }
    if let Recorded::Alive(_) = seen.record {
        return match seen.supervisor {
            SupervisorSeen::Absent | SupervisorSeen::Idle => Step::AdoptRecorded,
            SupervisorSeen::Stopping(Then::Leave) => Step::Start,
            _ => Step::AwaitReady,
        };
    }
    match seen.listener {
        // codexd itself holds the socket for the server that is to come.
        ListenerSeen::Unresponsive { ours: true, .. } => {}
        ListenerSeen::Unresponsive { pid, .. } => return Step::Refuse(Refusal::Occupied(pid)),
        ListenerSeen::NotASocket => return Step::Refuse(Refusal::NotASocket),
        _ => {}
    }
    let ordered = progress.started || progress.restarted;
    // A supervisor that is gone has taken its order with it.
    if matches!(seen.supervisor, SupervisorSeen::Keeping(_))
        || (ordered && seen.supervisor != SupervisorSeen::Absent)
    {
        return Step::AwaitReady;
    }
    if let Some(repair) = record_problem(&seen.record) {
        return Step::Repair(Repair::Record(repair));
    }
    if seen.listener == ListenerSeen::Stale {
        return Step::Repair(Repair::Socket);
    }
    Step::Start
}

fn stop(seen: &Observation, progress: Progress) -> Step {
    match (&seen.record, seen.supervisor) {
        (Recorded::Alive(_), SupervisorSeen::Absent | SupervisorSeen::Idle) => return Step::AdoptRecorded,
        (
            _,
            SupervisorSeen::Keeping(_)
            | SupervisorSeen::Waiting
            | SupervisorSeen::Stopping(_)
            | SupervisorSeen::Idle,
        ) => {
            return Step::Stop;
        }
        (_, SupervisorSeen::Absent) if seen.beside => return Step::Stop,
        _ => {}
    }
    if let Some(repair) = record_problem(&seen.record) {
        return Step::Repair(Repair::Record(repair));
    }
    match seen.listener {
        ListenerSeen::Answering { pid, .. } if !progress.stopped => Step::Refuse(Refusal::Unmanaged(pid)),
        ListenerSeen::Unresponsive { pid, .. } if !progress.stopped => Step::Refuse(Refusal::Occupied(pid)),
        ListenerSeen::OtherUser { uid } if !progress.stopped => Step::Refuse(Refusal::OtherUser(uid)),
        ListenerSeen::Stale => Step::Repair(Repair::Socket),
        _ if progress.stopped => Step::Finish { status: LifecycleStatus::Stopped, managed: true },
        _ => Step::Finish { status: LifecycleStatus::NotRunning, managed: false },
    }
}

fn restart(seen: &Observation, progress: Progress) -> Step {
    match seen.listener {
        // Ending ours would not free the socket.
        ListenerSeen::Answering { pid, ours: false } => return Step::Refuse(Refusal::Unmanaged(pid)),
        ListenerSeen::Unresponsive { pid: pid @ Some(_), ours: false } => {
            return Step::Refuse(Refusal::Occupied(pid));
        }
        ListenerSeen::OtherUser { uid } => return Step::Refuse(Refusal::OtherUser(uid)),
        _ => {}
    }
    let acted = progress.restarted || progress.started;
    let step = match (&seen.record, seen.supervisor) {
        _ if acted => start(seen, progress, false),
        (Recorded::Alive(_), SupervisorSeen::Absent | SupervisorSeen::Idle) => Step::AdoptRecorded,
        (Recorded::Alive(_), SupervisorSeen::Keeping(_)) if seen.overlap => Step::Succeed,
        (Recorded::Alive(_), _) | (_, SupervisorSeen::Keeping(_) | SupervisorSeen::Stopping(_)) => {
            Step::Replace
        }
        _ => bring_up(seen, progress),
    };
    match step {
        Step::Finish { managed, .. } => Step::Finish { status: LifecycleStatus::Restarted, managed },
        step => step,
    }
}

fn record_problem(record: &Recorded) -> Option<RecordProblem> {
    match record {
        Recorded::Unusable(defect) => Some(RecordProblem::Defect(defect.clone())),
        Recorded::Gone(gone) => Some(RecordProblem::Gone(*gone)),
        Recorded::Absent | Recorded::Alive(_) => None,
    }
}
