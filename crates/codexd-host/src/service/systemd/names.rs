//! The names of the units of one home. Several homes of a user have units side by side.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use codexd_core::identity::Pid;
use codexd_core::limits::UNIT_HASH_BYTES;
use sha2::{Digest, Sha256};

use crate::home::Home;

/// The names.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UnitNames {
    hash: String,
}

impl UnitNames {
    /// The names for a home.
    pub fn of(home: &Home) -> Self {
        let root = home.root().canonicalize();
        Self::of_path(root.as_deref().unwrap_or(home.root()))
    }

    fn of_path(root: &Path) -> Self {
        let digest = Sha256::digest(root.as_os_str().as_bytes());
        Self { hash: digest.iter().take(UNIT_HASH_BYTES).map(|byte| format!("{byte:02x}")).collect() }
    }

    /// The first twelve hex digits of the SHA-256 of the home's path.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// The supervisor.
    pub fn supervisor(&self) -> String {
        format!("codexd-{}.service", self.hash)
    }

    /// The control socket, which the supervisor inherits.
    pub fn socket(&self) -> String {
        format!("codexd-{}.socket", self.hash)
    }

    /// The template of the app-servers.
    pub fn app_server_template(&self) -> String {
        format!("codex-app-server-{}@.service", self.hash)
    }

    /// One process of the app-server.
    pub fn app_server(&self, instance: u64) -> String {
        format!("codex-app-server-{}@{instance}.service", self.hash)
    }

    /// The gateway.
    pub fn gateway(&self) -> String {
        format!("codexd-gateway-{}.service", self.hash)
    }

    /// The unit whose start, stop and reload are those of the commands.
    pub fn commands(&self) -> String {
        format!("codex-app-server-{}.service", self.hash)
    }

    /// Every name that the unit files of this home may have.
    pub fn files(&self) -> [String; 5] {
        [self.app_server_template(), self.gateway(), self.socket(), self.supervisor(), self.commands()]
    }

    /// A pattern that fits the units of all app-servers of this home, in commands of `systemctl` that take one.
    pub fn app_servers(&self) -> String {
        format!("codex-app-server-{}@*.service", self.hash)
    }

    /// Whether this is the unit of an app-server or of the gateway of this home.
    pub fn is_managed(&self, unit: &str) -> bool {
        unit == self.gateway() || self.instance_of(unit).is_some()
    }

    /// The instance number, if this is the unit of an app-server of this home.
    pub fn instance_of(&self, unit: &str) -> Option<u64> {
        let instance = unit.strip_prefix(&format!("codex-app-server-{}@", self.hash))?;
        instance.strip_suffix(".service")?.parse().ok()
    }
}

/// The unit of a process that runs, if it is one of this home's for an app-server or the gateway.
pub fn unit_of_process(names: &UnitNames, process: Pid) -> Option<String> {
    unit_of_any_process(process).filter(|unit| names.is_managed(unit))
}

/// The unit of a process that runs, if it is in one.
pub fn unit_of_any_process(process: Pid) -> Option<String> {
    let cgroup = std::fs::read_to_string(format!("/proc/{process}/cgroup")).ok()?;
    unit_in_cgroup(&cgroup).map(str::to_owned)
}

/// The unit in whose control group a process is, from the text of `/proc/<pid>/cgroup`.
pub fn unit_in_cgroup(cgroup: &str) -> Option<&str> {
    let path = cgroup.lines().find_map(|line| line.strip_prefix("0::"))?;
    path.rsplit('/').find(|part| part.ends_with(".service") || part.ends_with(".scope"))
}

#[cfg(test)]
mod tests {
    use super::{UnitNames, unit_in_cgroup};
    use std::path::Path;

    #[test]
    fn two_homes_have_different_names_and_one_home_always_the_same() {
        let one = UnitNames::of_path(Path::new("/home/x/.codex"));
        assert_eq!(one.hash(), "dbb067886f74");
        assert_eq!(one.supervisor(), "codexd-dbb067886f74.service");
        assert_eq!(one.app_server(7), "codex-app-server-dbb067886f74@7.service");
        assert_ne!(one, UnitNames::of_path(Path::new("/home/y/.codex")));
    }

    #[test]
    fn only_instances_of_the_same_home_have_a_number() {
        let names = UnitNames::of_path(Path::new("/home/x/.codex"));
        assert_eq!(names.instance_of(&names.app_server(u64::MAX)), Some(u64::MAX));
        assert!(names.is_managed(&names.gateway()) && names.is_managed(&names.app_server(1)));
        let other = UnitNames::of_path(Path::new("/home/y/.codex"));
        for unit in [other.app_server(1), names.app_server_template(), names.commands(), names.supervisor()] {
            assert_eq!((names.instance_of(&unit), names.is_managed(&unit)), (None, false), "{unit}");
        }
    }

    #[test]
    fn the_unit_of_a_process_is_the_innermost_one_of_its_path() {
        let path = "/user.slice/user-1000.slice/user@1000.service/app.slice/codexd-gateway-x.service";
        assert_eq!(unit_in_cgroup(&format!("0::{path}\n")), Some("codexd-gateway-x.service"));
        assert_eq!(unit_in_cgroup(&format!("3:cpu:/\n0::{path}/tools\n")), Some("codexd-gateway-x.service"));
        assert_eq!(unit_in_cgroup("0::/\n"), None);
        assert_eq!(unit_in_cgroup(""), None);
    }
}
