//! The app-server as a process: `codex app-server --listen URL …`, or the server built into codexd.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

use codexd_core::launch_spec::{LaunchSpec, NamedCodex};
use codexd_core::os_text::OsText;

use super::{Started, environment};
use crate::home::Home;
use crate::orphans::GENERATION_VARIABLE;
use crate::{config_file, process_context, socket_path, upstream_files};

/// Codex accepts `--managed-daemon` since this version or an earlier one (observed on 0.169.0; 0.131.0 refuses it).
const MANAGED_DAEMON_SINCE: (u64, u64) = (0, 169);
/// Since this version or an earlier one Codex has the setting `thread_unload_delay_secs`, and a lock for each thread, so that two
/// servers may share a home.
const SHARES_A_HOME_SINCE: (u64, u64) = (0, 169);
/// Since this version or an earlier one Codex creates a link for a socket whose path is too long for the kernel; 0.131.0 cannot.
const LINKS_LONG_SOCKETS_SINCE: (u64, u64) = (0, 169);

/// Tells an app-server that a daemon manages it.
pub(crate) const MANAGED_DAEMON: &str = "--managed-daemon";
const REMOTE_CONTROL: &str = "--remote-control";
/// Behind a gateway a thread is unloaded as soon as the gateway unsubscribes from it: when it moves to another server.
const UNLOAD_AT_ONCE: &str = "thread_unload_delay_secs=0";
/// The daemon of upstream sets this variable for each server without remote control.
const REMOTE_CONTROL_DISABLED: &str = "CODEX_INTERNAL_APP_SERVER_REMOTE_CONTROL_DISABLED";

/// What the launch spec of an app-server depends on, whichever server it is.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whether to enable remote control.
    pub remote_control: bool,
    /// The socket behind a gateway; `None` for the control socket.
    pub socket: Option<PathBuf>,
    /// The environment of the caller.
    pub env: Vec<(OsString, OsString)>,
    /// The working directory.
    pub cwd: PathBuf,
    /// The umask that the environment of the caller sets; `None` for that of the files.
    pub umask: Option<u32>,
    /// The resident memory above which the server is replaced, in MiB.
    pub memory_ceiling_mib: Option<u64>,
}

/// The Codex to run.
#[derive(Clone, Debug)]
pub struct Codex<'a> {
    /// The native binary.
    pub executable: &'a Path,
    /// Its version.
    pub version: String,
    /// Folders of its package, to be searched before those of `PATH`.
    pub path_folders: &'a [PathBuf],
    /// Variables that describe how it was installed.
    pub variables: &'a [(OsString, OsString)],
    /// Its first arguments, normally `app-server`.
    pub first_args: &'a [String],
    /// What `--codex-bin` selected, if it did.
    pub named: Option<NamedCodex>,
}

/// The launch spec of the app-server of Codex.
///
/// # Errors
/// The system's, for a short path of the socket.
pub fn codex_spec(home: &Home, codex: Codex<'_>, options: Options) -> io::Result<LaunchSpec> {
    let Options { remote_control, socket, env, cwd, umask, memory_ceiling_mib } = options;
    let version = codex.version;
    let mut args: Vec<OsText> = codex.first_args.iter().map(|word| OsText::from(word.as_str())).collect();
    if socket.is_some() && is_at_least(&version, SHARES_A_HOME_SINCE) {
        args.extend(["-c".into(), UNLOAD_AT_ONCE.into()]);
    }
    if remote_control {
        args.push(REMOTE_CONTROL.into());
    }
    let links_long_paths = is_at_least(&version, LINKS_LONG_SOCKETS_SINCE);
    args.extend(["--listen".into(), OsText(listen_url(home, socket.as_deref(), links_long_paths)?)]);
    // With the option Codex resumes the threads that were loaded. Behind a gateway the gateway resumes them.
    if socket.is_none() && is_at_least(&version, MANAGED_DAEMON_SINCE) {
        args.push(MANAGED_DAEMON.into());
    }
    let mut env = server_environment(home, env, remote_control);
    for (name, value) in codex.variables {
        set(&mut env, name, value.clone());
    }
    prepend_path(&mut env, codex.path_folders);
    Ok(LaunchSpec {
        executable: codex.executable.to_owned(),
        args,
        env,
        cwd,
        embedded: false,
        socket,
        named: codex.named,
        version: Some(version),
        umask,
        memory_ceiling_mib,
    })
}

/// The launch spec of the embedded app-server: `codexd` is the binary, of the version `version`.
pub fn embedded_spec(home: &Home, codexd: &Path, version: &str, options: Options) -> LaunchSpec {
    let Options { remote_control, socket, env, cwd, umask, memory_ceiling_mib } = options;
    let mut args = vec![OsText::from("embedded-app-server")];
    if remote_control {
        args.push(REMOTE_CONTROL.into());
    }
    if socket.is_some() {
        args.extend(["--thread-unload-delay-secs".into(), "0".into()]);
    }
    args.extend(["--listen".into(), OsText(unix_url(socket.as_deref()))]);
    LaunchSpec {
        executable: codexd.to_owned(),
        args,
        env: server_environment(home, env, remote_control),
        cwd,
        embedded: true,
        socket,
        named: None,
        version: Some(version.to_owned()),
        umask,
        memory_ceiling_mib,
    }
}

