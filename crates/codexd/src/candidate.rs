//! The proof of a release before it is selected: its Codex prints its version, and its app-server answers `initialize` and loads the
//! configuration of the user. The app-server gets a home and a socket of its own, so it touches nothing that is in use.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use codexd_core::config::Config;
use codexd_core::contract::{ErrorCode, Failure};
use codexd_core::foreign_text::{self, quote};
use codexd_core::launch_spec::LaunchSpec;
use codexd_core::limits::{
    BUSY_START_TIMEOUT_MS, PROBE_TIMEOUT_MS, PROOF_TIMEOUT_MS, START_TIMEOUT_MS, STDERR_TAIL_BYTES,
    VERSION_IDLE_TIMEOUT_MS, VERSION_TIMEOUT_MS,
};
use codexd_host::launch::app_server::{self, Codex, Options};
use codexd_host::process_table::Activity;
use codexd_host::{Home, atomic, socket_path};
use codexd_protocol::probe::{self, ProbeError};
use codexd_protocol::session::Session;
use codexd_release::install::Candidate;
use codexd_release::process_group::{ProcessGroup, exits_by};
use codexd_release::{VersionError, VersionTimeout, version};

use crate::commands::guarded;
use crate::context::{Context, VERSION};
use crate::limits::{CANDIDATE_CONFIG_BYTES_MAX, CANDIDATE_END_TIMEOUT, CANDIDATE_POLL};
use crate::progress::ProgressReporter;
use crate::{failures, prove};

/// The long name of the socket, in the folder of the releases. It begins as the names that each installer removes.
const SOCKET: &str = "packages/standalone/.current.candidate.sock";

/// Proves a release, and returns the version that its Codex prints.
///
/// # Errors
/// `candidate-unfit`, `codex-slow`, `config-invalid`; the error of the file system. None of its processes runs afterwards.
pub fn prove(context: &Context, config: &Config, candidate: &Candidate<'_>) -> Result<String, Failure> {
    let version = version_of(candidate.executable)?;
    if candidate.version.is_some_and(|stated| stated != version) {
        // The install refuses it.
        return Ok(version);
    }
    let home = Home::new(candidate.scratch.join("home"));
    copy_configuration(context.home.root(), home.root())
        .map_err(|error| failures::state("prepare the proof in", home.root(), &error))?;
    let long = context.home.root().join(SOCKET);
    let short = socket_path::prepare(&long)
        .map_err(|error| failures::state("create a short socket path for", &long, &error))?;
    // One of an earlier proof that was killed.
    let removed = || atomic::remove_if_exists(&short).and_then(|()| atomic::remove_if_exists(&long));
    atomic::remove_if_exists(&short).map_err(|error| failures::state("remove", &short, &error))?;
    let server = Server { context, config, candidate, version: &version };
    let result = server.serves(&home, &short);
    removed().map_err(|error| failures::state("remove", &short, &error))?;
    result.map(|()| version)
}

fn version_of(executable: &Path) -> Result<String, Failure> {
    let timeout = VersionTimeout {
        idle: Duration::from_millis(VERSION_IDLE_TIMEOUT_MS),
        total: Duration::from_millis(VERSION_TIMEOUT_MS),
    };
    let (mut progress, mut activity) = (ProgressReporter::start(), Activity::default());
    version::ask(executable, timeout, &mut |group| {
        progress.report(|| format!("waiting for {} --version", executable.display()));
        activity.is_seen(group)
    })
    .map_err(|error| match error {
        VersionError::Slow { .. } => failures::broken_codex(&error),
        error => unfit(&error.to_string(), None),
    })
}

fn unfit(why: &str, stderr: Option<&str>) -> Failure {
    let line = stderr.and_then(foreign_text::error_line);
    let because = line.as_ref().map(|line| format!(": {}", quote(line))).unwrap_or_default();
    Failure::new(ErrorCode::CandidateUnfit, format!("the release does not work: {why}{because}"))
        .hint("nothing has changed; install another version")
        .with("cause", why)
        .with("stderrTail", stderr)
}

/// Copies the files that the configuration may consist of. Logins and threads are none of them.
fn copy_configuration(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_configuration = match Path::new(&name).extension().and_then(|end| end.to_str()) {
            Some("toml" | "md") => name != "codexd.toml",
            Some("json") => name != "auth.json",
            _ => false,
        };
        // A link to a file counts as the file.
        let found = fs::metadata(entry.path());
        if is_configuration
            && found.is_ok_and(|found| found.is_file() && found.len() <= CANDIDATE_CONFIG_BYTES_MAX)
        {
            fs::copy(entry.path(), to.join(&name))?;
        }
    }
    Ok(())
}

struct Server<'a> {
    context: &'a Context,
    config: &'a Config,
    candidate: &'a Candidate<'a>,
    version: &'a str,
}

