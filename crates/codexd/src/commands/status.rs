//! `codexd status`: everything at once, whatever state the machine is in. Looks, changes nothing; fails
//! only for a home that codexd may not use.

mod elsewhere;
mod gateway_status;
mod health;
mod supervisor;
mod wait;

use std::io::ErrorKind;

use codexd_core::contract::status::{GatewayReport, PathsReport, Problem, SettingsReport};
use codexd_core::contract::{Backend, CodexSource, Failure, LifecycleStatus, State, StatusReport};
use codexd_core::foreign_text::quote;
use codexd_core::generations::Role;
use codexd_core::home_state::{HomeFacts, home_state};
use codexd_core::identity::{Pid, Process};
use codexd_core::lifecycle::{ListenerSeen, RecordProblem, Recorded};
use codexd_core::limits::{BUSY_START_TIMEOUT_MS, START_TIMEOUT_MS, STATUS_EVENTS};
use codexd_core::record::CodexdRecord;
use codexd_core::settings::ParsedSettings;
use codexd_host::process_table::ProcessTable;
use codexd_host::{Home, pid_record, process, settings_file};
use serde::Serialize;

use crate::cli::StatusArgs;
use crate::commands::lifecycle;
use crate::context::{self, Context, VERSION};
use crate::drive;
use crate::failures;
use crate::gateway_settings::InForce;
use crate::launch::InstalledFacts;
use crate::migration;
use crate::observe::{self, OwnServer};
use crate::output::Answer;
use crate::style::{self, Colour, Text};
use supervisor::Supervisor;

/// The sentence of the problem `unresponsive-listener`.
const MUTE_LISTENER: &str = "the process that listens on the control socket does not answer";

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

/// What was found.
struct Found {
    supervisor: Supervisor,
    recorded: Recorded,
    server: Option<Process>,
    codexd: Option<CodexdRecord>,
    listening: observe::ListenerReport,
    problems: Vec<Problem>,
    /// What the gateway has in force, if it says so.
    gateway_settings: Option<InForce>,
    elsewhere: Option<elsewhere::Served>,
}

/// Runs the command.
///
/// # Errors
/// `wait-timeout`: the state that was waited for was not reached in time.
pub fn run(context: &Context, args: &StatusArgs) -> Result<Reply, Failure> {
    match args.wait {
        Some(wanted) => wait::run(context, wanted, args.timeout),
        None => Ok(observe_all(context)),
    }
}

fn observe_all(context: &Context) -> Reply {
    let parsed = context.settings_as_found();
    let installed = InstalledFacts::gather(context, &parsed.settings);
    let is_well = |found: &Found| found.problems.is_empty() && found.listening.answer.is_some();
    let mut found = observe::observe_stable(&context.home, is_well, || find(context, &parsed, &installed));
    health::check(&context.home, &mut found);
    let state = state(&found);
    let listener = match found.listening.seen {
        ListenerSeen::Answering { pid, .. } => pid,
        _ => None,
    };
    // The number of a process elsewhere names another one here, or none.
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
        backend: (found.server.is_some() || elsewhere::is_managed(&found)).then_some(Backend::Pid),
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
        managed_codex_path: lifecycle::managed_path(context, &parsed.settings, installed.path),
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
            remote_control_enabled: parsed.settings.remote_control_enabled,
            shutdown_grace_seconds: parsed.settings.grace_seconds(),
            gateway: gateway_status::setting(parsed.settings.gateway),
            codex_bin: parsed.settings.codex_bin,
        },
        paths: paths(&context.home),
        problems,
        events: context.log.newest(STATUS_EVENTS),
    };
    Reply { report, wait: None, installed: is_installed }
}

/// An attempt that is overdue is being made.
fn is_to_come(at: &str) -> bool {
    at.parse::<jiff::Timestamp>().is_ok_and(|at| at > jiff::Timestamp::now())
}

type Problems = Vec<Problem>;

