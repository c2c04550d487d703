//! A snapshot of all processes of the machine. Each is read once; ancestors are derived from the snapshot.
//!
//! Reading every ancestor of every process from `/proc` would take longer, on a machine with hundreds of processes, than an app-server takes
//! to exit.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use codexd_core::identity::{Pid, Process, ProcessIdentity};

use crate::process::{self, Stat};

/// The processes by pid. Those that exited or started during the snapshot may be missing.
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
    /// Takes a snapshot.
    pub fn read() -> Self {
        let my_uid = rustix::process::geteuid().as_raw();
        let rows = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            // Root may signal all processes.
            let is_ours = my_uid == 0 || entry.metadata().ok()?.uid() == my_uid;
            Some(Row { pid, stat: process::stat(Pid(pid))?, is_ours })
        });
        Self::of(rows.collect())
    }

    fn of(mut rows: Vec<Row>) -> Self {
        rows.sort_unstable_by_key(|row| row.pid);
        Self { rows }
    }

    /// The processes of this user, or of all users for root, for which `judge` returns `true` and that still run after that; without this
    /// process. A reused pid does not count as the same process.
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

    /// Whether a process of a group is at work now.
    pub fn group_is_at_work(&self, group: u32) -> bool {
        self.group(group).any(|row| process::is_at_work(Pid(row.pid)))
    }

    fn group(&self, group: u32) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(move |row| row.stat.group == group)
    }

    /// The entry of a process.
    pub fn stat(&self, pid: Pid) -> Option<&Stat> {
        self.rows.binary_search_by_key(&pid.0, |row| row.pid).ok().map(|at| &self.rows[at].stat)
    }

    /// Whether `pid` is `ancestor` or descends from it.
    pub fn descends_from(&self, pid: Pid, ancestor: Pid) -> bool {
        process::is_below(pid, ancestor, |pid| self.stat(pid).map(|stat| stat.parent))
    }
}

/// Whether a process runs an executable in this folder, as far as this user may see that.
pub fn runs_from(folder: &Path) -> bool {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| fs::read_link(entry.path().join("exe")).ok())
        .any(|exe| exe.starts_with(folder))
}

/// The activity of a process group over several snapshots: a group that starts many short processes may be asleep in each snapshot.
#[derive(Debug, Default)]
pub struct Activity {
    worked_ticks: Option<u64>,
}

impl Activity {
    /// Whether a process of the group is at work, or the group has used CPU time since the last call.
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
    fn ancestors_may_belong_to_other_users() {
        let table = ProcessTable::of(vec![row(9, 200), row(200, 7), row(7, 1), row(8, 1)]);
        assert!(table.descends_from(Pid(9), Pid(7)) && table.descends_from(Pid(9), Pid(9)));
        assert!(!table.descends_from(Pid(8), Pid(7)) && !table.descends_from(Pid(7), Pid(9)));
        assert!(table.ours().all(|(pid, _)| pid != Pid(200)) && table.ours().count() == 3);
    }

    #[test]
    fn a_loop_of_ancestors_ends() {
        let table = ProcessTable::of(vec![row(7, 8), row(8, 7)]);
        assert!(!table.descends_from(Pid(7), Pid(9)));
    }

    #[test]
    fn a_group_is_at_work_while_one_of_its_processes_computes() {
        let start = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]).process_group(0).spawn().expect("a group")
        };
        let mut forks = start("while :; do /bin/true; done");
        let mut activity = Activity::default();
        let mut seen = 0;
        let (mut busy, mut idle) = (start("while :; do :; done & exec sleep 1000"), start("exec sleep 1000"));
        let until = Instant::now() + Duration::from_secs(20);
        // Both are in their final state when one computes and the other does not.
        while !ProcessTable::read().group_is_at_work(busy.id())
            || ProcessTable::read().group_is_at_work(idle.id())
        {
            assert!(Instant::now() < until, "only one of them should be at work");
        }
        while seen < 100 {
            seen += usize::from(activity.is_seen(forks.id()));
            assert!(Instant::now() < until, "a group that starts processes is at work");
        }
        for child in [&mut busy, &mut idle, &mut forks] {
            let group = rustix::process::Pid::from_child(child);
            rustix::process::kill_process_group(group, rustix::process::Signal::KILL).expect("killed");
            child.wait().expect("reaped");
        }
    }

    #[test]
    fn a_running_child_is_listed_and_a_zombie_is_not() {
        let mut child = Command::new("sleep").arg("1000").spawn().expect("a child");
        let (me, pid) = (process::myself().expect("me").pid, Pid(child.id()));
        let table = ProcessTable::read();
        assert!(table.descends_from(pid, me));
        assert!(table.ours().any(|(ours, stat)| ours == pid && stat.parent == me.0));
        assert!(table.ours().all(|(ours, _)| ours != me), "this process is not listed");
        let process = process::identify(pid).expect("identified");
        child.kill().expect("killed");
        process::await_end(&process, Duration::from_secs(10));
        assert!(ProcessTable::read().ours().all(|(ours, _)| ours != pid), "ended and not reaped");
        child.wait().expect("reaped");
    }
}
