//! The command line.

mod install;
mod services;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand, ValueEnum};
use codexd_core::contract::{ErrorCode, Failure};

use crate::config::ConfigArgs;
use crate::output::{self, Mode};

pub use install::{InstallArgs, SelfUpdateArgs};
pub use services::{
    BackendArg, BootstrapArgs, RemoteControlAction, RemoteControlArgs, ServiceAction, ServiceArgs,
    ServiceKind, ServicePrintArgs,
};

/// Keep the Codex app-server running on this machine. Commands print text on a terminal and one JSON object elsewhere.
#[derive(Debug, Parser)]
#[command(name = "codexd", version, disable_help_subcommand = true)]
pub struct Cli {
    /// The options of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: CliCommand,
}

/// The options of every command.
#[derive(Args, Clone, Debug)]
pub struct Global {
    /// Codex home to work on [default: $CODEX_HOME, else ~/.codex]
    #[arg(long, global = true, value_name = "PATH")]
    pub codex_home: Option<PathBuf>,
    /// Codex binary to run instead of the managed one or the one on PATH
    #[arg(long, global = true, value_name = "PATH")]
    pub codex_bin: Option<PathBuf>,
    /// Print one JSON object even on a terminal
    #[arg(long, global = true, conflicts_with = "text")]
    pub json: bool,
    /// Print text even to a pipe or a file
    #[arg(long, global = true)]
    pub text: bool,
    /// Allow a home that another user owns; root then runs codexd as that user [default: only the homes in $CODEXD_FOREIGN_HOMES]
    #[arg(long, global = true)]
    pub allow_foreign_owner: bool,
    /// How long to wait for another codexd command on this home
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = codexd_core::limits::LOCK_TIMEOUT_SECONDS)]
    pub lock_timeout: u64,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum CliCommand {
    /// Start the app-server with progress output, then print how to attach a terminal
    Up,
    /// Start the app-server if none is running, and wait until it answers
    Start(StartArgs),
    /// Run the app-server in the foreground until SIGINT or SIGTERM, for a container or a terminal
    Run(RunArgs),
    /// Stop the app-server gracefully: running turns get a grace period, then SIGKILL; leaves no orphaned processes
    Stop(GraceArgs),
    /// Replace the app-server with one of the installed Codex, without interrupting turns where possible
    Restart(RestartArgs),
    /// Like restart, but wait for running turns without a time limit
    Reload,
    /// Install a release of Codex in this home, after proving that it works, and select it for the next start
    Install(InstallArgs),
    /// List the releases of Codex in this home
    Releases,
    /// Show status, problems and recent events
    Status(StatusArgs),
    /// Show the installed and the running version; fail if no app-server answers
    Version,
    /// Enable remote control, now and for later starts
    EnableRemoteControl(GraceArgs),
    /// Disable remote control, now and for later starts
    DisableRemoteControl(GraceArgs),
    /// Install codexd for this home, start everything, and have it started at boot; also moves a home to another backend
    Bootstrap(BootstrapArgs),
    /// Enable remote control and start the app-server, bootstrapping the home first if that never happened
    RemoteControl(RemoteControlArgs),
    /// Stop the app-server and remove services and state; Codex, its configuration and the threads stay
    Uninstall(GraceArgs),
    /// Print the files of a service manager for this home
    Service(ServiceArgs),
    /// Show the log of the app-server, the gateway or the supervisor
    Logs(LogsArgs),
    /// Show every value of the configuration with its origin, or change one
    Config(ConfigCommandArgs),
    /// Print internal state for a bug report
    Debug {
        /// What to print
        #[arg(value_enum)]
        what: DebugSubject,
    },
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
    /// Connect stdin and stdout to the control socket
    Proxy(ProxyArgs),
    /// Replace the codexd binary by that of a file, after a check of the file
    SelfUpdate(SelfUpdateArgs),
    /// Run the built-in app-server (internal)
    #[command(hide = true)]
    EmbeddedAppServer(EmbeddedArgs),
    /// Print the table of error codes as Markdown (internal, for the docs)
    #[command(hide = true)]
    ErrorTable,
    /// Write the man pages into a folder (internal, for packages)
    #[command(hide = true)]
    ManPages {
        /// Folder to write to; it must exist
        folder: PathBuf,
    },
}

