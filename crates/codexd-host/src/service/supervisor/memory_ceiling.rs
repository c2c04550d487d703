//! The ceiling of the memory of an app-server: one that holds more is replaced without a cut turn.

use codexd_core::clock::Monotonic;
use codexd_core::contract::EventLevel;
use codexd_core::generations::Standing;
use codexd_core::limits::{MEMORY_CHECK_INTERVAL_MS, MEMORY_REPLACEMENT_PAUSE_MS};

use super::Supervisor;
use crate::events::Event as LogEvent;
use crate::launch::app_server;
use crate::{clock, process};

const BYTES_PER_MIB: u64 = 1 << 20;

/// When the memory of the current app-server is read next. Nothing is due without a ceiling.
#[derive(Clone, Copy, Debug, Default)]
pub struct MemoryCheck {
    due_at: Option<Monotonic>,
    /// No replacement before, so that a server that needs more than its ceiling is not replaced over and over.
    paused_until: Option<Monotonic>,
}

impl MemoryCheck {
    pub fn deadline(&self) -> Option<Monotonic> {
        self.due_at
    }

    /// Begins or ends the checks.
    fn schedule(&mut self, has_ceiling: bool, now: Monotonic) {
        self.due_at = has_ceiling.then(|| self.due_at.unwrap_or(now + MEMORY_CHECK_INTERVAL_MS));
    }

    /// Whether the memory is to be read now.
    fn is_due(&mut self, now: Monotonic) -> bool {
        let is_due = self.due_at.is_some_and(|at| at <= now);
        if is_due {
            self.due_at = Some(now + MEMORY_CHECK_INTERVAL_MS);
        }
        is_due
    }

    /// Whether a server that holds too much is to be replaced now.
    fn begin_replacement(&mut self, now: Monotonic) -> bool {
        let may_begin = self.paused_until.is_none_or(|until| until <= now);
        if may_begin {
            self.paused_until = Some(now + MEMORY_REPLACEMENT_PAUSE_MS);
        }
        may_begin
    }
}

impl Supervisor {
    /// The current app-server may be another one.
    pub(super) fn schedule_memory_check(&mut self) {
        let has_ceiling =
            self.current_server().is_some_and(|server| server.program.memory_ceiling_mib.is_some());
        self.memory_check.schedule(has_ceiling, clock::monotonic());
    }

    /// Reads the memory of the current app-server if that is due, and replaces a server above its ceiling.
    pub(super) fn check_memory(&mut self, now: Monotonic) {
        if !self.memory_check.is_due(now) {
            return;
        }
        let Some(server) = self.current_server() else { return };
        let (pid, program) = (server.process.pid, &server.program);
        let (Some(ceiling), Some(bytes)) = (program.memory_ceiling_mib, process::resident_bytes(pid)) else {
            return;
        };
        let (is_above, resident) = (bytes > ceiling.saturating_mul(BYTES_PER_MIB), bytes / BYTES_PER_MIB);
        let is_settled = self.machine.standing() == Standing::Running && self.machine.successor().is_none();
        // `restart` returns once the new server serves. Where it would have to end the old one first, within a grace period, `reload`
        // waits for the running turns.
        let is_live = self.machine.gateway_wanted() && app_server::shares_a_home(program);
        let command = if is_live { "restart" } else { "reload" };
        let is_busy = ["start", "restart", "reload"].iter().any(|name| self.commands.is_running(name));
        if !is_above || !is_settled || is_busy || !self.memory_check.begin_replacement(now) {
            return;
        }
        let message = format!(
            "the app-server (pid {pid}) holds {resident} MiB of memory, and its ceiling is {ceiling} MiB; \
             it is replaced, and its running turns finish"
        );
        let event = LogEvent::new(EventLevel::Warn, "server.memoryCeiling", message);
        self.log_event(event.with("pid", pid.0).with("residentMib", resident).with("memoryCeiling", ceiling));
        self.run_command(command);
    }
}

#[cfg(test)]
mod tests {
    use super::MemoryCheck;
    use codexd_core::clock::Monotonic;
    use codexd_core::limits::{MEMORY_CHECK_INTERVAL_MS, MEMORY_REPLACEMENT_PAUSE_MS};

    #[test]
    fn the_memory_is_read_in_intervals_while_there_is_a_ceiling() {
        let (mut check, start) = (MemoryCheck::default(), Monotonic(7));
        assert!(!check.is_due(start) && check.deadline().is_none());
        check.schedule(true, start);
        check.schedule(true, start + 1);
        assert_eq!(check.deadline(), Some(start + MEMORY_CHECK_INTERVAL_MS));
        assert!(!check.is_due(start + (MEMORY_CHECK_INTERVAL_MS - 1)));
        let now = start + MEMORY_CHECK_INTERVAL_MS;
        assert!(check.is_due(now) && !check.is_due(now));
        check.schedule(false, now);
        assert_eq!(check.deadline(), None);
    }

    #[test]
    fn a_server_that_stays_above_its_ceiling_is_replaced_at_most_once_per_pause() {
        let mut check = MemoryCheck::default();
        let seconds = (0..=3 * MEMORY_REPLACEMENT_PAUSE_MS).step_by(1_000);
        let replaced = seconds.filter(|&ms| check.begin_replacement(Monotonic(ms)));
        let expected: Vec<u64> = (0..=3).map(|count| count * MEMORY_REPLACEMENT_PAUSE_MS).collect();
        assert_eq!(replaced.collect::<Vec<_>>(), expected);
    }
}
