//! Who a process and a file are, beyond a number or a path that another may have tomorrow.

use serde::{Deserialize, Serialize};

/// A process id. It may be given to a later process: see [`ProcessIdentity`].
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct Pid(pub u32);

impl std::fmt::Display for Pid {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(formatter)
    }
}

/// A process of one boot of one machine: no two processes share it, and it never changes across `exec`.
///
/// `boot_id` is `/proc/sys/kernel/random/boot_id`, `start_ticks` field 22 of `/proc/<pid>/stat` (proc(5)). The JSON
/// form is the one app-server 0.169.0 writes in its pid record.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessIdentity {
    /// The boot that the process belongs to.
    pub boot_id: String,
    /// When it started, in clock ticks since that boot.
    pub start_ticks: u64,
}

/// A process that can be found again: its number and its identity.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    /// Its number.
    pub pid: Pid,
    /// What tells it from a later process of the same number.
    #[serde(flatten)]
    pub identity: ProcessIdentity,
}

/// A file's contents as far as its metadata tells them: replaced or rewritten, it differs.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FileIdentity {
    /// The device of the file system.
    pub device: u64,
    /// The inode.
    pub inode: u64,
    /// The size in bytes.
    pub size: u64,
    /// The last change of the contents, in nanoseconds since 1970.
    pub modified_ns: i64,
}
