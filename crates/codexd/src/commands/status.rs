//! `codexd status`: the whole state of a home, its problems and the newest events. It works in every state, changes nothing, and
//! fails only for a home that codexd may not use.

mod elsewhere;
mod gateway_status;
mod health;
mod problems;
mod supervisor;
mod text;
mod wait;

use codexd_core::contract::status::{PathsReport, Problem, SettingsReport};
use codexd_core::contract::{Failure, LifecycleStatus, State, StatusReport};
use codexd_core::home_state::{HomeFacts, home_state};
use codexd_core::identity::{Pid, Process};
use codexd_core::lifecycle::{ListenerSeen, Recorded};
use codexd_core::limits::{BUSY_START_TIMEOUT_MS, START_TIMEOUT_MS, STATUS_EVENTS};
use codexd_core::record::CodexdRecord;
use codexd_host::process_table::ProcessTable;
use codexd_host::{Home, pid_record, process};
use serde::Serialize;

use crate::cli::StatusArgs;
use crate::commands::lifecycle;
use crate::config;
use crate::context::{Context, VERSION};
use crate::gateway_settings::InForce;
use crate::installed_codex::InstalledFacts;
use crate::migration;
use crate::observe::{self, OwnServer};
use problems::add;
use supervisor::Supervisor;

/// The answer.
#[derive(Debug, Serialize)]
pub struct Reply {
    #[serde(flatten)]
    report: StatusReport,
    /// With `--wait` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    wait: Option<wait::Report>,
    /// Whether there is a Codex at the path that the report names.
    #[serde(skip)]
    installed: bool,
}

/// The facts that the report is made of.
struct Found {
    supervisor: Supervisor,
    recorded: Recorded,
    server: Option<Process>,
    codexd: Option<CodexdRecord>,
    listening: observe::ListenerReport,
    problems: Vec<Problem>,
    /// `None` if no gateway runs, and for a gateway of a version that does not report them.
    gateway_settings: Option<InForce>,
    elsewhere: Option<elsewhere::Served>,
}

/// Runs the command.
///
/// # Errors
/// `wait-timeout` if the state of `--wait` is not reached in time.
pub fn run(context: &Context, args: &StatusArgs) -> Result<Reply, Failure> {
    match args.wait {
        Some(wanted) => wait::run(context, wanted, args.timeout),
        None => Ok(observe_all(context)),
    }
}

fn observe_all(context: &Context) -> Reply {
    let found_config = context.config_as_found();
    let config = &found_config.config;
    let installed = InstalledFacts::gather(context, config);
    let is_well = |found: &Found| found.problems.is_empty() && found.listening.answer.is_some();
    let mut found =
        observe::observe_stable(&context.home, is_well, || find(context, &found_config, &installed));
    health::check(&context.home, &mut found);
    let state = state(&found);
    let listener = match found.listening.seen {
        ListenerSeen::Answering { pid, .. } => pid,
        _ => None,
    };
    // A pid of another pid namespace identifies another process here, or none.
    let listener = listener.filter(|_| found.elsewhere.is_none());
    let pid = found.server.as_ref().map(|server| server.pid).or(listener);
    let supervisor = found.supervisor.state.as_ref();
    let living = found.supervisor.living();
    let answering = found.listening.answer.is_some();
    let version = found.listening.answer.as_ref().and_then(|answer| answer.version()).map(str::to_owned);
    let is_installed = installed.path.is_some();
    let handover = gateway_status::handover(&context.home);
    let mut problems = found.problems.clone();
    problems.extend(handover.as_ref().map(migration::refused).unwrap_or_default());
    let report = StatusReport {
        status: if answering { LifecycleStatus::Running } else { LifecycleStatus::NotRunning },
        state,
        backend: (found.server.is_some() || elsewhere::is_managed(&found)).then(|| context.backend()),
        pid,
        supervisor_pid: living.map(|supervisor| supervisor.supervisor.pid),
        uptime_seconds: pid
            .and_then(|pid| process::identify(pid).ok())
            .and_then(|server| process::uptime_ms(&server))
            .map(|ms| ms / 1_000),
        restarts: supervisor.map(|supervisor| supervisor.restarts).unwrap_or_default(),
        next_attempt_at: living
            .and_then(|supervisor| supervisor.next_attempt_at.clone())
            .filter(|at| is_to_come(at)),
        last_exit: supervisor.and_then(|supervisor| supervisor.last_exit.clone()),
        running_is_installed: pid.and_then(|pid| running_is_installed(pid, &installed, &found)),
        cli_version: installed.cli_version(version.as_deref()),
        managed_codex_path: lifecycle::managed_path(context, config, installed.path),
        managed_codex_version: installed.version,
        managed_codex_source: installed.source,
        socket_path: context.home.control_socket(),
        app_server_version: version,
        codexd_version: VERSION,
        embedded: found.codexd.as_ref().is_some_and(|record| record.embedded),
        gateway: gateway_status::gateway(&found),
        generations: gateway_status::generations(&context.home, &found),
        handover,
        settings: SettingsReport {
            remote_control_enabled: config.is_remote_control_enabled(),
            shutdown_grace_seconds: config.grace_seconds(),
            gateway: gateway_status::setting(config.gateway()),
            codex_bin: config.codex_bin().map(Into::into),
        },
        config: config.scaffold(),
        paths: paths(&context.home),
        problems,
        events: context.log.newest(STATUS_EVENTS),
    };
    Reply { report, wait: None, installed: is_installed }
}

