//! The launch specs of a command: collects what [`codexd_host::launch`] needs from the settings, the caller and the installed Codex.

use std::path::PathBuf;
use std::time::Duration;

use codexd_core::config::{Config, Gateway};
use codexd_core::contract::Failure;
use codexd_core::launch_spec::LaunchSpec;
use codexd_core::limits::{VERSION_IDLE_TIMEOUT_MS, VERSION_TIMEOUT_MS};
use codexd_host::launch::app_server::{self, Codex, Options};
use codexd_host::launch::gateway;
use codexd_release::VersionTimeout;

use crate::context::{Context, VERSION};
use crate::failures;
use crate::installed_codex::Installed;
use crate::own_binary::own_binary;

/// The conditions under which a server is started.
#[derive(Clone, Debug)]
pub struct LaunchRequest {
    /// The running server is the embedded one.
    pub embedded_runs: bool,
    /// The socket behind a gateway; `None` for the control socket.
    pub socket: Option<PathBuf>,
}

/// The app-server of an installed Codex, after that Codex has printed its version.
///
/// # Errors
/// `codex-broken` or `codex-slow` if it does not print its version in time; the error of the file system.
pub fn codex(
    context: &Context,
    config: &Config,
    installed: &Installed,
    socket: Option<PathBuf>,
) -> Result<LaunchSpec, Failure> {
    let timeout = VersionTimeout {
        idle: Duration::from_millis(VERSION_IDLE_TIMEOUT_MS),
        total: Duration::from_millis(VERSION_TIMEOUT_MS),
    };
    let version = installed.version(context, timeout).map_err(|error| failures::broken_codex(&error))?;
    let codex = Codex {
        executable: &installed.found.executable,
        version,
        path_folders: &installed.found.path_folders,
        variables: &installed.found.variables,
        first_args: config.server_args(),
        named: installed.named.clone(),
    };
    let path = socket.clone().unwrap_or_else(|| context.home.control_socket());
    app_server::codex_spec(&context.home, codex, options(context, config, socket))
        .map_err(|error| failures::state("create a short socket path for", &path, &error))
}

/// The app-server built into codexd.
///
/// # Errors
/// If the path of the binary of codexd is unknown.
pub fn embedded(context: &Context, config: &Config, socket: Option<PathBuf>) -> Result<LaunchSpec, Failure> {
    let options = options(context, config, socket);
    Ok(app_server::embedded_spec(&context.home, &own_binary()?, VERSION, options))
}

/// The gateway; `None` if `settings` disable it.
///
/// # Errors
/// If the path of the binary of codexd is unknown.
pub fn gateway(context: &Context, settings: Gateway) -> Result<Option<LaunchSpec>, Failure> {
    let caller = context.caller();
    Ok(gateway::spec(&context.home, settings, &own_binary()?, |name| caller.variable(name)))
}

fn options(context: &Context, config: &Config, socket: Option<PathBuf>) -> Options {
    Options {
        remote_control: config.is_remote_control_enabled(),
        socket,
        env: context.caller().environment(),
        cwd: working_directory(context, config),
        umask: config.umask_of_environment(),
        memory_ceiling_mib: config.memory_ceiling_mib(),
    }
}

/// The working directory of the server: also that of each thread whose client names none. Upstream uses the folder of the caller, but
/// the server outlives the caller and often the folder.
fn working_directory(context: &Context, config: &Config) -> PathBuf {
    let home = || std::env::home_dir().filter(|home| home.is_absolute() && home.is_dir());
    let setting = config.working_directory().map(std::path::Path::to_owned);
    let recorded = || context.caller().recorded_folder().map(std::path::Path::to_owned);
    setting.or_else(recorded).or_else(home).unwrap_or_else(|| context.home.root().to_owned())
}
