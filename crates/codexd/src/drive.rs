//! The loop of every changing command: observe, decide, act, observe again.

mod adopt;
mod deferred;
mod repair;
mod stop;
mod succeed;

use std::time::Duration;

use codexd_core::config::Gateway;
use codexd_core::contract::{Backend, ErrorCode, EventLevel, Failure, LifecycleStatus};
use codexd_core::identity::{Pid, Process};
use codexd_core::launch_spec::{DrainSignal, LaunchSpec, StopPolicy};
use codexd_core::lifecycle::{Command, Progress, Recorded, Step, decide};
use codexd_core::limits::{STEPS_MAX, SUPERVISOR_TIMEOUT_MS};
use codexd_host::events::Event;
use codexd_host::process;
use codexd_host::service::supervisor::{self, ConnectionError, Order, Refusal, SupervisorConnection};
use codexd_protocol::probe::Answer;
use serde_json::Value;

pub use repair::name_problem;

use crate::context::Context;
use crate::launch_specs::{self, LaunchRequest};
use crate::limits::SUPERVISORS_LOST_MAX;
use crate::observe::{self, ListenerReport, OwnServer, Snapshot};
use crate::own_binary::own_binary;
use crate::progress::ProgressReporter;
use crate::ready::{NotReady, Target, await_ready};
use crate::{failures, gateway_settings};

/// What a command is to reach, and what it needs for that.
pub struct Request<'a> {
    /// The goal.
    pub command: Command,
    /// Builds the launch spec of the server. Called only when a server is to be started.
    pub program: &'a dyn Fn(&LaunchRequest) -> Result<LaunchSpec, Failure>,
    /// How to stop a server.
    pub policy: StopPolicy,
    /// The gateway settings for a server that is started.
    pub gateway: Gateway,
    /// Whether a server that is replaced may run beside its successor.
    pub handover: Handover,
}

/// What happens to a server that is replaced.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Handover {
    /// It is stopped before the new one is started.
    Never,
    /// Where possible its threads move to the new one, and it is stopped when it has none left.
    Begun,
    /// The same, and the command waits for its exit without limit.
    Completed,
}

/// The result of a command that succeeded.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The status in the words of upstream.
    pub status: LifecycleStatus,
    /// `None` if codexd does not manage the server.
    pub backend: Option<Backend>,
    /// The running server.
    pub pid: Option<Pid>,
    /// Its answer to `initialize`.
    pub answer: Option<Answer>,
    /// Whether the server is the embedded one.
    pub embedded: bool,
    /// Whether the server is behind a gateway.
    pub behind_gateway: bool,
    /// The last report about the handover from the replaced server, if there was one.
    pub handover: Option<Value>,
}

/// The launch specs of a server and of its gateway; `None` without a gateway.
type LaunchSpecs = (Box<LaunchSpec>, Option<Box<LaunchSpec>>);

/// The result of an order to the supervisor.
enum OrderResult {
    /// The supervisor carries it out.
    Taken,
    /// Nothing was changed.
    Refused(Refusal),
    /// The order may be lost: observe again.
    SupervisorGone,
}

struct Drive<'a> {
    context: &'a Context,
    request: &'a Request<'a>,
    connection: Option<SupervisorConnection>,
    /// This command started the supervisor, for a server that did not run before.
    launched: bool,
    progress: Progress,
    fresh: Option<ListenerReport>,
    /// The server that the supervisor was ordered to replace.
    replaced: Option<Process>,
    /// The number of supervisors that exited during this command.
    supervisors_lost: usize,
    /// The record names no running process and cannot be removed, which is harmless for this command.
    record_stays: bool,
    /// The last report about the handover, if there is one.
    handover: Option<Value>,
    /// The command has already waited for the gateway to connect to the supervisor.
    gateway_awaited: bool,
}

/// Runs the steps of a command until its goal is reached. The caller holds the operation lock.
///
/// # Errors
/// Why the goal cannot be reached. The command may be run again at any time.
pub fn drive(context: &Context, request: &Request<'_>) -> Result<Outcome, Failure> {
    let mut drive = Drive {
        context,
        request,
        connection: None,
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
        let mut snapshot = observe::take_snapshot(context, request.command, &mut drive.connection, fresh)?;
        if drive.record_stays && !matches!(snapshot.observation.record, Recorded::Alive(_)) {
            snapshot.observation.record = Recorded::Absent;
        }
        if drive.await_gateway(&snapshot)? {
            continue;
        }
        snapshot.observation.overlap = drive.may_overlap(&snapshot);
        let step = decide(request.command, &snapshot.observation, drive.progress);
        tracing::debug!(command = ?request.command, observation = ?snapshot.observation, ?step, "step decided");
        if let Some(outcome) = drive.act(step, snapshot)? {
            return Ok(outcome);
        }
    }
    Err(Failure::new(
        ErrorCode::Internal,
        format!("gave up after {STEPS_MAX} attempts: another process keeps changing this home"),
    )
    .hint("run the command again; if the failure persists, `codexd status` shows recent events"))
}

