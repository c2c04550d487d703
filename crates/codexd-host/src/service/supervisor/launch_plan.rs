//! What the process of a unit is to become: the program with its environment, handed over in memory and never written to disk.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use codexd_core::launch_spec::LaunchSpec;
use codexd_core::limits::SUPERVISOR_MESSAGE_MAX_BYTES;
use codexd_core::os_text::OsText;
use rustix::fs::{MemfdFlags, SealFlags};
use serde::{Deserialize, Serialize};

use crate::home::Home;
use crate::launch::app_server;
use crate::orphans::GENERATION_VARIABLE;
use crate::{config_file, logs, upstream_files};

/// A program, with what surrounds it.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LaunchPlan {
    /// The program; its environment is complete.
    pub program: LaunchSpec,
    /// Where it writes.
    pub stdout: PathBuf,
    /// Where it writes errors.
    pub stderr: PathBuf,
    /// The umask; without one that of the launcher.
    #[serde(default)]
    pub umask: Option<u32>,
}

impl LaunchPlan {
    /// An app-server; answers also how long its log of errors is already.
    ///
    /// # Errors
    /// The files'.
    pub fn app_server(home: &Home, program: &LaunchSpec, generation: &str) -> io::Result<(Self, u64)> {
        home.create_state()?;
        if program.args.iter().any(|argument| argument.0 == app_server::MANAGED_DAEMON) {
            // Without the link the server only writes to a log of its own as well.
            let _ = upstream_files::link_managed_log(home);
        }
        let umask = Some(program.umask.unwrap_or_else(|| config_file::of_files(home).umask()));
        let mut program = in_existing_folder(home, program);
        let set = [("PWD", program.cwd.clone().into_os_string()), (GENERATION_VARIABLE, generation.into())];
        for (name, value) in set {
            set_variable(&mut program, name, value);
        }
        Self { program, stdout: home.stdout_log(), stderr: home.stderr_log(), umask }.with_log_length()
    }

    /// The gateway; answers also how long its log is already.
    ///
    /// # Errors
    /// The files'.
    pub fn gateway(home: &Home, program: &LaunchSpec) -> io::Result<(Self, u64)> {
        home.create_state()?;
        let (program, log) = (in_existing_folder(home, program), home.gateway_log());
        Self { program, stdout: log.clone(), stderr: log, umask: None }.with_log_length()
    }

    fn with_log_length(self) -> io::Result<(Self, u64)> {
        let length = logs::open_for_append(&self.stderr)?.metadata()?.len();
        Ok((self, length))
    }

    /// The plan in a memory file that nothing can change any more.
    ///
    /// # Errors
    /// The system's.
    pub fn to_memory_file(&self) -> io::Result<OwnedFd> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let mut file = File::from(rustix::fs::memfd_create("codexd-launch-plan", flags)?);
        file.write_all(&serde_json::to_vec(self)?)?;
        file.rewind()?;
        let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
        rustix::fs::fcntl_add_seals(&file, seals)?;
        Ok(file.into())
    }

    /// Reads a plan from a memory file.
    ///
    /// # Errors
    /// It holds none, or one that is too long.
    pub fn from_memory_file(file: OwnedFd) -> io::Result<Self> {
        let mut bytes = Vec::new();
        let max_bytes = u64::try_from(SUPERVISOR_MESSAGE_MAX_BYTES).unwrap_or(u64::MAX);
        File::from(file).take(max_bytes).read_to_end(&mut bytes)?;
        Ok(serde_json::from_slice(&bytes)?)
    }
}

/// A folder that is gone since is no reason to have no server.
fn in_existing_folder(home: &Home, program: &LaunchSpec) -> LaunchSpec {
    let mut program = program.clone();
    if !program.cwd.is_dir() {
        home.root().clone_into(&mut program.cwd);
    }
    program
}

fn set_variable(program: &mut LaunchSpec, name: &str, value: OsString) {
    program.env.retain(|(known, _)| known.0 != name);
    program.env.push((OsText::from(name), OsText(value)));
}

#[cfg(test)]
mod tests {
    use super::LaunchPlan;
    use crate::home::Home;
    use codexd_core::launch_spec::LaunchSpec;
    use codexd_core::os_text::OsText;

    #[test]
    fn a_plan_is_the_same_behind_a_memory_file_however_large_its_environment_is() {
        let folder = tempfile::tempdir().expect("a folder");
        let home = Home::new(folder.path());
        let program = LaunchSpec {
            executable: "/bin/true".into(),
            args: Vec::new(),
            env: vec![("LARGE".into(), OsText("x".repeat(1 << 20).into())), ("PWD".into(), "/old".into())],
            cwd: "/nonexistent".into(),
            embedded: false,
            socket: None,
            named: None,
            version: None,
            umask: None,
            memory_ceiling_mib: None,
        };
        let (plan, length) = LaunchPlan::app_server(&home, &program, "g").expect("a plan");
        assert_eq!((length, plan.program.cwd.as_path()), (0, folder.path()), "where the folder is gone");
        let file = plan.to_memory_file().expect("a file");
        let writes = rustix::io::write(&file, b"x");
        assert_eq!(writes, Err(rustix::io::Errno::PERM), "it is sealed");
        let read = LaunchPlan::from_memory_file(file).expect("a plan");
        assert_eq!((&read.program, read.umask), (&plan.program, plan.umask));
        let value = |name: &str| {
            let mut found = read.program.env.iter().filter(|(known, _)| known.0 == name);
            (found.next().map(|(_, value)| value.0.clone()), found.count())
        };
        assert_eq!(value("CODEXD_GENERATION"), (Some("g".into()), 0));
        assert_eq!(value("PWD"), (Some(folder.path().into()), 0));
    }
}