/// An overdue attempt is under way.
fn is_to_come(at: &str) -> bool {
    at.parse::<jiff::Timestamp>().is_ok_and(|at| at > jiff::Timestamp::now())
}

fn find(context: &Context, config: &config::Found, installed: &InstalledFacts) -> Found {
    let home = &context.home;
    let mut problems = problems::find_on_disk(home, config, installed);
    if let Some(place) = codexd_host::elsewhere::find(home) {
        return elsewhere::find(home, problems, &place);
    }
    let record = observe::server(home).unwrap_or_else(|error| {
        add(&mut problems, "unreadable-record", format!("{}: {error}", home.pid_record().display()));
        pid_record::Observed { recorded: Recorded::Absent, process: None, codexd: None }
    });
    let supervisor = Supervisor::observe(home);
    problems::find_with_record(&mut problems, &record, &supervisor);
    problems::find_with_supervisor(&mut problems, &supervisor, record.process.is_some());
    let listening = observe::listener(home, OwnServer::of(record.process.as_ref(), record.codexd.as_ref()));
    let is_expected =
        supervisor.is_stopping() || (supervisor.acts().is_some() && is_starting(record.process.as_ref()));
    problems::find_with_listener(&mut problems, home, listening.seen, is_expected);
    if let Some(message) = gateway_status::not_loaded(home) {
        add(&mut problems, "threads-not-loaded", message);
    }
    let gateway_settings = InForce::read(home);
    if let Some(message) = gateway_settings.as_ref().and_then(InForce::listener_failure) {
        add(&mut problems, "listener-failed", message);
    }
    Found {
        supervisor,
        recorded: match &record.process {
            Some(server) => Recorded::Alive(server.pid),
            None => record.recorded,
        },
        server: record.process,
        codexd: record.codexd,
        listening,
        problems,
        gateway_settings,
        elsewhere: None,
    }
}

fn state(found: &Found) -> State {
    if let Some(served) = &found.elsewhere {
        return served.state(found.listening.seen);
    }
    let server_is_alive = matches!(found.recorded, Recorded::Alive(_));
    let answers = matches!(found.listening.seen, ListenerSeen::Answering { .. });
    home_state(&HomeFacts {
        listener: found.listening.seen,
        server_is_alive,
        may_become_ready: server_is_alive && !answers && is_starting(found.server.as_ref()),
        supervisor: found.supervisor.facts(),
    })
}

/// Whether a server that does not answer yet still has time to do so.
fn is_starting(server: Option<&Process>) -> bool {
    let Some(server) = server else { return true };
    let lived = process::uptime_ms(server).unwrap_or_default();
    let is_at_work = || ProcessTable::read().group_is_at_work(server.pid.0);
    lived < START_TIMEOUT_MS || (lived < BUSY_START_TIMEOUT_MS && is_at_work())
}

/// Whether the running binary is the one that a start would run. Compares the files, not their paths.
fn running_is_installed(pid: Pid, installed: &InstalledFacts, found: &Found) -> Option<bool> {
    if found.codexd.as_ref().is_some_and(|record| record.embedded) {
        return Some(installed.path.is_none());
    }
    let running = process::executable(pid).ok()?.1;
    // If the installed Codex is a script, the running binary is a program that it started. The record names the script.
    let recorded = found.codexd.as_ref().and_then(|record| process::file_identity(&record.executable).ok());
    let wrapped = recorded.is_some() && recorded == installed.identity && recorded != Some(running);
    let is_script = || installed.path.as_deref().is_some_and(codexd_release::is_script);
    Some(installed.identity == Some(running) || (wrapped && is_script()))
}

fn paths(home: &Home) -> PathsReport {
    PathsReport {
        codex_home: home.root().to_owned(),
        state_dir: home.state_dir(),
        socket: home.control_socket(),
        settings: home.settings(),
        events: home.events(),
        stdout_log: home.written_log(home.stdout_log()),
        stderr_log: home.written_log(home.stderr_log()),
    }
}
