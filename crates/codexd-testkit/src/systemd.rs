//! A real systemd user manager for one test, on a machine that need not be booted with systemd.
//!
//! It runs in mount, pid and cgroup namespaces of its own, as an unprivileged user who exists only there. Everything in them ends with
//! the [`UserManager`], also when the test is killed. Needs root, `systemd`, `dbus-user-session` and util-linux.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, lchown};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use anyhow::{Context, ensure};
use tempfile::TempDir;

use crate::{Home, Process, Run, codex, codexd, limits, run, until};

/// The programs that this needs, and the Debian packages that have them.
const NEEDS: [(&str, &str); 5] = [
    ("/lib/systemd/systemd", "systemd"),
    ("/usr/lib/systemd/user/dbus.socket", "dbus-user-session"),
    ("/usr/bin/unshare", "util-linux"),
    ("/usr/bin/nsenter", "util-linux"),
    ("/usr/bin/setpriv", "util-linux"),
];

/// The user is given one of these numbers, by the number of the test process.
const FIRST_USER: u32 = 52_000;
const USERS: u32 = 4_000;

/// Where the built codexd is in the namespaces.
pub const CODEXD: &str = "/run/cxd/codexd";
/// Where the real releases of Codex are in the namespaces.
const RELEASES: &str = "/run/cxd/releases";

/// Why there can be no user manager on this machine.
///
/// # Errors
/// A sentence for [`skip!`](crate::skip!).
pub fn available() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("a systemd user manager in namespaces needs root".to_owned());
    }
    match NEEDS.iter().find(|(program, _)| !Path::new(program).exists()) {
        Some((program, package)) => Err(format!("{program} is missing; install the package {package}")),
        None => Ok(()),
    }
}

/// A running user manager, with a user of its own.
#[derive(Debug)]
pub struct UserManager {
    root: TempDir,
    user_id: u32,
    cgroup: PathBuf,
    /// `None` between two boots.
    namespaces: Option<Namespaces>,
}

/// What lives from one boot to the next.
#[derive(Debug)]
struct Namespaces {
    /// The process that waits for process 1 of the namespaces.
    outer: Child,
    /// Process 1 ends with this.
    stdin: Option<ChildStdin>,
    /// Process 1, as it is called outside.
    init: Process,
}

impl UserManager {
    /// Starts one, and waits until it is up.
    ///
    /// # Errors
    /// Something is missing, or it does not come up; the error holds what it wrote.
    pub fn start() -> anyhow::Result<Self> {
        available().map_err(anyhow::Error::msg)?;
        let root = tempfile::Builder::new().prefix("cxd-sd-").tempdir_in("/tmp")?;
        fs::set_permissions(root.path(), Permissions::from_mode(0o755))?;
        let user_id = FIRST_USER + std::process::id() % USERS;
        let at = |name: &str| root.path().join(name);
        fs::create_dir(at("u"))?;
        lchown(at("u"), Some(user_id), Some(user_id))?;
        let home = at("u");
        let passwd = format!("cxd:x:{user_id}:{user_id}::{}:/bin/sh\n", home.display());
        fs::write(at("passwd"), fs::read_to_string("/etc/passwd")? + &passwd)?;
        fs::write(at("group"), fs::read_to_string("/etc/group")? + &format!("cxd:x:{user_id}:\n"))?;
        fs::write(at("machine-id"), random_id()?.replace('-', ""))?;
        fs::write(at("init"), include_str!("systemd/init.sh"))?;
        let cgroup = cgroup_root()?.join(root.path().file_name().context("a name")?);
        fs::create_dir(&cgroup).with_context(|| format!("failed to make {}", cgroup.display()))?;
        let mut manager = Self { root, user_id, cgroup, namespaces: None };
        manager.boot()?;
        Ok(manager)
    }

    /// The user's home folder, with `.config/systemd/user`. It outlives a reboot.
    pub fn user_home(&self) -> PathBuf {
        self.root.path().join("u")
    }

    /// The number of the user.
    pub fn user_id(&self) -> u32 {
        self.user_id
    }

