//! Calls of `systemctl --user`, each with a deadline.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use codexd_core::foreign_text::quote;
use codexd_core::identity::Pid;
use rustix::event::{PollFd, PollFlags};
use rustix::process::PidfdFlags;

/// The program.
pub const SYSTEMCTL: &str = "systemctl";

/// Why a call did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum SystemctlError {
    /// `systemctl` could not be run.
    #[error("failed to run systemctl: {0}")]
    Run(#[from] io::Error),
    /// It did not end in time, and was killed.
    #[error("`systemctl --user {call}` did not end within {timeout_ms} ms")]
    Timeout {
        /// The arguments.
        call: String,
        /// How long it had.
        timeout_ms: u64,
    },
    /// It failed.
    #[error("`systemctl --user {call}` failed: {message}")]
    Failed {
        /// The arguments.
        call: String,
        /// The first line of what it wrote.
        message: String,
    },
}

/// Whether a unit is up.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ActiveState {
    /// Up, or on its way there or back.
    Up,
    /// Down, and it was not asked to be.
    Failed,
    /// Down.
    Inactive,
}

/// The user manager of the user who runs this process.
#[derive(Clone, Debug)]
pub struct Systemctl {
    runtime_folder: PathBuf,
}

impl Default for Systemctl {
    fn default() -> Self {
        Self::new()
    }
}

impl Systemctl {
    /// The user manager that `XDG_RUNTIME_DIR` leads to; without that variable, as in a `cron` job, the one of the user.
    pub fn new() -> Self {
        let named = std::env::var_os("XDG_RUNTIME_DIR").filter(|folder| !folder.is_empty());
        let of_user = || PathBuf::from(format!("/run/user/{}", rustix::process::geteuid().as_raw()));
        Self { runtime_folder: named.map_or_else(of_user, PathBuf::from) }
    }

    /// Whether a user manager listens. One that hangs does, too.
    pub fn is_there(&self) -> bool {
        codexd_protocol::unix::connect(&self.runtime_folder.join("systemd/private")).is_ok()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(SYSTEMCTL);
        command
            .args(["--user", "--no-ask-password", "--no-pager", "--quiet"])
            .args(arguments)
            .env("XDG_RUNTIME_DIR", &self.runtime_folder)
            .env("LC_ALL", "C")
            .stdin(Stdio::null());
        command
    }

    /// Makes a call and waits for its end; answers what it printed.
    ///
    /// # Errors
    /// [`SystemctlError`].
    pub fn run(&self, arguments: &[&str], timeout: Duration) -> Result<String, SystemctlError> {
        self.begin(arguments)?.finish(timeout)
    }

    /// Makes a call that nothing waits for. The caller reaps its children.
    ///
    /// # Errors
    /// `systemctl` cannot be run.
    pub fn send(&self, arguments: &[&str]) -> io::Result<()> {
        self.command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().map(drop)
    }

    /// Begins a call.
    ///
    /// # Errors
    /// `systemctl` cannot be run.
    pub fn begin(&self, arguments: &[&str]) -> io::Result<Call> {
        let mut command = self.command(arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let pid = rustix::process::Pid::from_child(&child);
        match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(handle) => Ok(Call { name: arguments.join(" "), child, handle: Some(handle) }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error.into())
            }
        }
    }

    /// The properties of a unit; those that it does not have are missing or empty.
    ///
    /// # Errors
    /// [`SystemctlError`].
    pub fn show(
        &self,
        unit: &str,
        properties: &[&str],
        timeout: Duration,
    ) -> Result<BTreeMap<String, String>, SystemctlError> {
        let properties = format!("--property={}", properties.join(","));
        Ok(read_properties(&self.run(&["show", &properties, "--", unit], timeout)?))
    }

    /// Whether a unit is up. A unit that systemd does not know is inactive.
    ///
    /// # Errors
    /// [`SystemctlError`].
    pub fn active_state(&self, unit: &str, timeout: Duration) -> Result<ActiveState, SystemctlError> {
        let shown = self.show(unit, &["ActiveState"], timeout)?;
        Ok(match shown.get("ActiveState").map(String::as_str).unwrap_or_default() {
            "inactive" | "" => ActiveState::Inactive,
            "failed" => ActiveState::Failed,
            _ => ActiveState::Up,
        })
    }

    /// The state of the user manager, such as `running` or `stopping`.
    ///
    /// # Errors
    /// [`SystemctlError`].
    pub fn manager_state(&self, timeout: Duration) -> Result<String, SystemctlError> {
        Ok(self.run(&["show", "--property=SystemState", "--value"], timeout)?.trim().to_owned())
    }

    /// The type of the job that a unit has, such as `start`, `stop` or `restart`.
    ///
    /// # Errors
    /// [`SystemctlError`].
    pub fn job(&self, unit: &str, timeout: Duration) -> Result<Option<String>, SystemctlError> {
        Ok(job_of(&self.run(&["list-jobs", "--no-legend", "--plain", "--full"], timeout)?, unit))
    }
}

