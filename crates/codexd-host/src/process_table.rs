//! One look at every process of the machine: each is read once, and who descends from whom is told from that.
//!
//! Asking the kernel for every step of every line of ancestors costs a few reads a step: on a machine with hundreds of
//! processes that is longer than a server takes to leave.

use std::fs;
use std::os::unix::fs::MetadataExt;

use codexd_core::identity::{Pid, Process, ProcessIdentity};

use crate::process::{self, Stat};

/// Those that lived during the look, by number. Who ended or began meanwhile may be there or not.
#[derive(Debug)]
pub struct ProcessTable {
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    pid: u32,
    stat: Stat,
    is_ours: bool,
}

impl ProcessTable {
    /// Looks.
    pub fn read() -> Self {
        let my_uid = rustix::process::geteuid().as_raw();
        let rows = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            // Root may end anybody.
            let is_ours = my_uid == 0 || entry.metadata().ok()?.uid() == my_uid;
            Some(Row { pid, stat: process::stat(Pid(pid))?, is_ours })
        });
        Self::of(rows.collect())
    }

    fn of(mut rows: Vec<Row>) -> Self {
        rows.sort_unstable_by_key(|row| row.pid);
        Self { rows }
    }

    /// Those of our user, or of anybody if we are root, but for this process, of whom `judge` holds true and who still live
    /// when that is known: a number that was given out anew in between is not the process.
    pub fn find(&self, judge: impl Fn(&Process, &Stat) -> bool) -> Vec<Process> {
        let Ok(boot_id) = process::boot_id() else { return Vec::new() };
        let named = self.ours().map(|(pid, stat)| {
            let identity = ProcessIdentity { boot_id: boot_id.to_owned(), start_ticks: stat.start_ticks };
            (Process { pid, identity }, stat)
        });
        let judged = named.filter(|(process, stat)| judge(process, stat));
        judged.map(|(process, _)| process).filter(process::is_alive).collect()
    }

    fn ours(&self) -> impl Iterator<Item = (Pid, &Stat)> {
        let me = std::process::id();
        let rows = self.rows.iter().filter(move |row| row.is_ours && row.pid != me);
        rows.filter(|row| !row.stat.is_zombie()).map(|row| (Pid(row.pid), &row.stat))
    }

    /// Whether anybody in a process group is at work now.
    pub fn group_is_at_work(&self, group: u32) -> bool {
        self.group(group).any(|row| process::is_at_work(Pid(row.pid)))
    }

    fn group(&self, group: u32) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(move |row| row.stat.group == group)
    }

    /// What was read of a process.
    pub fn stat(&self, pid: Pid) -> Option<&Stat> {
        self.rows.binary_search_by_key(&pid.0, |row| row.pid).ok().map(|at| &self.rows[at].stat)
    }

    /// Whether `pid` is `ancestor` or descends from it.
    pub fn descends_from(&self, pid: Pid, ancestor: Pid) -> bool {
        process::is_below(pid, ancestor, |pid| self.stat(pid).map(|stat| stat.parent))
    }
}

/// What a process group does, from look to look: one that starts many short processes may be asleep at each of them.
#[derive(Debug, Default)]
pub struct Activity {
    worked_ticks: Option<u64>,
}

impl Activity {
    /// Whether anybody in the group is at work, or has computed since the last look.
    pub fn is_seen(&mut self, group: u32) -> bool {
        let table = ProcessTable::read();
        let worked = table.group(group).map(|row| row.stat.worked_ticks).sum();
        let before = self.worked_ticks.replace(worked);
        table.group_is_at_work(group) || before.is_some_and(|before| before != worked)
    }
}

#[cfg(test)]
mod tests {
    use super::{Activity, ProcessTable, Row};
    use crate::process::{self, Stat};
    use codexd_core::identity::Pid;
    use std::os::unix::process::CommandExt;
    use std::process::Command;
    use std::time::{Duration, Instant};

    fn row(pid: u32, parent: u32) -> Row {
        let stat = Stat { state: b'S', parent, group: pid, session: pid, start_ticks: 1, worked_ticks: 0 };
        Row { pid, stat, is_ours: pid < 100 }
    }

    #[test]
    fn a_line_of_ancestors_goes_through_those_that_are_not_ours() {
        let table = ProcessTable::of(vec![row(9, 200), row(200, 7), row(7, 1), row(8, 1)]);
        assert!(table.descends_from(Pid(9), Pid(7)) && table.descends_from(Pid(9), Pid(9)));
        assert!(!table.descends_from(Pid(8), Pid(7)) && !table.descends_from(Pid(7), Pid(9)));
        assert!(table.ours().all(|(pid, _)| pid != Pid(200)) && table.ours().count() == 3);
    }

    #[test]
    fn a_loop_of_ancestors_has_an_end() {
        let table = ProcessTable::of(vec![row(7, 8), row(8, 7)]);
        assert!(!table.descends_from(Pid(7), Pid(9)));
    }

    #[test]
    fn a_group_is_at_work_while_one_of_it_computes() {
        let start = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]).process_group(0).spawn().expect("a group")
        };
        let mut forks = start("while :; do /bin/true; done");
        let mut activity = Activity::default();
        let mut seen = 0;
        let (mut busy, mut idle) = (start("while :; do :; done & exec sleep 1000"), start("exec sleep 1000"));
        let until = Instant::now() + Duration::from_secs(20);
        // Both have come to their end state when the one computes and the other does not.
        while !ProcessTable::read().group_is_at_work(busy.id())
            || ProcessTable::read().group_is_at_work(idle.id())
        {
            assert!(Instant::now() < until, "one of them should be at work, the other not");
        }
        while seen < 100 {
            seen += usize::from(activity.is_seen(forks.id()));
            assert!(Instant::now() < until, "one that starts others is at work");
        }
        for child in [&mut busy, &mut idle, &mut forks] {
            let group = rustix::process::Pid::from_child(child);
            rustix::process::kill_process_group(group, rustix::process::Signal::KILL).expect("killed");
            child.wait().expect("reaped");
        }
    }

    #[test]
    fn a_child_is_ours_and_below_us_and_its_remains_are_not() {
        let mut child = Command::new("sleep").arg("1000").spawn().expect("a child");
        let (me, pid) = (process::myself().expect("me").pid, Pid(child.id()));
        let table = ProcessTable::read();
        assert!(table.descends_from(pid, me));
        assert!(table.ours().any(|(ours, stat)| ours == pid && stat.parent == me.0));
        assert!(table.ours().all(|(ours, _)| ours != me), "this one is not ours");
        let process = process::identify(pid).expect("identified");
        child.kill().expect("killed");
        process::await_end(&process, Duration::from_secs(10));
        assert!(ProcessTable::read().ours().all(|(ours, _)| ours != pid), "ended and not reaped");
        child.wait().expect("reaped");
    }
}