    /// Process 1 of the namespaces.
    pub fn init(&self) -> Option<&Process> {
        self.namespaces.as_ref().map(|namespaces| &namespaces.init)
    }

    /// Cuts the power and boots again: nothing but the files of the user is left.
    ///
    /// # Errors
    /// It does not come up.
    pub fn reboot(&mut self) -> anyhow::Result<()> {
        self.shut_down()?;
        self.boot()
    }

    fn boot(&mut self) -> anyhow::Result<()> {
        fs::write(self.root.path().join("boot-id"), random_id()?)?;
        let log = fs::File::create(self.root.path().join("log"))?;
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", r#"echo 0 > "$0/cgroup.procs"; exec unshare --mount --pid --cgroup --fork --kill-child --mount-proc --propagation private bash "$1""#])
            .arg(&self.cgroup)
            .arg(self.root.path().join("init"))
            .env("ROOT", self.root.path())
            .env("USER_ID", self.user_id.to_string())
            .env("BINDS", self.binds()?)
            .env("ENVIRONMENT", self.environment().map(|(name, value)| format!("{name}={value}")).join("\n"))
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log);
        let mut outer = command.spawn()?;
        let stdin = outer.stdin.take();
        let children = format!("/proc/{0}/task/{0}/children", outer.id());
        let ready = until(limits::SERVER_READY, "the user manager", || {
            if let Ok(Some(status)) = outer.try_wait() {
                return Some(Err(anyhow::anyhow!("process 1 ended with {status}")));
            }
            let pid: u32 = fs::read_to_string(&children).ok()?.trim().parse().ok()?;
            let socket = format!("/proc/{pid}/root{}/systemd/private", self.runtime_folder());
            fs::symlink_metadata(socket).ok()?;
            Process::of(pid).map(Ok)
        });
        let init = match ready.and_then(|ready| ready) {
            Ok(init) => init,
            Err(error) => {
                let _gone_already = outer.kill();
                let _reaped = outer.wait();
                return Err(error).with_context(|| self.log());
            }
        };
        self.namespaces = Some(Namespaces { outer, stdin, init });
        let state = self.run(&["systemctl", "--user", "is-system-running", "--wait"])?;
        ensure!(state.stdout.trim() == "running", "the user manager is {state}; {}", self.log());
        Ok(())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.root.path().join("log")).unwrap_or_default()
    }

    fn binds(&self) -> anyhow::Result<String> {
        let mut binds = format!("{} {CODEXD}\n", codexd::binary()?.canonicalize()?.display());
        let cache = codex::cache_folder()?;
        if cache.is_dir() {
            binds += &format!("{} {RELEASES}\n", cache.display());
        }
        Ok(binds)
    }

    fn runtime_folder(&self) -> String {
        format!("/run/user/{}", self.user_id)
    }

    fn environment(&self) -> [(&'static str, String); 5] {
        [
            ("HOME", self.user_home().display().to_string()),
            ("USER", "cxd".to_owned()),
            ("PATH", "/usr/local/bin:/usr/bin:/bin".to_owned()),
            ("LANG", "C.UTF-8".to_owned()),
            ("XDG_RUNTIME_DIR", self.runtime_folder()),
        ]
    }

    /// A real Codex, installed now if need be, by its path in the namespaces.
    ///
    /// # Errors
    /// It cannot be installed, or is not in the cache.
    pub fn codex(&self, version: codex::Version) -> anyhow::Result<PathBuf> {
        let binary = codex::binary(version)?.canonicalize()?;
        let below = binary.strip_prefix(codex::cache_folder()?.canonicalize()?)?;
        Ok(Path::new(RELEASES).join(below))
    }

    /// Gives everything in a home to the user.
    ///
    /// # Errors
    /// The file system's.
    pub fn own(&self, home: &Home) -> anyhow::Result<()> {
        self.own_tree(home.root())
    }

    /// Gives everything in the user's home folder to the user.
    ///
    /// # Errors
    /// The file system's.
    pub fn own_user_home(&self) -> anyhow::Result<()> {
        self.own_tree(&self.user_home())
    }

    fn own_tree(&self, path: &Path) -> anyhow::Result<()> {
        lchown(path, Some(self.user_id), Some(self.user_id))?;
        if path.symlink_metadata()?.is_dir() {
            for entry in fs::read_dir(path)? {
                self.own_tree(&entry?.path())?;
            }
        }
        Ok(())
    }

    /// A program that the user runs in a login session.
    ///
    /// # Panics
    /// Between two boots.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let init = &self.namespaces.as_ref().expect("it is up").init;
        let session = format!("user.slice/user-{}.slice/session-1.scope", self.user_id);
        let user = self.user_id.to_string();
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", r#"echo 0 > "$0/cgroup.procs"; exec nsenter "$@""#])
            .arg(self.cgroup.join(session))
            .args(["--mount", "--pid", "--cgroup", "--target", &init.pid.to_string(), "--"])
            .args(["setpriv", "--reuid", &user, "--regid", &user, "--clear-groups", "env", "--chdir=/"])
            .arg(program)
            .env_clear()
            .envs(self.environment());
        command
    }

    /// Runs a program of the user to its end.
    ///
    /// # Errors
    /// It cannot be started or does not end.
    pub fn run(&self, words: &[&str]) -> anyhow::Result<Run> {
        let (program, arguments) = words.split_first().context("a program")?;
        let mut command = self.command(program);
        command.args(arguments);
        run::run(command, limits::RUN)
    }

    /// What `systemctl --user` prints.
    ///
    /// # Errors
    /// It fails.
    pub fn systemctl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let run = self.run(&[&["systemctl", "--user", "--no-pager"], arguments].concat())?;
        ensure!(run.success(), "systemctl --user {}: {run}", arguments.join(" "));
        Ok(run.stdout)
    }

    /// One property of a unit.
    ///
    /// # Errors
    /// `systemctl` fails.
    pub fn property(&self, unit: &str, name: &str) -> anyhow::Result<String> {
        let shown = self.systemctl(&["show", "--value", "--property", name, unit])?;
        Ok(shown.trim_end().to_owned())
    }

    /// `codexd` of the user, on a home.
    pub fn codexd(&self, home: &Home, arguments: &[&str]) -> Command {
        let mut command = self.command(CODEXD);
        command.args(arguments).env("CODEX_HOME", home.path());
        command
    }

    fn shut_down(&mut self) -> anyhow::Result<()> {
        let Some(mut namespaces) = self.namespaces.take() else { return Ok(()) };
        // The kernel ends everything else in the namespaces with process 1.
        let killed = namespaces.outer.kill();
        drop(namespaces.stdin.take());
        let reaped = namespaces.outer.wait();
        let gone = namespaces.init.wait_gone(limits::PROCESS_GONE);
        killed?;
        reaped?;
        gone
    }

    fn remove_cgroups(&self) {
        let _in_use_for_a_moment = until(limits::PROCESS_GONE, "empty control groups", || {
            remove_groups(&self.cgroup);
            (!self.cgroup.exists()).then_some(())
        });
    }
}

impl Drop for UserManager {
    fn drop(&mut self) {
        if let Err(error) = self.shut_down() {
            eprintln!("{}: {error:#}", self.root.path().display());
        }
        self.remove_cgroups();
    }
}

/// Removes a control group without processes, and those below it.
pub(crate) fn remove_groups(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_groups(&entry.path());
        }
    }
    let _ = fs::remove_dir(group);
}

/// Where the second version of control groups is mounted: beside the first one on some machines.
pub(crate) fn cgroup_root() -> anyhow::Result<PathBuf> {
    let places = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(PathBuf::from);
    let is_one = |place: &PathBuf| place.join("cgroup.procs").exists();
    places.into_iter().find(is_one).context("no cgroup2 file system is mounted in /sys/fs/cgroup")
}

fn random_id() -> anyhow::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/uuid")?)
}

#[cfg(test)]
mod tests;
