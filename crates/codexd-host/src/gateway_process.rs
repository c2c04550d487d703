//! The gateway of a home as a process, by its arguments: one that a supervisor started and was killed before it wrote that down.

use codexd_core::identity::{Pid, Process};

use crate::home::Home;
use crate::process_table::ProcessTable;
use crate::{ownership, pid_namespace, process};

/// The command, and the option that says of which home; they come first among the arguments.
pub const ARGUMENTS: [&str; 2] = ["gateway", "--codex-home"];

/// Whether this process is a gateway of this home.
pub fn is_one(pid: Pid, home: &Home) -> bool {
    let arguments = process::arguments(pid);
    let words = arguments.iter().skip(1).take(2).map(|word| word.as_os_str());
    words.eq(ARGUMENTS)
        && arguments.get(3).is_some_and(|path| path == home.root().as_os_str())
        && !pid_namespace::is_below(pid)
        && ownership::is_trusted_process(pid)
}

/// The gateway of a home, if one lives.
pub fn find(home: &Home) -> Option<Process> {
    ProcessTable::read().find(|process, _| is_one(process.pid, home)).into_iter().next()
}