impl Drive<'_> {
    fn act(&mut self, step: Step, snapshot: Snapshot) -> Result<Option<Outcome>, Failure> {
        match step {
            Step::Repair(repair) => self.repair(repair, &snapshot)?,
            Step::AdoptRecorded => self.adopt_recorded(&snapshot)?,
            Step::AdoptListener(pid) => self.adopt_listener(pid)?,
            Step::Start | Step::AwaitReady if self.must_wait_for_caller(&snapshot) => {
                return self.start_after_caller(&snapshot);
            }
            Step::Start => {
                let (program, gateway) = self.launch_specs(&snapshot)?;
                if self.order(&Order::Start { program, gateway })? {
                    self.progress.started = true;
                    self.await_ready()?;
                }
            }
            Step::Replace => {
                // Check the new server before the old one is touched.
                let (program, gateway) = self.launch_specs(&snapshot)?;
                self.prove_configuration(&program, &snapshot)?;
                if self.order(&Order::Replace { program, policy: self.request.policy, gateway })? {
                    if self.context.caller().is_inside() {
                        return Ok(Some(self.deferred(LifecycleStatus::Restarting, &snapshot)));
                    }
                    self.progress.restarted = true;
                    self.replaced = snapshot.server;
                    self.await_ready()?;
                }
            }
            Step::Succeed => return self.succeed(&snapshot),
            Step::Stop if self.context.caller().is_inside() && snapshot.server.is_some() => {
                return self.stop_after_caller(&snapshot);
            }
            Step::Stop => self.stop(&snapshot)?,
            Step::AwaitReady => self.await_ready()?,
            Step::Refuse(refusal) => {
                return Err(failures::refusal(refusal, &self.context.home.control_socket()));
            }
            Step::Finish { managed: true, .. }
                if self.connection.as_ref().is_some_and(SupervisorConnection::is_cut) =>
            {
                self.on_supervisor_lost()?;
            }
            Step::Finish { status, managed } => {
                return self.finish(status, managed, snapshot).map(Some);
            }
        }
        Ok(None)
    }

    fn finish(
        &mut self,
        status: LifecycleStatus,
        managed: bool,
        snapshot: Snapshot,
    ) -> Result<Outcome, Failure> {
        let running = snapshot.answer.is_some();
        self.await_handover()?;
        gateway_settings::apply(self.context, self.connection.as_mut(), self.request.gateway)?;
        let record = snapshot.codexd.as_ref();
        // The gateway reports the version of the new server once it is connected to that server.
        let again = self.handover.as_ref().and_then(|_| {
            observe::listener(&self.context.home, OwnServer::of(snapshot.server.as_ref(), record)).answer
        });
        Ok(Outcome {
            status,
            backend: managed.then(|| self.context.backend()),
            pid: snapshot.server.filter(|_| running).map(|server| server.pid),
            answer: again.or(snapshot.answer),
            embedded: record.is_some_and(|record| record.embedded),
            behind_gateway: record.is_some_and(|record| record.socket.is_some()),
            handover: self.handover.take(),
        })
    }

    /// The launch specs of a new server, whose Codex has printed its version, and of its gateway.
    fn launch_specs(&self, snapshot: &Snapshot) -> Result<LaunchSpecs, Failure> {
        let home = &self.context.home;
        let generations =
            self.connection.as_ref().map(|connection| connection.generations.as_slice()).unwrap_or_default();
        let recorded = snapshot.codexd.as_ref().and_then(|record| record.socket.as_deref());
        let launch = LaunchRequest {
            embedded_runs: snapshot.codexd.as_ref().is_some_and(|record| record.embedded),
            socket: self
                .request
                .gateway
                .is_on()
                .then(|| supervisor::free_generation_socket(home, generations, recorded)),
        };
        let program = (self.request.program)(&launch)?;
        let gateway = launch_specs::gateway(self.context, self.request.gateway)?;
        Ok((Box::new(program), gateway.map(Box::new)))
    }

    /// Gives an order to the supervisor, which is started if none runs. `false`: observe again, because the supervisor exited
    /// or another one was started first.
    fn order(&mut self, order: &Order) -> Result<bool, Failure> {
        match self.give(order)? {
            OrderResult::Taken => Ok(true),
            OrderResult::SupervisorGone => Ok(false),
            OrderResult::Refused(Refusal { message, errno }) => {
                let failure = self.not_ready(NotReady::SpawnFailed { message, errno });
                self.progress.started |= matches!(order, Order::Start { .. });
                self.stop_failed_start();
                Err(failure)
            }
        }
    }

    fn give(&mut self, order: &Order) -> Result<OrderResult, Failure> {
        let ordered = match self.connection.as_mut() {
            Some(connection) => connection.order(order),
            None => SupervisorConnection::launch(&self.context.home, &own_binary()?).and_then(|connection| {
                self.launched = true;
                self.connection.insert(connection).order(order)
            }),
        };
        match ordered {
            Ok(()) => Ok(OrderResult::Taken),
            Err(ConnectionError::OrderRefused(refusal)) => Ok(OrderResult::Refused(refusal)),
            Err(ConnectionError::Gone) => self.on_supervisor_lost().map(|()| OrderResult::SupervisorGone),
            // The next observation ends a supervisor that hangs.
            Err(ConnectionError::Silent(_)) if !supervisor::answers(&self.context.home) => {
                self.on_supervisor_lost().map(|()| OrderResult::SupervisorGone)
            }
            Err(error) => Err(failures::supervisor(&self.context.home, &error)),
        }
    }

    /// The supervisor exited, and its orders are lost. The next observation finds what it left, and a new supervisor adopts it.
    fn on_supervisor_lost(&mut self) -> Result<(), Failure> {
        self.connection = None;
        self.supervisors_lost += 1;
        if self.replaced.as_ref().is_some_and(process::is_alive) {
            self.progress.restarted = false;
        }
        if self.supervisors_lost > SUPERVISORS_LOST_MAX {
            return Err(failures::supervisor(&self.context.home, &ConnectionError::Gone));
        }
        Ok(())
    }

    fn await_ready(&mut self) -> Result<(), Failure> {
        let ordered = self.progress.started || self.progress.restarted;
        let target = if ordered { Target::Current } else { Target::Found };
        let Some(connection) = self.connection.as_mut() else { return Ok(()) };
        match await_ready(self.context, connection, target) {
            Ok(listening) => {
                self.fresh = Some(listening);
                Ok(())
            }
            Err(NotReady::SupervisorGone) => self.on_supervisor_lost(),
            Err(not_ready) => {
                let failure = self.not_ready(not_ready);
                self.stop_failed_start();
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
                format!("the app-server (pid {pid}) is still alive after SIGKILL"),
            )
            .with("pid", pid.0),
            NotReady::TimedOut { pid, last } => {
                let pid_text = pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
                Failure::new(
                    ErrorCode::StartTimeout,
                    format!("the app-server{pid_text} runs but did not answer `initialize` in time: {last}"),
                )
                .hint("`codexd logs` shows its output; `codexd restart` replaces it")
                .with("pid", pid.map(|pid| pid.0))
            }
            NotReady::SupervisorGone => {
                Failure::new(ErrorCode::SupervisorFailed, "the supervisor has exited")
            }
            NotReady::System(error) => failures::supervisor(&self.context.home, &error),
        }
    }

    /// Stops what this command started and what never answered, so that a failed start leaves no process. A supervisor that ran
    /// before the command keeps trying.
    fn stop_failed_start(&mut self) {
        if !self.launched || !self.progress.started {
            return;
        }
        let policy = StopPolicy { signal: DrainSignal::Terminate, grace_ms: Some(0) };
        if let Some(mut connection) = self.connection.take()
            && connection.order(&Order::Stop { policy, failed: true }).is_ok()
        {
            // The next command finds what is left.
            let _ = self.await_leaving(&mut connection, &mut ProgressReporter::start());
            let _ = connection.await_exit(&self.context.home, Duration::from_millis(SUPERVISOR_TIMEOUT_MS));
        }
    }
}

