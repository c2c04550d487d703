//! The options of `bootstrap`, `remote-control` and `service`.

use clap::{Args, Subcommand, ValueEnum};

/// The options of `bootstrap`.
#[derive(Args, Clone, Debug)]
pub struct BootstrapArgs {
    /// Enable remote control; without this option it is disabled
    #[arg(long)]
    pub remote_control: bool,
    /// What runs codexd
    #[arg(long, value_enum, default_value_t = BackendArg::Auto)]
    pub backend: BackendArg,
}

/// A backend that the user names.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum BackendArg {
    /// systemd where a user manager runs, else pid.
    Auto,
    /// The systemd user manager, which starts codexd at boot.
    Systemd,
    /// The supervisor of codexd; nothing starts it at boot.
    Pid,
    /// Not supported: codexd runs on Linux only.
    Launchd,
}

/// The options of `remote-control`.
#[derive(Args, Clone, Debug)]
pub struct RemoteControlArgs {
    /// What to do
    #[command(subcommand)]
    pub action: Option<RemoteControlAction>,
}

/// What `remote-control` does.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum RemoteControlAction {
    /// The same, and wait until remote control is connected
    Start,
    /// Stop the app-server
    Stop,
    /// Pair another device with this machine
    Pair,
}

/// The options of `service`.
#[derive(Args, Clone, Debug)]
pub struct ServiceArgs {
    /// What to do
    #[command(subcommand)]
    pub action: ServiceAction,
}

/// What `service` does.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum ServiceAction {
    /// Print the unit files or the agent that run codexd for this home; installs nothing
    Print(ServicePrintArgs),
}

/// The options of `service print`.
#[derive(Args, Clone, Copy, Debug)]
pub struct ServicePrintArgs {
    /// The service manager
    #[arg(long, value_enum)]
    pub backend: ServiceKind,
}

/// A service manager that reads files.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum ServiceKind {
    /// The agent of launchd.
    Launchd,
    /// The units of systemd.
    Systemd,
}