fn find(context: &Context, parsed: &ParsedSettings, installed: &InstalledFacts) -> Found {
    let home = &context.home;
    let mut problems = wrong_on_disk(home, parsed, installed);
    if let Some(place) = codexd_host::elsewhere::find(home) {
        return elsewhere::find(home, problems, &place);
    }
    let record = observe::server(home).unwrap_or_else(|error| {
        add(&mut problems, "unreadable-record", format!("{}: {error}", home.pid_record().display()));
        pid_record::Observed { recorded: Recorded::Absent, process: None, codexd: None }
    });
    let supervisor = Supervisor::look(home);
    find_wrong_with_record(&mut problems, &record, &supervisor);
    if let Some(suspended) = supervisor.state.as_ref().filter(|_| supervisor.is_suspended) {
        add(
            &mut problems,
            "unresponsive-supervisor",
            format!("the supervisor (pid {}) is suspended", suspended.supervisor.pid),
        );
    }
    if record.process.is_some() && !supervisor.is_alive {
        add(
            &mut problems,
            "lost-supervisor",
            "the app-server runs without a supervisor and would not be restarted after a crash",
        );
    }
    let listening = observe::listener(home, OwnServer::of(record.process.as_ref(), record.codexd.as_ref()));
    let is_expected =
        supervisor.is_stopping() || (supervisor.acts().is_some() && is_starting(record.process.as_ref()));
    find_wrong_with_listener(&mut problems, home, listening.seen, is_expected);
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

fn add(problems: &mut Problems, found: &str, message: impl Into<String>) {
    problems.push(Problem { found: found.to_owned(), message: message.into() });
}

fn wrong_on_disk(home: &Home, parsed: &ParsedSettings, installed: &InstalledFacts) -> Problems {
    let mut problems = Problems::new();
    if let Err(error) = settings_file::read(home) {
        let failure = failures::state("read the settings", &home.settings(), &error);
        // The code says more where the file itself may be well.
        let is_closed = error.kind() == ErrorKind::PermissionDenied;
        add(
            &mut problems,
            if is_closed { failure.code.as_str() } else { "corrupt-settings" },
            failure.message,
        );
    }
    for defect in &parsed.defects {
        add(&mut problems, "corrupt-settings", format!("{}: {defect}", home.settings().display()));
    }
    if let Some(seconds) = parsed.grace_beyond_upstream {
        let message =
            context::long_grace(seconds) + "; the next changing command moves the value to stopGraceSeconds";
        add(&mut problems, context::GRACE_BEYOND_UPSTREAM, message);
    }
    if let Some(why) = &installed.unusable {
        add(&mut problems, "codex-broken", format!("the installed Codex cannot run: {why}"));
    }
    if home.state_dir().symlink_metadata().is_ok() && !home.state_dir().is_dir() {
        add(&mut problems, "state-unwritable", format!("{} is not a folder", home.state_dir().display()));
    }
    problems
}

/// `is_expected`: our own server may be silent, because its supervisor is about to start it, has started it, or ends it.
fn find_wrong_with_listener(problems: &mut Problems, home: &Home, seen: ListenerSeen, is_expected: bool) {
    match seen {
        ListenerSeen::Stale => {
            add(problems, "stale-socket", "the control socket is stale: no process listens on it");
        }
        ListenerSeen::NotASocket => {
            add(
                problems,
                "no-socket",
                format!("{} exists but is not a socket", home.control_socket().display()),
            );
        }
        ListenerSeen::OtherUser { uid } => {
            let user = codexd_host::users::named(uid);
            add(problems, "foreign-owner", format!("a process of {user} listens on the control socket"));
        }
        ListenerSeen::Unresponsive { ours: true, .. } if is_expected => {}
        ListenerSeen::Unresponsive { .. } => {
            add(problems, "unresponsive-listener", MUTE_LISTENER);
        }
        _ => {}
    }
}

fn find_wrong_with_record(problems: &mut Problems, record: &pid_record::Observed, supervisor: &Supervisor) {
    let trouble = match &record.recorded {
        Recorded::Unusable(defect) => RecordProblem::Defect(defect.clone()),
        // Its supervisor is about to take the record away.
        Recorded::Gone(_) if supervisor.keeps_a_server() => return,
        Recorded::Gone(gone) => RecordProblem::Gone(*gone),
        Recorded::Alive(_) => return,
        Recorded::Absent => {
            if let Some(server) = &record.process {
                let message = format!("the app-server (pid {}) runs and has no record", server.pid);
                add(problems, "unrecorded-server", message);
            }
            return;
        }
    };
    let (found, message) = drive::name_problem(&trouble);
    add(problems, found, message);
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

/// Whether a server that does not answer yet still may.
fn is_starting(server: Option<&Process>) -> bool {
    let Some(server) = server else { return true };
    let lived = process::uptime_ms(server).unwrap_or_default();
    let is_at_work = || ProcessTable::read().group_is_at_work(server.pid.0);
    lived < START_TIMEOUT_MS || (lived < BUSY_START_TIMEOUT_MS && is_at_work())
}

/// Whether what runs is what a start would run now. The file counts, not its path.
fn running_is_installed(pid: Pid, installed: &InstalledFacts, found: &Found) -> Option<bool> {
    if found.codexd.as_ref().is_some_and(|record| record.embedded) {
        return Some(installed.path.is_none());
    }
    let running = process::executable(pid).ok()?.1;
    // A script has handed over to what it started: then the record says which script it was.
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

impl Answer for Reply {
    fn text(&self) -> Text {
        let report = &self.report;
        let (word, colour) = match report.state {
            State::Running => ("running", Colour::Green),
            State::Starting => ("starting", Colour::Yellow),
            State::Draining => ("draining: waiting for running turns to finish", Colour::Yellow),
            State::Stopped => ("stopped", Colour::Dim),
            State::Failed => ("failed", Colour::Red),
            State::CrashLooping => ("crash-looping", Colour::Red),
            State::Unmanaged => {
                ("running, not managed by codexd (codexd start --adopt changes that)", Colour::Yellow)
            }
        };
        let mut rows = vec![("state", style::paint(word, colour))];
        if let Some(pid) = report.pid {
            let up = report.uptime_seconds.map(|seconds| format!(", up {}", style::duration(seconds)));
            rows.push(("app-server", format!("pid {pid}{}", up.unwrap_or_default()).into()));
        }
        if let Some(version) = &report.app_server_version {
            let stale = if self.installed && report.running_is_installed == Some(false) {
                style::paint("  (another version is installed: codexd restart)", Colour::Yellow)
            } else {
                Text::default()
            };
            rows.push(("version", Text::quoted(version).then(stale)));
        }
        rows.push(("installed", self.installed_text()));
        rows.extend(report.gateway.as_ref().map(|gateway| ("gateway", gateway_text(gateway))));
        let others = report.generations.iter().filter(|generation| generation.role != Role::Current);
        rows.extend(others.map(|other| {
            let what =
                if other.role == Role::Outgoing { "is handing over its threads" } else { "is starting" };
            ("generation", format!("app-server pid {} {what}", other.pid).into())
        }));
        if let Some(pid) = report.supervisor_pid {
            rows.push(("supervisor", format!("pid {pid}, {}", restarts_text(report.restarts)).into()));
        }
        if let Some(at) = &report.next_attempt_at {
            rows.push(("next try", at.into()));
        }
        if let Some(exit) = report.last_exit.as_ref().filter(|exit| !exit.requested) {
            let how = match (exit.code, exit.signal) {
                (Some(code), _) => format!("code {code}"),
                (_, Some(signal)) => format!("signal {signal}"),
                _ => "unknown".to_owned(),
            };
            rows.push(("last exit", format!("{how} at {}", exit.at).into()));
            rows.extend(failures::error_line(exit).map(|line| ("", style::paint(line, Colour::Dim))));
        }
        rows.push(("socket", report.socket_path.display().to_string().into()));
        rows.extend(
            report.problems.iter().map(|problem| ("problem", style::paint(&problem.message, Colour::Yellow))),
        );
        for event in &report.events {
            rows.push((
                "event",
                style::paint(format!("{} {}", event.created_at, event.message), Colour::Dim),
            ));
        }
        style::table(&rows)
    }
}

impl Reply {
    fn source_text(&self) -> &'static str {
        match self.report.managed_codex_source {
            Some(CodexSource::Named) => " (--codex-bin)",
            Some(CodexSource::Setting) => " (from the setting codexBin)",
            Some(CodexSource::Record) => " (from --codex-bin of the running server)",
            Some(CodexSource::Managed | CodexSource::Path) | None => "",
        }
    }

    fn installed_text(&self) -> Text {
        let path = self.report.managed_codex_path.display();
        match &self.report.managed_codex_version {
            _ if !self.installed => "no Codex (install it with npm install -g @openai/codex)".into(),
            Some(version) => format!("Codex {} at {path}{}", quote(version), self.source_text()).into(),
            None => format!("Codex, version unknown, at {path}").into(),
        }
    }
}

fn restarts_text(restarts: u64) -> String {
    match restarts {
        0 => "no restarts".to_owned(),
        1 => "restarted once".to_owned(),
        more => format!("restarted {more} times"),
    }
}

fn gateway_text(gateway: &GatewayReport) -> Text {
    let listen = gateway.listen.as_ref().map(|listen| format!(", {listen}")).unwrap_or_default();
    match gateway.pid {
        Some(pid) => format!("pid {pid}{listen}").into(),
        None => style::paint("not running: no client can connect", Colour::Red),
    }
}
