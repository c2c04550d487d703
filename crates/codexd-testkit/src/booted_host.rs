//! A whole host that boots with systemd as process 1, with logind and user managers, for one test.
//!
//! Its files are an overlay of this machine's in memory. It runs in namespaces of its own, without a network, by systemd-nspawn. Everything
//! in it ends with the [`BootedHost`], also when the test is killed. Needs root and the package `systemd-container`.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use anyhow::{Context, ensure};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::systemd::{CODEXD, cgroup_root, remove_groups};
use crate::{Process, Run, codexd, limits, run, until};

/// The programs that this needs, and the Debian packages that have them.
const NEEDS: [(&str, &str); 3] = [
    ("/usr/bin/systemd-nspawn", "systemd-container"),
    ("/usr/lib/systemd/user/dbus.socket", "dbus-user-session"),
    ("/usr/bin/nsenter", "util-linux"),
];

/// The user of the host for whom codexd runs, and the user's number.
pub const USER: &str = "cxd";
const USER_ID: u32 = 52_000;

/// Why no host can be booted on this machine.
///
/// # Errors
/// A sentence for [`skip!`](crate::skip!).
pub fn available() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("a booted host needs root".to_owned());
    }
    match NEEDS.iter().find(|(program, _)| !Path::new(program).exists()) {
        Some((program, package)) => Err(format!("{program} is missing; install the package {package}")),
        None => Ok(()),
    }
}

/// A running host.
#[derive(Debug)]
pub struct BootedHost {
    root: TempDir,
    cgroups: Vec<PathBuf>,
    outer: Child,
    /// The host ends with this.
    stdin: Option<ChildStdin>,
    /// Process 1 of the host, as it is called outside.
    init: Process,
}

impl BootedHost {
    /// Boots one, and waits until it is up.
    ///
    /// # Errors
    /// Something is missing, or it does not come up; the error holds its console.
    pub fn boot() -> anyhow::Result<Self> {
        available().map_err(anyhow::Error::msg)?;
        let root = tempfile::Builder::new().prefix("cxd-host-").tempdir_in("/tmp")?;
        let name = root.path().file_name().and_then(OsStr::to_str).context("a name")?.to_lowercase();
        let name: String =
            name.chars().filter(|&letter| letter.is_ascii_alphanumeric() || letter == '-').collect();
        fs::create_dir(root.path().join("files"))?;
        fs::write(root.path().join("host.sh"), include_str!("booted_host/host.sh"))?;
        let mut cgroups = vec![cgroup_root()?.join(&name)];
        // The first version of control groups has a hierarchy of systemd's beside the others.
        let named = Path::new("/sys/fs/cgroup/systemd");
        if named.join("cgroup.procs").exists() {
            cgroups.push(named.join(&name));
        }
        for group in &cgroups {
            fs::create_dir(group).with_context(|| format!("failed to make {}", group.display()))?;
        }
        let console = fs::File::create(root.path().join("console"))?;
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation", "private", "bash"])
            .arg(root.path().join("host.sh"))
            .env("ROOT", root.path().join("files"))
            .env("NSPAWN", root.path().join("nspawn"))
            .env("NAME", &name)
            .env(
                "CGROUPS",
                cgroups.iter().map(|group| group.display().to_string()).collect::<Vec<_>>().join(" "),
            )
            .env("BINDS", format!("{}:{CODEXD}", codexd::binary()?.canonicalize()?.display()))
            .stdin(Stdio::piped())
            .stdout(console.try_clone()?)
            .stderr(console);
        let mut outer = command.spawn()?;
        let stdin = outer.stdin.take();
        let init = await_boot(root.path(), &mut outer, None);
        match init {
            Ok(init) => Ok(Self { root, cgroups, outer, stdin, init }),
            Err(error) => {
                drop(stdin);
                let _reaped = outer.wait();
                cgroups.iter().for_each(|group| remove_groups(group));
                Err(error)
            }
        }
    }

    /// Process 1 of the host.
    pub fn init(&self) -> &Process {
        &self.init
    }

    /// A path of the host, as it is called outside. It changes with each boot.
    pub fn path(&self, inside: &str) -> PathBuf {
        Path::new("/proc").join(self.init.pid.to_string()).join("root").join(inside.trim_start_matches('/'))
    }

