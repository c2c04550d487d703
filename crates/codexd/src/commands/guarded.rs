//! `codexd guarded PARENT PROGRAM ARGUMENTS…`: becomes a program that the kernel kills when its parent exits. Internal: a command starts
//! what must not outlive it, even if it is killed.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use codexd_core::contract::ErrorCode;
use rustix::process::Signal;

use crate::output;

const COMMAND: &str = "guarded";

/// The program, and the parent that it must not outlive.
#[derive(Debug)]
pub struct Arguments {
    parent: u32,
    program: OsString,
    words: Vec<OsString>,
}

/// The command line below `codexd` that runs `program` as a child of this process.
pub fn words(program: impl Into<OsString>) -> [OsString; 3] {
    [COMMAND.into(), std::process::id().to_string().into(), program.into()]
}

/// Reads the arguments.
pub fn arguments(arguments: impl IntoIterator<Item = OsString>) -> Option<Arguments> {
    let mut arguments = arguments.into_iter().skip(1);
    if arguments.next()? != COMMAND {
        return None;
    }
    let parent = arguments.next()?.to_str()?.parse().ok()?;
    Some(Arguments { parent, program: arguments.next()?, words: arguments.collect() })
}

/// Becomes the program. Returns if that fails.
pub fn run(arguments: Arguments) -> ExitCode {
    let Arguments { parent, program, words } = arguments;
    // The signal stays over exec. The parent may have exited before.
    let error = match rustix::process::set_parent_process_death_signal(Some(Signal::KILL)) {
        Ok(()) if std::os::unix::process::parent_id() == parent => Command::new(&program).args(words).exec(),
        Ok(()) => return ExitCode::from(ErrorCode::Interrupted.exit_code()),
        Err(error) => error.into(),
    };
    output::say(&format!("failed to run {}: {error}", program.display()));
    ExitCode::from(ErrorCode::SpawnFailed.exit_code())
}