/// Starts an app-server in a process group of its own.
///
/// # Errors
/// The system's: no such file, not executable, out of memory, …
pub fn spawn(home: &Home, spec: &LaunchSpec, generation_id: &str) -> io::Result<Started> {
    home.create_state()?;
    let stderr = home.stderr_log();
    if spec.args.iter().any(|argument| argument.0 == MANAGED_DAEMON) {
        // Without the link the server only writes to a log of its own as well.
        let _ = upstream_files::link_managed_log(home);
    }
    let (mut command, stderr_from) = super::command(home, spec, &home.stdout_log(), &stderr)?;
    command
        .args(spec.args.iter().map(|argument| &argument.0))
        .env_clear()
        .envs(spec.env.iter().map(|(name, value)| (&name.0, &value.0)))
        .env(GENERATION_VARIABLE, generation_id);
    if let Some(cwd) = command.get_current_dir().map(Path::to_owned) {
        command.env("PWD", cwd);
    }
    let umask = spec.umask.unwrap_or_else(|| config_file::of_files(home).umask());
    let child = process_context::with_umask(umask, || command.spawn())?;
    Ok(Started { child, stderr, stderr_from })
}

/// Whether another server may run in the same home beside one that is started with `spec`.
pub fn shares_a_home(spec: &LaunchSpec) -> bool {
    let version = spec.version.as_deref().unwrap_or_default();
    !has_remote_control(spec.args.iter().map(|argument| argument.0.as_os_str()))
        && (spec.embedded || version_shares_a_home(version))
}

/// The same for a Codex of this version without remote control.
pub fn version_shares_a_home(version: &str) -> bool {
    is_at_least(version, SHARES_A_HOME_SINCE)
}

/// Whether the arguments of a server enable remote control.
pub fn has_remote_control<'a>(arguments: impl IntoIterator<Item = &'a OsStr>) -> bool {
    arguments.into_iter().any(|argument| argument == REMOTE_CONTROL)
}

/// The value of `--listen`. A server that cannot bind a long path gets a short one in a private folder, with a link at the long one.
fn listen_url(home: &Home, socket: Option<&Path>, links_long_paths: bool) -> io::Result<OsString> {
    let path = socket.map_or_else(|| home.control_socket(), Path::to_owned);
    if links_long_paths || path.as_os_str().len() <= codexd_protocol::unix::SUN_PATH_MAX {
        return Ok(unix_url(socket));
    }
    Ok(unix_url(Some(&socket_path::prepare(&path)?)))
}

/// Without a path Codex listens on the control socket.
fn unix_url(socket: Option<&Path>) -> OsString {
    let mut url = OsString::from("unix://");
    url.push(socket.unwrap_or(Path::new("")));
    url
}

fn server_environment(
    home: &Home,
    caller: Vec<(OsString, OsString)>,
    remote_control: bool,
) -> Vec<(OsText, OsText)> {
    let inherited = environment::for_app_server(caller).into_iter();
    let mut env: Vec<(OsText, OsText)> = inherited
        .filter(|(name, _)| name != REMOTE_CONTROL_DISABLED)
        .map(|(name, value)| (OsText(name), OsText(value)))
        .collect();
    set(&mut env, "CODEX_HOME", home.root().as_os_str().to_owned());
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
    let path = env.iter().find(|(name, _)| name.0 == "PATH").map(|(_, value)| value.0.clone());
    let path = path.unwrap_or_default();
    let rest = std::env::split_paths(&path).filter(|folder| !folders.contains(folder)).collect::<Vec<_>>();
    if let Ok(joined) = std::env::join_paths(folders.iter().chain(&rest)) {
        set(env, "PATH", joined);
    }
}

fn is_at_least(version: &str, (major, minor): (u64, u64)) -> bool {
    let mut parts = version.split(['.', '-', '+']).map(|part| part.parse::<u64>().unwrap_or_default());
    (parts.next().unwrap_or_default(), parts.next().unwrap_or_default()) >= (major, minor)
}

#[cfg(test)]
mod tests {
    use super::is_at_least;

    #[test]
    fn versions_compare_by_number() {
        assert!(
            is_at_least("0.169.0", (0, 169))
                && is_at_least("1.0.0", (0, 169))
                && is_at_least("0.170.0-alpha.1", (0, 169))
        );
        assert!(!is_at_least("0.131.0", (0, 169)) && !is_at_least("nonsense", (0, 169)));
    }
}