    /// Shuts the host down in order and boots it again.
    ///
    /// # Errors
    /// It does not come up.
    pub fn reboot(&mut self) -> anyhow::Result<()> {
        let _connection_is_cut = self.as_root(&["systemctl", "--no-block", "reboot"])?;
        self.await_next_boot()
    }

    /// Cuts the power and boots again.
    ///
    /// # Errors
    /// It does not come up.
    pub fn cut_power(&mut self) -> anyhow::Result<()> {
        fs::write(self.root.path().join("nspawn.cut"), "")?;
        self.init.signal(Signal::KILL)?;
        self.await_next_boot()
    }

    fn await_next_boot(&mut self) -> anyhow::Result<()> {
        self.init.wait_gone(limits::SERVER_READY)?;
        self.init = await_boot(self.root.path(), &mut self.outer, Some(self.init.pid))?;
        Ok(())
    }

    fn enter(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--mount", "--pid", "--net", "--ipc", "--uts", "--cgroup", "--target"])
            .arg(self.init.pid.to_string())
            .arg("--")
            .args(words);
        command
    }

    /// Runs a program of root on the host to its end.
    ///
    /// # Errors
    /// It cannot be started or does not end.
    pub fn as_root(&self, words: &[&str]) -> anyhow::Result<Run> {
        run::run(self.enter(words), limits::RUN)
    }

    /// Runs a program of the user to its end, with the environment of a login. Where the user has no user manager, there is none.
    ///
    /// # Errors
    /// It cannot be started or does not end.
    pub fn as_user(&self, words: &[&str]) -> anyhow::Result<Run> {
        let user = USER_ID.to_string();
        let runtime = format!("XDG_RUNTIME_DIR=/run/user/{user}");
        let login = [
            "setpriv",
            "--reuid",
            &user,
            "--regid",
            &user,
            "--clear-groups",
            "env",
            "-i",
            "--chdir=/",
            "HOME=/home/cxd",
            "USER=cxd",
            "PATH=/usr/local/bin:/usr/bin:/bin",
            "LANG=C.UTF-8",
            &runtime,
        ];
        run::run(self.enter(&[&login, words].concat()), limits::RUN)
    }
}

/// Waits until process 1 of the next boot reports that the host is up.
fn await_boot(root: &Path, outer: &mut Child, before: Option<u32>) -> anyhow::Result<Process> {
    let console = || fs::read_to_string(root.join("console")).unwrap_or_default();
    let found = until(limits::SERVER_READY, "process 1 of the host", || {
        if let Ok(Some(status)) = outer.try_wait() {
            return Some(Err(anyhow::anyhow!("the host ended with {status}")));
        }
        let nspawn: u32 = fs::read_to_string(root.join("nspawn")).ok()?.trim().parse().ok()?;
        let children = fs::read_to_string(format!("/proc/{nspawn}/task/{nspawn}/children")).ok()?;
        let pid: u32 = children.split_ascii_whitespace().next()?.parse().ok()?;
        if Some(pid) == before {
            return None;
        }
        fs::symlink_metadata(format!("/proc/{pid}/root/run/systemd/private")).ok()?;
        Process::of(pid).map(Ok)
    });
    let init = found.and_then(|found| found).with_context(console)?;
    let mut state = Command::new("nsenter");
    state.args([
        "--mount",
        "--pid",
        "--net",
        "--ipc",
        "--uts",
        "--cgroup",
        "--target",
        &init.pid.to_string(),
        "--",
    ]);
    state.args(["systemctl", "is-system-running", "--wait"]);
    let state = run::run(state, limits::RUN)?;
    ensure!(matches!(state.stdout.trim(), "running" | "degraded"), "the host is {state}; {}", console());
    Ok(init)
}

impl Drop for BootedHost {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _reaped = self.outer.wait();
        if let Err(error) = self.init.wait_gone(limits::PROCESS_GONE) {
            eprintln!("{}: {error:#}", self.root.path().display());
        }
        let _in_use_for_a_moment = until(limits::PROCESS_GONE, "empty control groups", || {
            self.cgroups.iter().for_each(|group| remove_groups(group));
            self.cgroups.iter().all(|group| !group.exists()).then_some(())
        });
    }
}
