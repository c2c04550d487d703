//! What each command works with: the home, the options, the event log, and the repairs so far.

use std::cell::{OnceCell, RefCell};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use codexd_core::contract::{Backend, EventLevel, Failure, Repair};
use codexd_host::events::{Event, EventLog};
use codexd_host::lock::OperationLock;
use codexd_host::ownership::{self, ForeignOwner};
use codexd_host::service::backend;
use codexd_host::service::supervisor::upgrade::{self, UpgradeError, Upgraded};
use codexd_host::{Home, elsewhere};

use crate::caller::Caller;
use crate::cli::Global;
use crate::{failures, foreign_home, home_folder, output};

/// The version of codexd.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The problem, and the repair, of a grace period that the daemon of upstream does not accept.
pub const GRACE_BEYOND_UPSTREAM: &str = "grace-beyond-upstream";

/// The problem, and the repair, of a folder of codexd that other users may write to.
pub const WRITABLE_BY_OTHERS: &str = "writable-by-others";

/// The sentence of [`WRITABLE_BY_OTHERS`].
pub fn writable_folder(folder: &Path) -> String {
    format!("{} is writable by other users", folder.display())
}

/// The sentence of [`GRACE_BEYOND_UPSTREAM`].
pub fn long_grace(seconds: u64) -> String {
    let limit = codexd_core::limits::UPSTREAM_GRACE_MAX_SECONDS;
    format!(
        "the setting shutdownGraceSeconds is {seconds}; `codex app-server daemon` rejects values above {limit}"
    )
}

/// What each command works with.
#[derive(Debug)]
pub struct Context {
    /// The home.
    pub home: Home,
    /// The options of every command.
    pub global: Global,
    /// The event log.
    pub log: EventLog,
    caller: OnceCell<Caller>,
    repairs: RefCell<Vec<Repair>>,
}

impl Context {
    /// The context for the options.
    ///
    /// # Errors
    /// `home-invalid` if the home is unknown or does not exist, `foreign-owner` if another user owns it.
    pub fn new(global: Global) -> Result<Self, Failure> {
        let home = home_folder::resolve(&global)?;
        foreign_home::check(&global, &home)?;
        let log = EventLog::new(home.events());
        Ok(Self { log, home, global, caller: OnceCell::new(), repairs: RefCell::default() })
    }

    /// What runs the supervisor of the home.
    pub fn backend(&self) -> Backend {
        backend::read(&self.home)
    }

    /// The process that runs this command.
    pub fn caller(&self) -> &Caller {
        self.caller.get_or_init(|| Caller::identify(&self.home))
    }

    /// Takes the operation lock for `command`. While it waits, it prints the holder on stderr.
    ///
    /// # Errors
    /// `lock-timeout`, `running-elsewhere`, or the error of the file system.
    pub fn lock(&self, command: &str) -> Result<OperationLock, Failure> {
        let folders = [self.home.state_dir(), self.home.control_dir()];
        let writable = folders.into_iter().filter(|folder| ownership::is_writable_by_others(folder));
        let writable: Vec<PathBuf> = writable.collect();
        // In a home that is not writable the first write fails later; `stop` may need no write.
        let made = self.home.create_folders();
        if let Err(error) = &made
            && (ForeignOwner::of(error).is_some() || ownership::is_writable_by_others(&self.home.state_dir()))
        {
            return Err(failures::state(
                "restrict the state folder to its owner in",
                self.home.root(),
                error,
            ));
        }
        let path = self.home.operation_lock();
        let timeout = Duration::from_secs(self.global.lock_timeout);
        let taken = OperationLock::take(&path, command, timeout, |holder| {
            let holder = holder.unwrap_or("another codexd or codex command");
            output::say(&format!("waiting up to {} s for {holder}", timeout.as_secs()));
        });
        let lock = taken.map_err(|error| match made {
            Err(made) if !matches!(error, codexd_host::lock::LockError::Timeout { .. }) => {
                failures::state("create the state folder in", self.home.root(), &made)
            }
            _ => failures::lock(&path, &error),
        })?;
        // Before any change and any signal. A command in another pid namespace takes the same lock.
        if let Some(found) = elsewhere::find(&self.home) {
            return Err(failures::elsewhere(&self.home, &found));
        }
        self.upgrade_from_former_names()?;
        // Removes the temporary files of killed writers. If that fails, the first write fails later.
        let _ = self.home.create_state();
        for folder in writable.iter().filter(|folder| !ownership::is_writable_by_others(folder)) {
            self.repaired(WRITABLE_BY_OTHERS, writable_folder(folder) + "; set its mode to 0700");
        }
        Ok(lock)
    }

    /// Ends a supervisor of codexd 0.1.0 and renames its files.
    fn upgrade_from_former_names(&self) -> Result<(), Failure> {
        match upgrade::upgrade(&self.home) {
            Ok(Upgraded::Nothing) => {}
            Ok(Upgraded::Files) => {
                self.repaired("former-file-names", "renamed the state files of codexd 0.1.0");
            }
            Ok(Upgraded::Supervisor(pid)) => self.repaired(
                "outdated-supervisor",
                format!(
                    "ended the supervisor (pid {pid}) of codexd 0.1.0 and renamed its state files; the app-server keeps running"
                ),
            ),
            // Files that cannot be renamed are read under their former names.
            Err(UpgradeError::System(error)) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {}
            Err(error) => return Err(failures::upgrade(&self.home, &error)),
        }
        Ok(())
    }

    /// Records a repair in the answer and in the event log.
    pub fn repaired(&self, found: &str, message: impl Into<String>) {
        let message = message.into();
        self.log_event(Event::new(EventLevel::Warn, "repair", message.clone()).with("found", found));
        self.repairs.borrow_mut().push(Repair { found: found.to_owned(), message });
    }

    /// The repairs so far.
    pub fn repairs(&self) -> Vec<Repair> {
        self.repairs.borrow().clone()
    }

    /// Writes an event. If that fails, it prints a warning, and the command continues.
    pub fn log_event(&self, event: Event) {
        if let Err(error) = self.log.append(&event)
            && error.kind() != io::ErrorKind::NotFound
        {
            output::say(&format!(
                "warning: cannot write the event log {}: {error}",
                self.home.events().display()
            ));
        }
    }

    /// Logs the failure of a command.
    pub fn refused(&self, command: &str, failure: &Failure) {
        let event = Event::new(EventLevel::Error, "command.failed", failure.message.clone())
            .with("command", command)
            .with("code", failure.code.as_str());
        self.log_event(event);
    }
}