impl Server<'_> {
    /// The app-server in a home.
    fn spec(&self, home: &Home, socket: &Path) -> io::Result<LaunchSpec> {
        let release = self.candidate.release;
        let folders: Vec<PathBuf> =
            [release.join("codex-path")].into_iter().filter(|folder| folder.is_dir()).collect();
        let codex = Codex {
            executable: self.candidate.executable,
            version: self.version.to_owned(),
            path_folders: &folders,
            variables: &[],
            first_args: self.config.server_args(),
            named: None,
        };
        let options = Options {
            remote_control: false,
            socket: Some(socket.to_owned()),
            env: self.context.caller().environment(),
            cwd: home.root().to_owned(),
            umask: None,
            memory_ceiling_mib: None,
        };
        app_server::codex_spec(home, codex, options)
    }

    /// Starts the app-server and talks to it.
    fn serves(&self, home: &Home, socket: &Path) -> Result<(), Failure> {
        let spec = self
            .spec(home, socket)
            .map_err(|error| failures::state("prepare the proof in", home.root(), &error))?;
        let stderr = self.candidate.scratch.join("stderr");
        let failed = |error| failures::state("run", self.candidate.executable, &error);
        let group = start(&spec, &stderr)?;
        let handle = group.handle().map_err(failed)?;
        let answered = await_answer(&group, &handle, socket);
        let refused = answered.as_ref().ok().and_then(|()| self.configuration_error(home, socket));
        // So it removes its own sockets.
        group.request_end();
        exits_by(&handle, Instant::now() + CANDIDATE_END_TIMEOUT).map_err(failed)?;
        let ended = group.end().map_err(failed)?;
        match answered {
            Ok(()) => refused.map_or(Ok(()), Err),
            Err(NoAnswer::Exited) => Err(unfit(
                &format!("its app-server ended ({ended}) before it answered"),
                tail(&stderr).as_deref(),
            )),
            Err(NoAnswer::TimedOut(why)) => Err(unfit(
                &format!("its app-server did not answer in time ({why})"),
                tail(&stderr).as_deref(),
            )),
            Err(NoAnswer::System(error)) => Err(failed(error)),
        }
    }

    /// Why the configuration does not load. The copy may lack a file beside it, so the release reads the original as well.
    fn configuration_error(&self, copy: &Home, socket: &Path) -> Option<Failure> {
        let mut session = Session::open(socket, VERSION, Duration::from_millis(PROOF_TIMEOUT_MS)).ok()?;
        let why = prove::configuration_refused(&mut session)?;
        let original = &self.context.home;
        let confirmed = prove::program(&self.spec(original, socket).ok()?, None).err()?;
        // The app-server names the file and the line more often.
        let [copy, original] = [copy, original].map(|home| home.root().to_string_lossy().into_owned());
        let located = why.replace(&copy, &original);
        Some(if located.contains(&original) { prove::config_invalid(&located, None) } else { confirmed })
    }
}

/// Starts the app-server below `codexd guarded`, so that it ends with this command.
fn start(spec: &LaunchSpec, stderr: &Path) -> Result<ProcessGroup, Failure> {
    // The file may have been replaced since this command began.
    let codexd = Path::new("/proc/self/exe");
    let log = File::create(stderr).map_err(|error| failures::state("create", stderr, &error))?;
    let mut command = Command::new(codexd);
    command
        .args(guarded::words(&spec.executable))
        .args(spec.args.iter().map(|argument| &argument.0))
        .env_clear()
        .envs(spec.env.iter().map(|(name, value)| (&name.0, &value.0)))
        .current_dir(&spec.cwd)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    ProcessGroup::spawn(&mut command).map_err(|error| failures::state("run", codexd, &error))
}

enum NoAnswer {
    Exited,
    TimedOut(String),
    System(io::Error),
}

/// Waits until the app-server answers `initialize`. One that is at work gets more time than an idle one.
fn await_answer(group: &ProcessGroup, handle: &OwnedFd, socket: &Path) -> Result<(), NoAnswer> {
    let began = Instant::now();
    let (idle_until, until) = (
        began + Duration::from_millis(START_TIMEOUT_MS),
        began + Duration::from_millis(BUSY_START_TIMEOUT_MS),
    );
    let (mut progress, mut activity) = (ProgressReporter::start(), Activity::default());
    loop {
        let last = match probe::ask(socket, VERSION, Duration::from_millis(PROBE_TIMEOUT_MS)) {
            Ok(_) => return Ok(()),
            Err(ProbeError::Connect(error)) => format!("failed to connect: {error}"),
            Err(error) => error.to_string(),
        };
        let now = Instant::now();
        if now >= until || (now >= idle_until && !activity.is_seen(group.id())) {
            return Err(NoAnswer::TimedOut(quote(&last)));
        }
        progress.report(|| "waiting for the app-server of the new release".to_owned());
        if exits_by(handle, now + CANDIDATE_POLL).map_err(NoAnswer::System)? {
            return Err(NoAnswer::Exited);
        }
    }
}

/// The end of what the app-server wrote.
fn tail(stderr: &Path) -> Option<String> {
    let text = fs::read(stderr).ok()?;
    let from = text.len().saturating_sub(usize::try_from(STDERR_TAIL_BYTES).unwrap_or(usize::MAX));
    Some(String::from_utf8_lossy(&text[from..]).into_owned())
}