/// The sentence of the event `command.done`.
fn done_text(command: &str, status: LifecycleStatus) -> String {
    let result = match status {
        LifecycleStatus::Started => "app-server started",
        LifecycleStatus::Restarted => "app-server restarted",
        LifecycleStatus::Stopped => "app-server stopped",
        LifecycleStatus::Enabled => "remote control enabled",
        LifecycleStatus::Disabled => "remote control disabled",
        _ => return format!("`{command}` succeeded"),
    };
    format!("`{command}` succeeded: {result}")
}

/// Logs the event of a command that changed something.
pub fn log_outcome(context: &Context, command: &str, outcome: &Outcome) {
    use LifecycleStatus::{AlreadyDisabled, AlreadyEnabled, AlreadyRunning, NotRunning};
    if matches!(outcome.status, AlreadyRunning | NotRunning | AlreadyEnabled | AlreadyDisabled) {
        return;
    }
    let message = match outcome.status {
        LifecycleStatus::Stopping | LifecycleStatus::Restarting => {
            format!(
                "`{command}` ran inside the app-server; the supervisor carries it out when the running turns have finished"
            )
        }
        _ => done_text(command, outcome.status),
    };
    let event = Event::new(EventLevel::Info, "command.done", message)
        .with("command", command)
        .with("status", serde_json::to_value(outcome.status).unwrap_or_default())
        .with("pid", outcome.pid.map(|pid| pid.0));
    context.log_event(event);
}