/// The options of `start`.
#[derive(Args, Clone, Debug, Default)]
pub struct StartArgs {
    /// Adopt a running app-server that codexd does not manage, without stopping it
    #[arg(long)]
    pub adopt: bool,
    /// Run the small built-in app-server instead of Codex
    #[arg(long, conflicts_with = "codex_bin")]
    pub embedded: bool,
}

/// The options of `run`.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// Values of the configuration.
    #[command(flatten)]
    pub values: ConfigArgs,
    /// Run the small built-in app-server instead of Codex
    #[arg(long, conflicts_with_all = ["codex_bin", "server-command"])]
    pub embedded: bool,
}

/// The options of commands that may end a server.
#[derive(Args, Clone, Debug, Default)]
pub struct GraceArgs {
    /// Time for running turns to finish [default: the setting stopGraceSeconds, else shutdownGraceSeconds, else 60]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(..=codexd_core::limits::SHUTDOWN_GRACE_MAX_SECONDS))]
    pub grace: Option<u64>,
}

/// The options of `restart`.
#[derive(Args, Clone, Debug, Default)]
pub struct RestartArgs {
    /// How the old server is ended where it is ended first.
    #[command(flatten)]
    pub grace: GraceArgs,
    /// Stop the old app-server before starting the new one, even if a handover without interruption is possible
    #[arg(long)]
    pub now: bool,
}

/// The options of `status`.
#[derive(Args, Clone, Debug, Default)]
pub struct StatusArgs {
    /// Wait until the home reaches this state; fail with wait-timeout if the timeout expires first
    #[arg(long, value_enum, value_name = "STATE")]
    pub wait: Option<WaitFor>,
    /// How long to wait at most
    #[arg(long, value_name = "SECONDS", requires = "wait", default_value_t = codexd_core::limits::STATUS_WAIT_TIMEOUT_SECONDS)]
    pub timeout: u64,
}

/// What `status --wait` waits for.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum WaitFor {
    /// The app-server answers.
    Running,
    /// No app-server is shutting down or handing over to its successor.
    Drained,
    /// No app-server runs, and none is about to be started.
    Stopped,
}

/// The options of `logs`.
#[derive(Args, Clone, Debug)]
pub struct LogsArgs {
    /// Number of lines to show, counted from the end
    #[arg(short = 'n', long, default_value_t = 100)]
    pub lines: usize,
    /// Process whose log to show
    #[arg(long, value_enum, default_value_t = LogProcess::AppServer)]
    pub process: LogProcess,
    /// Stream of the app-server to show [default: stderr]
    #[arg(long, value_enum)]
    pub stream: Option<Stream>,
    /// List the log files of this home instead
    #[arg(long, conflicts_with_all = ["follow", "raw", "lines", "process", "stream"])]
    pub list: bool,
    /// Keep printing new lines, as text, until interrupted
    #[arg(short, long, conflicts_with = "json")]
    pub follow: bool,
    /// Print the bytes of the log unchanged, control characters included; not meant for a terminal
    #[arg(long, conflicts_with = "json")]
    pub raw: bool,
}

/// The options of `config`.
#[derive(Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct ConfigCommandArgs {
    /// Values for this command, as `run` takes them.
    #[command(flatten)]
    pub values: ConfigArgs,
    /// What to change.
    #[command(subcommand)]
    pub change: Option<ConfigChange>,
}

/// A change of the configuration.
#[derive(Clone, Debug, Subcommand)]
pub enum ConfigChange {
    /// Set a value in codexd.toml
    Set {
        /// A key, such as gateway.listen
        key: String,
        /// Its value; a list as a JSON array or words parted by spaces
        value: String,
    },
    /// Remove a key from codexd.toml, so that its default holds
    Unset {
        /// A key, such as gateway.listen
        key: String,
    },
}

