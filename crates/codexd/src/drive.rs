//! The loop of every changing command: look, decide, act, look again.

mod adopt;
mod deferred;
mod mend;
mod stop;
mod succeed;

use std::time::Duration;

use codexd_core::contract::{Backend, ErrorCode, EventLevel, Failure, LifecycleStatus};
use codexd_core::identity::{Pid, Process};
use codexd_core::lifecycle::{Command, Progress, Recorded, Step, decide};
use codexd_core::limits::{STEPS_MAX, SUPERVISOR_TIMEOUT_MS};
use codexd_core::program::{DrainSignal, Program, StopPolicy};
use codexd_core::settings::Gateway;
use codexd_host::events::Event;
use codexd_host::process;
use codexd_host::service::supervisor::{self, LinkError, Order, Refusal, SupervisorLink};
use codexd_protocol::probe::Answer;
use serde_json::Value;

pub use mend::name_trouble;

use crate::context::Context;
use crate::front::{self, Launch};
use crate::observe::{self, Listening, Ours, Sight};
use crate::patience::Progress as Patience;
use crate::ready::{NotReady, Whose, await_ready};
use crate::{codex, failures, gateway_settings};

/// So many supervisors may be lost on the way of one command.
const SUPERVISORS_LOST_MAX: usize = 3;

/// What a command wants, with what it takes to get there.
pub struct Wish<'a> {
    /// The goal.
    pub command: Command,
    /// What to run; asked for only when something is to be run.
    pub program: &'a dyn Fn(&Launch) -> Result<Program, Failure>,
    /// How a server is to be ended.
    pub policy: StopPolicy,
    /// What is to stand in front of a server that is started.
    pub gateway: Gateway,
    /// Whether a server that is to be replaced may go on beside its successor until it holds nothing any more, and whether
    /// that is waited for.
    pub handover: Handover,
}

/// What becomes of a server that is replaced.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Handover {
    /// It is ended, then the new one is started.
    Never,
    /// Where that is possible its threads move to the new one; it leaves when it holds nothing any more.
    Begun,
    /// The same, and its end is waited for, without limit.
    Completed,
}

/// The goal, reached.
#[derive(Clone, Debug)]
pub struct Reached {
    /// In upstream's words.
    pub status: LifecycleStatus,
    /// Who runs the server, if codexd does.
    pub backend: Option<Backend>,
    /// The server that runs now, if one does.
    pub pid: Option<Pid>,
    /// What it answered.
    pub answer: Option<Answer>,
    /// Whether it is the embedded one.
    pub embedded: bool,
    /// Whether a gateway is in front of it.
    pub fronted: bool,
    /// How the handover from the server before went, if there was one.
    pub handover: Option<Value>,
}

/// A server, and the gateway in front of it if one is wanted.
type ToRun = (Box<Program>, Option<Box<Program>>);

/// What came of an order.
enum Given {
    /// It is being carried out.
    Taken,
    /// Nothing was changed.
    Refused(Refusal),
    /// Look again.
    SupervisorGone,
}

struct Drive<'a> {
    context: &'a Context,
    wish: &'a Wish<'a>,
    link: Option<SupervisorLink>,
    /// This very command started the supervisor for a server that did not run before.
    launched: bool,
    progress: Progress,
    fresh: Option<Listening>,
    /// The server that the supervisor was told to replace.
    replaced: Option<Process>,
    /// How often the supervisor was gone when it was needed.
    supervisors_lost: usize,
    /// The record names nobody and cannot be removed, which does not matter here.
    record_stays: bool,
    /// How the handover goes, if there is one.
    handover: Option<Value>,
    /// The gateway had its time to get in touch with the supervisor.
    gateway_awaited: bool,
}

/// Drives a wish to its end. The operation lock is held.
///
/// # Errors
/// Why the goal cannot be reached. Running the command again is always safe.
pub fn drive(context: &Context, wish: &Wish<'_>) -> Result<Reached, Failure> {
    let mut drive = Drive {
        context,
        wish,
        link: None,
        launched: false,
        progress: Progress::default(),
        fresh: None,
        replaced: None,
        supervisors_lost: 0,
        record_stays: false,
        handover: None,
        gateway_awaited: false,
    };
    for _ in 0..STEPS_MAX {
        let fresh = drive.fresh.take();
        let mut sight = observe::look(context, wish.command, &mut drive.link, fresh)?;
        if drive.record_stays && !matches!(sight.observation.record, Recorded::Alive(_)) {
            sight.observation.record = Recorded::Absent;
        }
        if drive.awaits_the_gateway(&sight)? {
            continue;
        }
        sight.observation.overlap = drive.may_overlap(&sight);
        let step = decide(wish.command, &sight.observation, drive.progress);
        if let Some(reached) = drive.act(step, sight)? {
            return Ok(reached);
        }
    }
    Err(Failure::new(
        ErrorCode::Internal,
        format!("no end after {STEPS_MAX} steps: the state keeps changing underneath"),
    )
    .hint("run the command again; if it persists, `codexd status` shows what changes"))
}

