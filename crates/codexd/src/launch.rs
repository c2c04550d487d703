//! The Codex of this machine and the program that runs its app-server.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use codexd_core::contract::{CodexSource, ErrorCode, Failure};
use codexd_core::identity::FileIdentity;
use codexd_core::launch_spec::{LaunchSpec, NamedCodex};
use codexd_core::limits::{
    BUSY_VERSION_DISPLAY_TIMEOUT_MS, VERSION_DISPLAY_TIMEOUT_MS, VERSION_IDLE_TIMEOUT_MS, VERSION_TIMEOUT_MS,
};
use codexd_core::os_text::OsText;
use codexd_core::settings::Settings;
use codexd_host::atomic::{self, Durability};
use codexd_host::ownership;
use codexd_host::process;
use codexd_host::process_table::Activity;
use codexd_release::version;
use codexd_release::{
    FoundCodex, Looked, NotFound, Search, VersionCache, VersionError, VersionTimeout, find,
};

use crate::context::{Context, VERSION};
use crate::failures;
use crate::progress::ProgressReporter;
use crate::recorded_codex::RecordedCodex;

/// app-server knows `--managed-daemon` since at least this version (observed on 0.169.0; 0.131.0 refuses it).
const MANAGED_DAEMON_SINCE: (u64, u64) = (0, 169);
/// Behind a gateway a thread is unloaded as soon as the gateway lets it go: when it moves to another server.
const UNLOAD_AT_ONCE: &str = "thread_unload_delay_secs=0";
/// app-server has that setting, and a lock on each thread so that two servers may share a home, since at least this version.
const SHARES_A_HOME_SINCE: (u64, u64) = (0, 169);
/// Set by upstream's daemon for every server without remote control.
const REMOTE_CONTROL_DISABLED: &str = "CODEX_INTERNAL_APP_SERVER_REMOTE_CONTROL_DISABLED";
/// Sockets at paths longer than this need a server that puts a link there; 0.131.0 cannot.
const LINKS_LONG_SOCKETS_SINCE: (u64, u64) = (0, 169);

/// Variables that describe the shell, the terminal or the service that the caller runs in, not the user: they are wrong in a
/// server that outlives the caller. The supervisor sets `PWD` itself.
const OF_THE_CALLER: [&str; 23] = [
    "PWD",
    "OLDPWD",
    "SHLVL",
    "_",
    "COLUMNS",
    "LINES",
    "TMUX",
    "TMUX_PANE",
    "STY",
    "WINDOW",
    "WINDOWID",
    "GPG_TTY",
    "SSH_TTY",
    "SSH_CLIENT",
    "SSH_CONNECTION",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
];

/// The Codex that is installed.
#[derive(Clone, Debug)]
pub struct Installed {
    /// Where, and how to run it.
    pub found: FoundCodex,
    /// What its file is.
    pub identity: Option<FileIdentity>,
    /// What `--codex-bin` names, in this command or in the one that started the server.
    pub named: Option<NamedCodex>,
}

/// Finds the Codex that a start would run.
///
/// # Errors
/// See [`find`].
pub fn installed(context: &Context, settings: &Settings) -> Result<Installed, NotFound> {
    let path = context.caller().variable("PATH");
    let recorded = RecordedCodex::of(&context.home);
    let setting = settings.codex_bin.as_deref();
    // The setting that was changed since counts.
    let before = recorded.named.filter(|named| named.setting.as_deref() == setting);
    let named = context.global.codex_bin.as_deref().map(absolute);
    let found = find(&Search {
        named: named.as_deref(),
        recorded: before.as_ref().map(|named| named.path.as_path()),
        setting,
        codex_home: context.home.root(),
        path: path.as_deref(),
        running: recorded.executable.as_deref(),
    })?;
    if found.source == CodexSource::Managed {
        check_owner(context, &found.path)?;
    }
    let identity = process::file_identity(&found.executable).ok();
    let named = named.map(|path| NamedCodex { path, setting: setting.map(Path::to_owned) }).or(before);
    Ok(Installed { found, identity, named })
}

