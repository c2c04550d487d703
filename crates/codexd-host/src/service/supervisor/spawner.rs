//! How the supervisor starts processes: as its children, or as units of systemd.
//!
//! A unit outlives a restart of codexd, and systemd ends all that it leaves behind. Its process is no child of the supervisor: how it ended
//! is read from systemd.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use codexd_core::identity::Pid;
use codexd_core::limits::{SUPERVISOR_SYSTEMCTL_TIMEOUT_MS, UNIT_POLL_MS};

use crate::home::Home;
use crate::poll;
use crate::service::systemd::names::unit_of_process;
use crate::service::systemd::{Systemctl, UnitNames};

/// `CLD_EXITED` of waitid(2), as systemd gives it.
const EXITED: &str = "1";

/// How processes are started.
#[derive(Debug)]
pub enum Spawner {
    /// As children.
    Fork,
    /// As units.
    Units(Units),
}

impl Spawner {
    /// The units, if processes are started as such.
    pub fn units(&self) -> Option<&Units> {
        match self {
            Spawner::Fork => None,
            Spawner::Units(units) => Some(units),
        }
    }
}

/// The units of a home.
#[derive(Debug)]
pub struct Units {
    pub names: UnitNames,
    pub systemctl: Systemctl,
}

/// The unit in which a managed process runs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ProcessUnit {
    pub name: String,
    /// The process that systemd has started: the server, or its wrapper.
    pub main: Pid,
}

impl Units {
    /// The units of a home.
    pub fn of(home: &Home) -> Self {
        Self { names: UnitNames::of(home), systemctl: Systemctl::new() }
    }

    /// The unit of a process, if it runs in one of this home.
    pub fn unit_of(&self, process: Pid) -> Option<String> {
        unit_of_process(&self.names, process)
    }

    /// How the main process of a unit has ended. systemd forgets a unit that has ended well: then nothing contradicts a zero.
    pub fn exit_status(&self, unit: &ProcessUnit) -> Option<ExitStatus> {
        const PROPERTIES: [&str; 4] =
            ["ExecMainPID", "ExecMainCode", "ExecMainStatus", "ExecMainExitTimestampMonotonic"];
        let deadline = Instant::now() + Duration::from_millis(SUPERVISOR_SYSTEMCTL_TIMEOUT_MS);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let shown = self.systemctl.show(&unit.name, &PROPERTIES, left).ok()?;
            let value = |name: &str| shown.get(name).map(String::as_str).unwrap_or_default();
            let main = value("ExecMainPID");
            if main != unit.main.to_string() {
                return (main == "0").then(|| ExitStatus::from_raw(0));
            }
            if value("ExecMainExitTimestampMonotonic") != "0" {
                let status: i32 = value("ExecMainStatus").parse().ok()?;
                let raw = if value("ExecMainCode") == EXITED { status << 8 } else { status };
                return Some(ExitStatus::from_raw(raw));
            }
            if Instant::now() >= deadline {
                return None;
            }
            poll::pause(Duration::from_millis(UNIT_POLL_MS));
        }
    }

    /// Where a unit stands, for a message.
    pub fn describe(&self, unit: &str) -> String {
        let timeout = Duration::from_millis(SUPERVISOR_SYSTEMCTL_TIMEOUT_MS);
        match self.systemctl.show(unit, &["ActiveState", "SubState", "Result"], timeout) {
            Ok(shown) => {
                let value = |name: &str| shown.get(name).map(String::as_str).unwrap_or_default();
                let (active, sub, result) = (value("ActiveState"), value("SubState"), value("Result"));
                format!("the unit {unit} is {active} ({sub}), result {result}")
            }
            Err(error) => format!("the state of the unit {unit} is not known: {error}"),
        }
    }

    /// Kills everything in a unit. What remains is found by the sweep.
    pub fn kill(&self, unit: &str) {
        let _ = self.systemctl.send(&["kill", "--signal=SIGKILL", "--", unit]);
    }

    /// Stops a unit, and waits for nothing.
    pub fn stop(&self, unit: &str) {
        let _ = self.systemctl.send(&["stop", "--no-block", "--", unit]);
    }

    /// Starts a unit, and waits for nothing.
    pub fn start(&self, unit: &str) {
        let _ = self.systemctl.send(&["start", "--no-block", "--", unit]);
    }

    /// Lets systemd forget how a unit has ended.
    pub fn forget(&self, unit: &str) {
        let _ = self.systemctl.send(&["reset-failed", "--", unit]);
    }

    /// Brings the unit whose start is that of the command into the state of a stopped server, before this supervisor gives up the home: what
    /// that unit runs must not come after a later command.
    pub fn settle_commands_unit(&self) {
        let (unit, timeout) = (self.names.commands(), Duration::from_millis(SUPERVISOR_SYSTEMCTL_TIMEOUT_MS));
        let Ok(shown) = self.systemctl.show(&unit, &["ActiveState"], timeout) else { return };
        // While it stops, this supervisor leaves because of that.
        if matches!(shown.get("ActiveState").map(String::as_str), Some("active" | "activating")) {
            let _ = self.systemctl.run(&["stop", "--", &unit], timeout);
        }
    }

    /// Closes the control socket that systemd holds, before anything else listens there or nothing does. One that stays open would start
    /// codexd again with the next connection.
    pub fn close_socket(&self) {
        let timeout = Duration::from_millis(SUPERVISOR_SYSTEMCTL_TIMEOUT_MS);
        let _ = self.systemctl.run(&["stop", "--", &self.names.socket()], timeout);
    }
}