impl Drive<'_> {
    fn act(&mut self, step: Step, sight: Sight) -> Result<Option<Reached>, Failure> {
        match step {
            Step::Mend(mend) => self.mend(mend, &sight)?,
            Step::AdoptRecorded => self.adopt_recorded(&sight)?,
            Step::AdoptListener(pid) => self.adopt_listener(pid)?,
            Step::Start | Step::AwaitReady if self.waits_for_the_caller(&sight) => {
                return self.start_after_the_caller(&sight);
            }
            Step::Start => {
                let (program, gateway) = self.what_to_run(&sight)?;
                if self.order(&Order::Start { program, gateway })? {
                    self.progress.started = true;
                    self.await_ready()?;
                }
            }
            Step::Replace => {
                // Proven before the old one is touched.
                let (program, gateway) = self.what_to_run(&sight)?;
                self.prove_configuration(&program, &sight)?;
                if self.order(&Order::Replace { program, policy: self.wish.policy, gateway })? {
                    if self.context.caller().is_inside() {
                        return Ok(Some(self.deferred(LifecycleStatus::Restarting, &sight)));
                    }
                    self.progress.restarted = true;
                    self.replaced = sight.server;
                    self.await_ready()?;
                }
            }
            Step::Succeed => return self.succeed(&sight),
            Step::Stop if self.context.caller().is_inside() && sight.server.is_some() => {
                return self.stop_after_the_caller(&sight);
            }
            Step::Stop => self.stop(&sight)?,
            Step::AwaitReady => self.await_ready()?,
            Step::Refuse(refusal) => {
                return Err(failures::refusal(refusal, &self.context.home.control_socket()));
            }
            Step::Finish { managed: true, .. } if self.link.as_ref().is_some_and(SupervisorLink::is_cut) => {
                self.lost_supervisor()?;
            }
            Step::Finish { status, managed } => {
                return self.finish(status, managed, sight).map(Some);
            }
        }
        Ok(None)
    }

    fn finish(&mut self, status: LifecycleStatus, managed: bool, sight: Sight) -> Result<Reached, Failure> {
        let running = sight.answer.is_some();
        self.await_the_handover()?;
        gateway_settings::apply(self.context, self.link.as_mut(), self.wish.gateway)?;
        let record = sight.codexd.as_ref();
        // The gateway answers with the version of the new server once it has connected to that.
        let again = self.handover.as_ref().and_then(|_| {
            observe::listener(&self.context.home, Ours::of(sight.server.as_ref(), record)).answer
        });
        Ok(Reached {
            status,
            backend: managed.then_some(Backend::Pid),
            pid: sight.server.filter(|_| running).map(|server| server.pid),
            answer: again.or(sight.answer),
            embedded: record.is_some_and(|record| record.embedded),
            fronted: record.is_some_and(|record| record.socket.is_some()),
            handover: self.handover.take(),
        })
    }

    /// The program of a new server, proven before an old one is touched, and the gateway in front of it.
    fn what_to_run(&self, sight: &Sight) -> Result<ToRun, Failure> {
        let home = &self.context.home;
        let generations = self.link.as_ref().map(|link| link.generations.as_slice()).unwrap_or_default();
        let recorded = sight.codexd.as_ref().and_then(|record| record.socket.as_deref());
        let launch = Launch {
            embedded_runs: sight.codexd.as_ref().is_some_and(|record| record.embedded),
            socket: self.wish.gateway.is_on().then(|| front::free_socket(home, generations, recorded)),
        };
        let program = (self.wish.program)(&launch)?;
        let gateway = front::program(self.context, self.wish.gateway)?;
        Ok((Box::new(program), gateway.map(Box::new)))
    }

    /// Gives an order to the supervisor, which is started if there is none; answers whether it was taken. If not, look again:
    /// the supervisor is gone, or another one was there before ours.
    fn order(&mut self, order: &Order) -> Result<bool, Failure> {
        match self.give(order)? {
            Given::Taken => Ok(true),
            Given::SupervisorGone => Ok(false),
            Given::Refused(Refusal { message, errno }) => {
                let failure = self.not_ready(NotReady::SpawnFailed { message, errno });
                self.progress.started |= matches!(order, Order::Start { .. });
                self.give_up_what_never_ran();
                Err(failure)
            }
        }
    }

    fn give(&mut self, order: &Order) -> Result<Given, Failure> {
        let ordered = match self.link.as_mut() {
            Some(link) => link.order(order),
            None => SupervisorLink::launch(&self.context.home, &codex::myself()?).and_then(|link| {
                self.launched = true;
                self.link.insert(link).order(order)
            }),
        };
        match ordered {
            Ok(()) => Ok(Given::Taken),
            Err(LinkError::OrderRefused(refusal)) => Ok(Given::Refused(refusal)),
            Err(LinkError::Gone) => self.lost_supervisor().map(|()| Given::SupervisorGone),
            // One that hangs is ended by the next look.
            Err(LinkError::Silent(_)) if !supervisor::answers(&self.context.home) => {
                self.lost_supervisor().map(|()| Given::SupervisorGone)
            }
            Err(error) => Err(failures::supervisor(&self.context.home, &error)),
        }
    }

    /// The supervisor is gone, and its orders with it. The next look finds what it left, and another one takes over.
    fn lost_supervisor(&mut self) -> Result<(), Failure> {
        self.link = None;
        self.supervisors_lost += 1;
        if self.replaced.as_ref().is_some_and(process::is_alive) {
            self.progress.restarted = false;
        }
        if self.supervisors_lost > SUPERVISORS_LOST_MAX {
            return Err(failures::supervisor(&self.context.home, &LinkError::Gone));
        }
        Ok(())
    }

    fn await_ready(&mut self) -> Result<(), Failure> {
        let ordered = self.progress.started || self.progress.restarted;
        let whose = if ordered { Whose::Current } else { Whose::Found };
        let Some(link) = self.link.as_mut() else { return Ok(()) };
        match await_ready(self.context, link, whose) {
            Ok(listening) => {
                self.fresh = Some(listening);
                Ok(())
            }
            Err(NotReady::SupervisorGone) => self.lost_supervisor(),
            Err(not_ready) => {
                let failure = self.not_ready(not_ready);
                self.give_up_what_never_ran();
                Err(failure)
            }
        }
    }

    fn not_ready(&self, not_ready: NotReady) -> Failure {
        match not_ready {
            NotReady::Exited(exit) => failures::server_exited(&exit),
            NotReady::SpawnFailed { message, errno } => failures::not_started(message, errno),
            NotReady::Unkillable(pid) => Failure::new(
                ErrorCode::StopTimeout,
                format!("the app-server {pid} is still alive after SIGKILL"),
            )
            .with("pid", pid.0),
            NotReady::TimedOut { pid, last } => {
                let pid_text = pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
                Failure::new(
                    ErrorCode::StartTimeout,
                    format!("the app-server{pid_text} lives but did not answer initialize in time: {last}"),
                )
                .hint("`codexd logs` shows what it wrote; `codexd restart` replaces it")
                .with("pid", pid.map(|pid| pid.0))
            }
            NotReady::SupervisorGone => Failure::new(ErrorCode::SupervisorFailed, "the supervisor has gone"),
            NotReady::Link(error) => failures::supervisor(&self.context.home, &error),
        }
    }

    /// What this command began and what never answered is ended again: a failed start leaves nothing behind. A supervisor that
    /// was there before goes on trying.
    fn give_up_what_never_ran(&mut self) {
        if !self.launched || !self.progress.started {
            return;
        }
        let policy = StopPolicy { signal: DrainSignal::Terminate, grace_ms: Some(0) };
        if let Some(mut link) = self.link.take()
            && link.order(&Order::Stop { policy, failed: true }).is_ok()
        {
            // What is left of it is found by the next command.
            let _ = self.await_leaving(&mut link, &mut Patience::begin());
            let _ = link.await_departure(&self.context.home, Duration::from_millis(SUPERVISOR_TIMEOUT_MS));
        }
    }
}

/// Records the end of a command that changed something.
pub fn note_outcome(context: &Context, command: &str, reached: &Reached) {
    use LifecycleStatus::{AlreadyDisabled, AlreadyEnabled, AlreadyRunning, NotRunning};
    if matches!(reached.status, AlreadyRunning | NotRunning | AlreadyEnabled | AlreadyDisabled) {
        return;
    }
    let message = match reached.status {
        LifecycleStatus::Stopping | LifecycleStatus::Restarting => {
            format!(
                "{command} was run inside the app-server; the supervisor carries it out when the running turns have ended"
            )
        }
        _ => format!("{command} reached its goal"),
    };
    let event = Event::new(EventLevel::Info, "command.done", message)
        .with("command", command)
        .with("status", serde_json::to_value(reached.status).unwrap_or_default())
        .with("pid", reached.pid.map(|pid| pid.0));
    context.note(event);
}