/// Where another user may write to the home, that user could have put a program in the place of the managed Codex.
fn check_owner(context: &Context, path: &Path) -> Result<(), NotFound> {
    ownership::check_below(context.home.root(), path).map_err(|error| NotFound {
        looked_at: vec![Looked { path: path.to_owned(), why: error.to_string() }],
        named: None,
        unusable: true,
        expected: path.to_owned(),
    })
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

impl Installed {
    /// Its version: remembered, or asked for.
    ///
    /// # Errors
    /// See [`VersionError`].
    pub fn version(&self, context: &Context, timeout: VersionTimeout) -> Result<String, VersionError> {
        let path = context.home.binary_cache();
        let mut cache = VersionCache::parse(&atomic::read(&path).ok().flatten().unwrap_or_default());
        let executable = &self.found.executable;
        if let Some(identity) = self.identity
            && let Some(known) = cache.get(executable, identity)
        {
            return Ok(known.to_owned());
        }
        let (mut progress, mut activity) = (ProgressReporter::start(), Activity::default());
        let version = version::ask(executable, timeout, &mut |group| {
            progress.report(|| format!("waiting for {} --version", executable.display()));
            activity.is_seen(group)
        })?;
        if let Some(identity) = self.identity {
            cache.put(executable, identity, &version);
            // Where it cannot be written it is asked again next time.
            let _ = atomic::replace(&path, cache.to_text().as_bytes(), Durability::Process);
        }
        Ok(version)
    }

    /// Its version, if it tells it without delay.
    pub fn version_if_quick(&self, context: &Context) -> Option<String> {
        let timeout = VersionTimeout {
            idle: Duration::from_millis(VERSION_DISPLAY_TIMEOUT_MS),
            total: Duration::from_millis(BUSY_VERSION_DISPLAY_TIMEOUT_MS),
        };
        self.version(context, timeout).ok()
    }
}

/// The app-server of an installed Codex as a program, proven to run.
///
/// # Errors
/// [`ErrorCode::CodexBroken`] if it does not tell its version in time.
pub fn program(
    context: &Context,
    installed: &Installed,
    remote_control: bool,
    socket: Option<PathBuf>,
) -> Result<LaunchSpec, Failure> {
    let timeout = VersionTimeout {
        idle: Duration::from_millis(VERSION_IDLE_TIMEOUT_MS),
        total: Duration::from_millis(VERSION_TIMEOUT_MS),
    };
    let version = installed.version(context, timeout).map_err(|error| failures::broken_codex(&error))?;
    let mut args = vec![OsText::from("app-server")];
    if socket.is_some() && at_least(&version, SHARES_A_HOME_SINCE) {
        args.extend(["-c".into(), UNLOAD_AT_ONCE.into()]);
    }
    if remote_control {
        args.push("--remote-control".into());
    }
    let links = at_least(&version, LINKS_LONG_SOCKETS_SINCE);
    args.extend(["--listen".into(), OsText(listen_url(context, socket.as_deref(), links)?)]);
    // Behind a gateway, that resumes what was loaded.
    if socket.is_none() && at_least(&version, MANAGED_DAEMON_SINCE) {
        args.push("--managed-daemon".into());
    }
    let mut env = environment(context, remote_control);
    for (name, value) in &installed.found.variables {
        set(&mut env, name, value.clone());
    }
    prepend_path(&mut env, &installed.found.path_folders);
    Ok(LaunchSpec {
        executable: installed.found.executable.clone(),
        args,
        env,
        cwd: working_directory(context),
        embedded: false,
        socket,
        named: installed.named.clone(),
        version: Some(version),
    })
}

/// The server built into codexd as a program.
///
/// # Errors
/// If this very binary cannot be told.
pub fn embedded_program(
    context: &Context,
    remote_control: bool,
    socket: Option<PathBuf>,
) -> Result<LaunchSpec, Failure> {
    let mut args = vec![OsText::from("embedded-app-server")];
    if remote_control {
        args.push("--remote-control".into());
    }
    if socket.is_some() {
        args.extend(["--thread-unload-delay-secs".into(), "0".into()]);
    }
    args.extend(["--listen".into(), OsText(unix_url(socket.as_deref()))]);
    let env = environment(context, remote_control);
    Ok(LaunchSpec {
        executable: myself()?,
        args,
        env,
        cwd: working_directory(context),
        embedded: true,
        socket,
        named: None,
        version: Some(VERSION.to_owned()),
    })
}

/// Whether two servers of this program may serve one home at a time.
pub fn shares_a_home(program: &LaunchSpec) -> bool {
    let version = program.version.as_deref().unwrap_or_default();
    let remote_control = program.args.iter().any(|argument| argument.0 == "--remote-control");
    !remote_control && (program.embedded || version_shares_a_home(version))
}

/// Whether two servers may serve one home at a time, going by the version of Codex.
pub fn version_shares_a_home(version: &str) -> bool {
    at_least(version, SHARES_A_HOME_SINCE)
}

/// The binary of codexd itself.
///
/// # Errors
/// If the system does not tell.
pub fn myself() -> Result<PathBuf, Failure> {
    std::env::current_exe().map_err(|error| {
        Failure::new(ErrorCode::Internal, format!("failed to find codexd's own binary: {error}"))
    })
}

/// Where the server is to listen: on a socket of its own, or on the control socket. A server that cannot bind a long path
/// is given a short one in a private folder, with a link at the right place.
fn listen_url(context: &Context, own: Option<&Path>, links_long_paths: bool) -> Result<OsString, Failure> {
    let socket = own.map_or_else(|| context.home.control_socket(), Path::to_owned);
    if links_long_paths || socket.as_os_str().len() <= codexd_protocol::unix::SUN_PATH_MAX {
        return Ok(unix_url(own));
    }
    let short = codexd_host::socket_path::prepare(&socket)
        .map_err(|error| failures::state("create a short socket path for", &socket, &error))?;
    Ok(unix_url(Some(&short)))
}

/// Without a path it is the control socket.
fn unix_url(socket: Option<&Path>) -> OsString {
    let mut url = OsString::from("unix://");
    url.push(socket.unwrap_or(Path::new("")));
    url
}

fn environment(context: &Context, remote_control: bool) -> Vec<(OsText, OsText)> {
    let inherited = context.caller().environment().into_iter();
    let inherited = inherited.filter(|(name, _)| {
        name != REMOTE_CONTROL_DISABLED && !OF_THE_CALLER.iter().any(|caller| name == caller)
    });
    let mut env: Vec<(OsText, OsText)> =
        inherited.map(|(name, value)| (OsText(name), OsText(value))).collect();
    set(&mut env, "CODEX_HOME", context.home.root().as_os_str().to_owned());
    if !remote_control {
        set(&mut env, REMOTE_CONTROL_DISABLED, "1".into());
    }
    env
}

fn set(env: &mut Vec<(OsText, OsText)>, name: impl Into<OsString>, value: OsString) {
    let name = name.into();
    env.retain(|(known, _)| known.0 != name);
    env.push((OsText(name), OsText(value)));
}

fn prepend_path(env: &mut Vec<(OsText, OsText)>, folders: &[PathBuf]) {
    if folders.is_empty() {
        return;
    }
    let before =
        env.iter().find(|(name, _)| name.0 == "PATH").map(|(_, value)| value.0.clone()).unwrap_or_default();
    let rest = std::env::split_paths(&before).filter(|folder| !folders.contains(folder)).collect::<Vec<_>>();
    if let Ok(joined) = std::env::join_paths(folders.iter().chain(&rest)) {
        set(env, "PATH", joined);
    }
}

/// Where the server runs; it is also the folder of every thread whose client names none. Not the caller's folder, which upstream
/// uses: the server outlives the caller, and often the folder.
fn working_directory(context: &Context) -> PathBuf {
    let home = || std::env::home_dir().filter(|home| home.is_absolute() && home.is_dir());
    let named = context.settings_as_found().settings.working_directory;
    let recorded = || context.caller().recorded_folder().map(Path::to_owned);
    named.or_else(recorded).or_else(home).unwrap_or_else(|| context.home.root().to_owned())
}

fn at_least(version: &str, (major, minor): (u64, u64)) -> bool {
    let mut parts = version.split(['.', '-', '+']).map(|part| part.parse::<u64>().unwrap_or_default());
    (parts.next().unwrap_or_default(), parts.next().unwrap_or_default()) >= (major, minor)
}

/// What an answer says about the installed Codex.
#[derive(Clone, Debug, Default)]
pub struct InstalledFacts {
    /// Where it was found.
    pub path: Option<PathBuf>,
    /// Where that path comes from.
    pub source: Option<CodexSource>,
    /// Its version.
    pub version: Option<String>,
    /// What its file is.
    pub identity: Option<FileIdentity>,
    /// A Codex is there and cannot be run: why.
    pub unusable: Option<String>,
}

impl InstalledFacts {
    /// Looks; nothing found is no failure here.
    pub fn gather(context: &Context, settings: &Settings) -> Self {
        match installed(context, settings) {
            Ok(installed) => {
                let version = installed.version_if_quick(context);
                Self {
                    source: Some(installed.found.source),
                    path: Some(installed.found.path),
                    version,
                    identity: installed.identity,
                    unusable: None,
                }
            }
            Err(not_found) => {
                let last =
                    not_found.looked_at.last().filter(|_| not_found.unusable || not_found.named.is_some());
                let unusable = last.map(|looked| format!("{} is {}", looked.path.display(), looked.why));
                Self { unusable, ..Self::default() }
            }
        }
    }

    /// What upstream calls the version of the CLI: that of the Codex here, or codexd's own where there is none. Where there
    /// is one that does not tell its version, that of the server that runs: no user is told to update on a guess.
    pub fn cli_version(&self, running: Option<&str>) -> String {
        match (&self.version, &self.path, running) {
            (Some(version), ..) => version.clone(),
            (None, Some(_), Some(running)) => running.to_owned(),
            (None, Some(_), None) => "unknown".to_owned(),
            (None, None, _) => VERSION.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::at_least;

    #[test]
    fn versions_compare_by_number() {
        assert!(
            at_least("0.169.0", (0, 169))
                && at_least("1.0.0", (0, 169))
                && at_least("0.170.0-alpha.1", (0, 169))
        );
        assert!(!at_least("0.131.0", (0, 169)) && !at_least("nonsense", (0, 169)));
    }
}