/// A process that has a log.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum LogProcess {
    /// The app-server.
    AppServer,
    /// The gateway.
    Gateway,
    /// The supervisor.
    Supervisor,
    /// The commands, which log only if CODEXD_LOG is set.
    Command,
}

/// What `debug` prints.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum DebugSubject {
    /// The state of the gateway's hub, without the content of messages.
    Hub,
}

/// The options of `completions`.
#[derive(Args, Clone, Debug)]
pub struct CompletionsArgs {
    /// Shell to complete for
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// A stream of the app-server.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Stream {
    /// Its standard output.
    Stdout,
    /// Its standard error.
    Stderr,
}

impl Stream {
    /// The name in answers.
    pub fn name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// The options of `proxy`.
#[derive(Args, Clone, Debug)]
pub struct ProxyArgs {
    /// Socket to connect to [default: the control socket of the home]
    #[arg(long, value_name = "SOCKET_PATH")]
    pub sock: Option<PathBuf>,
    /// Exchange messages as lines of JSON instead of WebSocket frames
    #[arg(long)]
    pub lines: bool,
}

/// The options of the embedded app-server: those of the real one that it understands.
#[derive(Args, Clone, Debug)]
pub struct EmbeddedArgs {
    /// Where to listen
    #[arg(long, default_value = "unix://")]
    pub listen: String,
    /// Report remote control as requested to clients
    #[arg(long)]
    pub remote_control: bool,
    /// Delay before idle threads without subscribers are unloaded, as in Codex
    #[arg(long, value_name = "SECONDS")]
    pub thread_unload_delay_secs: Option<u64>,
    /// Configuration override, as in Codex; only thread_unload_delay_secs has an effect
    #[arg(short = 'c', long = "config", value_name = "KEY=VALUE")]
    pub config: Vec<String>,
    /// Accepted for compatibility with Codex; has no effect
    #[arg(long)]
    pub managed_daemon: bool,
}

/// A program written for `codex app-server daemon <command>`, or for `codex app-server proxy`, reaches the same command.
pub fn without_upstream_prefix(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = arguments.into_iter().collect();
    if arguments.len() > 2 && arguments[1] == "app-server" && arguments[2] == "daemon" {
        arguments.drain(1..3);
    } else if arguments.len() > 2 && arguments[1] == "app-server" && arguments[2] == "proxy" {
        arguments.remove(1);
    }
    arguments
}

/// Why there is nothing to run: help was asked for, or the line is not understood.
#[derive(Debug)]
pub struct Stop {
    error: clap::Error,
    mode: Mode,
}

/// Parses the command line.
///
/// # Errors
/// [`Stop`], which knows how to report itself.
pub fn parse(arguments: Vec<OsString>) -> Result<Cli, Stop> {
    let mode = Mode::of_arguments(arguments.iter());
    Cli::try_parse_from(arguments).map_err(|error| Stop { error, mode })
}

impl Stop {
    /// Help and version go to stdout as they are: a person asked. Anything else is an error as every command has them.
    pub fn report(self) -> ExitCode {
        if matches!(self.error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
            return match self.error.print() {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::from(ErrorCode::StdoutClosed.exit_code()),
            };
        }
        let text = self.error.render().to_string();
        let first = match self.error.kind() {
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
                "no command given".to_owned()
            }
            _ => text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned(),
        };
        let failure = Failure::new(ErrorCode::BadArguments, first).hint(
            "`codexd --help` lists the commands; `codexd COMMAND --help` lists the options of a command",
        );
        output::say_lines(text.trim_end());
        match self.mode {
            Mode::Json => output::print_failure_json(&failure),
            Mode::Text => ExitCode::from(failure.code.exit_code()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Cli, without_upstream_prefix};
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn upstreams_spelling_reaches_the_same_command() {
        let arguments = ["codexd", "app-server", "daemon", "start"].map(Into::into);
        assert_eq!(without_upstream_prefix(arguments), ["codexd", "start"]);
        let arguments = ["codexd", "app-server", "proxy", "--sock", "s"].map(Into::into);
        assert_eq!(without_upstream_prefix(arguments), ["codexd", "proxy", "--sock", "s"]);
    }
}
