//! What `codexd run` finds out before it becomes the supervisor: the configuration, and whether the home is free.

use std::ffi::OsString;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use std::{fs, io};

use codexd_core::config::{Config, Origin};
use codexd_core::contract::{Backend, ErrorCode, Failure};
use codexd_core::limits::BLOCKING_WAIT_MS;
use codexd_host::Home;
use codexd_host::service::supervisor;

use super::arguments::{RunServer, Standalone};
use crate::cli::RunArgs;
use crate::commands::lifecycle::Reply;
use crate::context::Context;
use crate::failures;
use crate::output::Mode;
use crate::own_binary::own_binary;

/// Becomes the supervisor of the home. Never returns without a failure.
///
/// # Errors
/// `already-managed`, `unsupported-strategy`, or why the configuration, a folder or the binary cannot be used.
pub fn become_supervisor(context: &Context, mode: Mode, args: &RunArgs) -> Result<Reply, Failure> {
    let config = {
        let _lock = context.lock("run")?;
        let config = context.config_with(&args.values)?;
        check_strategy(&config)?;
        check_is_free(context)?;
        config
    };
    create_folders(&context.home, &config)?;
    let server = match (config.has_server(), args.embedded) {
        (false, _) => RunServer::Off,
        (true, true) => RunServer::Embedded,
        (true, false) => RunServer::Codex,
    };
    let lifetime_ms = config.run_lifetime_ms().filter(|_| args.values.run_once);
    let standalone = Standalone {
        home: context.home.clone(),
        mode,
        server,
        grace_seconds: config.grace_seconds_of_environment(),
        lifetime_ms,
        options: options(context),
    };
    let codexd = own_binary()?;
    let error =
        Command::new(&codexd).args(standalone.to_arguments()).envs(variables_of_options(&config)).exec();
    Err(Failure::new(ErrorCode::Internal, format!("failed to run {}: {error}", codexd.display())))
}

fn check_strategy(config: &Config) -> Result<(), Failure> {
    if !config.has_external_server() {
        return Ok(());
    }
    let message = "this version of codexd does not have the strategy `external`: it cannot use an app-server that another program started";
    Err(Failure::new(ErrorCode::UnsupportedStrategy, message)
        .hint("use `--server-strategy spawn`; `codexd start --adopt` takes over a server that runs already"))
}

fn check_is_free(context: &Context) -> Result<(), Failure> {
    let home = &context.home;
    if context.backend() == Backend::Systemd {
        return Err(failures::already_managed(home));
    }
    // One that has stopped its server may still be exiting.
    let is_free = supervisor::await_free_lock(home, Duration::from_millis(BLOCKING_WAIT_MS));
    match is_free.map_err(|error| failures::state("open", &home.supervisor_lock(), &error))? {
        true => Ok(()),
        false => Err(failures::already_managed(home)),
    }
}

/// The options of every command as the commands of the supervisor get them.
fn options(context: &Context) -> Vec<OsString> {
    let global = &context.global;
    let mut options: Vec<OsString> = Vec::new();
    if let Some(codex) = &global.codex_bin {
        options.extend(["--codex-bin".into(), codex.into()]);
    }
    if global.allow_foreign_owner {
        options.push("--allow-foreign-owner".into());
    }
    options.extend(["--lock-timeout".into(), global.lock_timeout.to_string().into()]);
    options
}

/// The values of options as variables: so they count for the commands that the supervisor runs.
fn variables_of_options(config: &Config) -> impl Iterator<Item = (&'static str, String)> {
    config.entries().iter().filter_map(|entry| {
        let is_given = matches!(entry.origin, Origin::Flag(_));
        let variable = entry.setting.variables.first().filter(|_| is_given)?;
        Some((*variable, entry.value.as_ref()?.to_text()))
    })
}

/// Creates the folders of logs and of state. The logs of the server and the events can be read in the former, by links.
fn create_folders(home: &Home, config: &Config) -> Result<(), Failure> {
    let folders = config.folders();
    for (what, folder) in [("log", &folders.logs), ("state", &folders.state)] {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|error| failures::state(&format!("create the {what} folder"), folder, &error))?;
    }
    let links = [
        ("stdout.log", home.stdout_log()),
        ("stderr.log", home.stderr_log()),
        ("events.jsonl", home.events()),
    ];
    for (name, target) in links {
        let link = folders.logs.join(name);
        point_to(&link, &target).map_err(|error| failures::state("create the link", &link, &error))?;
    }
    Ok(())
}

/// A file that is no link stays.
fn point_to(link: &Path, target: &Path) -> io::Result<()> {
    match fs::read_link(link) {
        Ok(found) if found == target => return Ok(()),
        Ok(_) => fs::remove_file(link)?,
        Err(_) if link.symlink_metadata().is_ok() => return Ok(()),
        Err(_) => {}
    }
    match symlink(target, link) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}