/// `Name=value`, a line each.
fn read_properties(text: &str) -> BTreeMap<String, String> {
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// A line is `JOB UNIT TYPE STATE`.
fn job_of(text: &str, unit: &str) -> Option<String> {
    let mut jobs = text.lines().map(|line| line.split_ascii_whitespace());
    jobs.find_map(|mut fields| (fields.nth(1)? == unit).then(|| fields.next().map(str::to_owned))?)
}

/// A call that is under way. It is killed if this is dropped before its end.
#[derive(Debug)]
pub struct Call {
    name: String,
    child: Child,
    /// `None` once it was reaped.
    handle: Option<OwnedFd>,
}

impl Call {
    /// Its process.
    pub fn pid(&self) -> Pid {
        Pid(self.child.id())
    }

    /// What to wait on for its end.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.handle.as_ref().map(AsFd::as_fd)
    }

    /// Waits for its end; answers what it printed, which must fit a pipe.
    ///
    /// # Errors
    /// [`SystemctlError`].
    pub fn finish(mut self, timeout: Duration) -> Result<String, SystemctlError> {
        if !self.ends_within(timeout) {
            let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
            return Err(SystemctlError::Timeout { call: self.name.clone(), timeout_ms });
        }
        let status = self.child.wait()?;
        self.handle = None;
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        if let Some(mut pipe) = self.child.stdout.take() {
            pipe.read_to_end(&mut stdout)?;
        }
        if let Some(mut pipe) = self.child.stderr.take() {
            pipe.read_to_end(&mut stderr)?;
        }
        if status.success() {
            return Ok(String::from_utf8_lossy(&stdout).into_owned());
        }
        let stderr = String::from_utf8_lossy(&stderr);
        let line = stderr.lines().find(|line| !line.trim().is_empty());
        let message = line.map_or_else(|| status.to_string(), quote);
        Err(SystemctlError::Failed { call: self.name.clone(), message })
    }

    fn ends_within(&self, timeout: Duration) -> bool {
        let Some(handle) = &self.handle else { return true };
        let deadline = std::time::Instant::now() + timeout;
        loop {
            let mut waits = [PollFd::new(handle, PollFlags::IN)];
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            match rustix::event::poll(&mut waits, left.try_into().ok().as_ref()) {
                Ok(count) => return count > 0,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if self.handle.is_some() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{job_of, read_properties};

    #[test]
    fn properties_are_read_by_name() {
        let read = read_properties("ExecMainCode=2\nExecMainStatus=9\nStatusText=a=b\nDescription=\n");
        assert_eq!(read["ExecMainStatus"], "9");
        assert_eq!((read["StatusText"].as_str(), read["Description"].as_str()), ("a=b", ""));
    }

    #[test]
    fn the_job_of_a_unit_is_found_by_its_whole_name() {
        let jobs = "  12 a.service restart running\n 3 a.service.x start waiting\n";
        assert_eq!(job_of(jobs, "a.service").as_deref(), Some("restart"));
        assert_eq!(job_of(jobs, "b.service"), None);
        assert_eq!(job_of("No jobs running.\n", "a.service"), None);
    }
}
