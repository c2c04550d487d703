//! The process that runs this command, if it is part of the app-server that the command may replace: an agent runs `codexd` as
//! a tool call. A new server must not inherit the environment of a tool call, and the command must not wait for the end of a
//! turn that waits for the command.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use codexd_core::identity::{Pid, Process};
use codexd_core::launch_spec::LaunchSpec;
use codexd_host::orphans::GENERATION_VARIABLE;
use codexd_host::service::supervisor::{self, RUN_BY_SUPERVISOR, SupervisorState};
use codexd_host::{Home, pid_record, process};
use rustix::process::Signal;

/// Whether a supervisor runs this command: it descends from the supervisor and is no tool of a server.
fn is_run_by_supervisor() -> bool {
    let supervisor = std::env::var_os(RUN_BY_SUPERVISOR);
    let supervisor = supervisor.and_then(|pid| pid.to_str()?.parse::<i32>().ok());
    supervisor.is_some()
        && supervisor == rustix::process::getppid().map(|parent| parent.as_raw_nonzero().get())
}

/// A command that a supervisor runs ends with it: the next supervisor runs another one. Answers whether the supervisor has ended already.
pub fn has_lost_supervisor() -> bool {
    if std::env::var_os(RUN_BY_SUPERVISOR).is_none() {
        return false;
    }
    // Set first, looked at second: one that has ended in between is seen.
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    !is_run_by_supervisor()
}

/// Where this command runs, and what a server that it starts inherits.
#[derive(Debug, Default)]
pub struct Caller {
    is_inside: bool,
    /// The environment and the working directory of the server in which this command runs.
    recorded: Option<Context>,
}

#[derive(Debug)]
struct Context {
    env: Vec<(OsString, OsString)>,
    cwd: PathBuf,
}

impl Caller {
    /// Finds out whether this process runs inside an app-server of `home`. Evidence is the generation id in the environment, an
    /// ancestor that is the server or (for an orphan) its supervisor, and the session of the supervisor. A tool may remove one
    /// of them, hardly all.
    pub fn identify(home: &Home) -> Self {
        if is_run_by_supervisor() {
            // A server that replaces another one gets the environment of that one.
            let recorded = supervisor::current_launch_spec(home).and_then(Context::of_program);
            return Self { is_inside: false, recorded };
        }
        let state = supervisor::read_state(home);
        let record = pid_record::observe(home).ok();
        let recorded = record.as_ref().and_then(|record| record.process.clone());
        let generation = record.and_then(|record| record.codexd).and_then(|codexd| codexd.generation);
        let known = Known::of(state.as_ref(), recorded, generation);
        if !known.holds_this_process() {
            return Self::default();
        }
        let recorded = supervisor::current_launch_spec(home).and_then(Context::of_program);
        let recorded = recorded.or_else(|| known.servers.iter().find_map(Context::of_process));
        Self { is_inside: true, recorded }
    }

    /// Whether this command runs inside an app-server of the home.
    pub fn is_inside(&self) -> bool {
        self.is_inside
    }

    /// The environment that a new server inherits from: that of the server in which this command runs, or else that of the
    /// command.
    pub fn environment(&self) -> Vec<(OsString, OsString)> {
        match &self.recorded {
            Some(recorded) => recorded.env.clone(),
            None => std::env::vars_os().collect(),
        }
    }

    /// A variable of that environment.
    pub fn variable(&self, name: &str) -> Option<OsString> {
        match &self.recorded {
            Some(recorded) => recorded
                .env
                .iter()
                .find(|(known, _)| known == OsStr::new(name))
                .map(|(_, value)| value.clone()),
            None => std::env::var_os(name),
        }
    }

    /// The working directory of the server in which this command runs; `None` outside of a server.
    pub fn recorded_folder(&self) -> Option<&Path> {
        self.recorded.as_ref().map(|recorded| recorded.cwd.as_path())
    }
}

impl Context {
    fn of_program(program: LaunchSpec) -> Option<Self> {
        let env: Vec<_> = program.env.into_iter().map(|(name, value)| (name.0, value.0)).collect();
        // A supervisor that could not read the environment has none.
        (!env.is_empty()).then_some(Self { env, cwd: program.cwd })
    }

    fn of_process(server: &Process) -> Option<Self> {
        let env = process::environment(server.pid);
        let cwd = process::working_directory(server.pid).ok()?;
        (!env.is_empty() && process::is_alive(server)).then_some(Self { env, cwd })
    }
}

/// The evidence: the processes and the generation ids of a home.
#[derive(Debug, Default)]
struct Known {
    supervisor: Option<Pid>,
    /// The running servers, the current one first.
    servers: Vec<Process>,
    generation_ids: Vec<String>,
}

impl Known {
    fn of(state: Option<&SupervisorState>, recorded: Option<Process>, generation_id: Option<String>) -> Self {
        let others = state.iter().flat_map(|state| &state.others);
        let servers = recorded.into_iter().chain(state.and_then(|state| state.server.clone()));
        let servers = servers.chain(others.clone().filter_map(|other| other.process.clone()));
        let generation_ids =
            generation_id.into_iter().chain(state.and_then(|state| state.generation.clone()));
        Self {
            supervisor: state
                .map(|state| &state.supervisor)
                .filter(|supervisor| process::is_alive(supervisor))
                .map(|supervisor| supervisor.pid),
            servers: servers.filter(process::is_alive).collect(),
            generation_ids: generation_ids
                .chain(others.filter_map(|other| other.generation.clone()))
                .collect(),
        }
    }

    fn holds_this_process(&self) -> bool {
        let me = Pid(std::process::id());
        let carries = std::env::var_os(GENERATION_VARIABLE).is_some_and(|mine| {
            self.generation_ids.iter().any(|generation_id| mine == generation_id.as_str())
        });
        let session = || process::stat(me).map(|stat| Pid(stat.session));
        carries
            || self
                .supervisor
                .into_iter()
                .chain(self.servers.iter().map(|server| server.pid))
                .any(|ancestor| process::descends_from(me, ancestor))
            || (self.supervisor.is_some() && session() == self.supervisor)
    }
}
