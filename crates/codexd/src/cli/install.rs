//! The options of `install` and `self-update`.

use std::path::PathBuf;

use clap::Args;

/// The options of `install`.
#[derive(Args, Clone, Debug, Default)]
pub struct InstallArgs {
    /// Version to install, such as 0.171.0 [default: the newest one of the source]
    pub version: Option<String>,
    /// npm, official, official:URL, script (the official installer), script:PATH, directory:PATH with an unpacked release, or file:PATH with a package [default: the setting install.source, else the source of the current release, else npm, or official without an npm on PATH]
    #[arg(long, value_name = "SOURCE")]
    pub source: Option<String>,
}

/// The options of `self-update`.
#[derive(Args, Clone, Debug)]
pub struct SelfUpdateArgs {
    /// Codexd binary, or codexd tarball; a file of the same name with .sha256 beside it is checked
    #[arg(long, value_name = "FILE")]
    pub from: PathBuf,
}
