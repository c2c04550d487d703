//! Pid namespaces (pid_namespaces(7)): a pid names a process only within one. If a host shares a home with a container, each side sees the
//! processes of the other under other pids, or not at all.

use std::fs;
use std::os::fd::AsFd;
use std::sync::OnceLock;

use codexd_core::identity::Pid;

use crate::process;

/// Where a process runs, seen from here.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Whereabouts {
    /// In this pid namespace, or it has just exited.
    Here,
    /// In another pid namespace.
    OtherNamespace,
    /// It runs and `/proc` does not show it: it belongs to another user, and `/proc` is mounted with `hidepid`.
    Hidden,
}

/// The id of this process's pid namespace: the inode of `/proc/self/ns/pid`, unique among the namespaces that exist.
pub fn own() -> Option<u64> {
    static OWN: OnceLock<Option<u64>> = OnceLock::new();
    *OWN.get_or_init(|| {
        let link = fs::read_link("/proc/self/ns/pid").ok()?;
        link.to_str()?.strip_prefix("pid:[")?.strip_suffix(']')?.parse().ok()
    })
}

/// Whether `/proc` shows this process under its own pid, which means that it was mounted in this pid namespace.
pub fn proc_is_ours() -> bool {
    let shown = fs::read_link("/proc/self").ok();
    shown.is_some_and(|shown| shown.to_str() == Some(std::process::id().to_string().as_str()))
}

/// Whether a process that is visible here runs in a pid namespace below this one, where it has another pid.
pub fn is_below(pid: Pid) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    numbers.is_some_and(|numbers| numbers.split_ascii_whitespace().count() > 1)
}

/// Where the process at the other end of a connected socket is.
pub fn of_peer(stream: impl AsFd) -> Whereabouts {
    match codexd_protocol::unix::peer(stream) {
        Ok(peer) => peer.pid.map_or(Whereabouts::OtherNamespace, |pid| of(Pid(pid))),
        Err(_) => Whereabouts::Hidden,
    }
}

fn of(pid: Pid) -> Whereabouts {
    match process::stat(pid) {
        Some(_) if is_below(pid) => Whereabouts::OtherNamespace,
        Some(_) => Whereabouts::Here,
        None if process::is_free(pid) => Whereabouts::Here,
        None => Whereabouts::Hidden,
    }
}

#[cfg(test)]
mod tests {
    use super::{Whereabouts, is_below, of, own, proc_is_ours};
    use codexd_core::identity::Pid;

    #[test]
    fn this_process_is_in_its_own_namespace() {
        let me = Pid(std::process::id());
        assert!(own().is_some() && proc_is_ours() && !is_below(me));
        assert_eq!(of(me), Whereabouts::Here);
        assert_eq!(of(Pid(4_194_305)), Whereabouts::Here, "no process has this pid");
    }
}
