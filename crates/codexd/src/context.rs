//! What every command has at hand: the home, the options, the event log, and what was put right on the way.

use std::cell::{OnceCell, RefCell};
use std::io;
use std::time::Duration;

use codexd_core::contract::{EventLevel, Failure, Repair};
use codexd_core::settings::{ParsedSettings, Settings};
use codexd_host::events::{Event, EventLog};
use codexd_host::lock::OperationLock;
use codexd_host::ownership::{self, ForeignOwner};
use codexd_host::service::supervisor::former_names::{self, UpgradeError, Upgraded};
use codexd_host::{Home, elsewhere, settings_file};

use crate::caller::Caller;
use crate::cli::Global;
use crate::{failures, foreign_home, home_folder, output};

/// The version of codexd.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The problem, and the repair, of a grace that upstream's daemon does not accept.
pub const GRACE_BEYOND_UPSTREAM: &str = "grace-beyond-upstream";

/// What is wrong with it.
pub fn long_grace(seconds: u64) -> String {
    let limit = codexd_core::limits::UPSTREAM_GRACE_MAX_SECONDS;
    format!("the setting shutdownGraceSeconds is {seconds}; upstream's commands fail with more than {limit}")
}

/// What every command has at hand.
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
    /// `home-invalid` if no home can be told or the one that was named is not there, `foreign-owner` if
    /// it belongs to another user.
    pub fn new(global: Global) -> Result<Self, Failure> {
        let home = home_folder::resolve(&global)?;
        foreign_home::check(&global, &home)?;
        let log = EventLog::new(home.events());
        Ok(Self { log, home, global, caller: OnceCell::new(), repairs: RefCell::default() })
    }

    /// Who runs this command.
    pub fn caller(&self) -> &Caller {
        self.caller.get_or_init(|| Caller::identify(&self.home))
    }

    /// Takes the operation lock for `command`; says on stderr whom it waits for.
    ///
    /// # Errors
    /// `lock-timeout`, `running-elsewhere`, or what the file system said.
    pub fn lock(&self, command: &str) -> Result<OperationLock, Failure> {
        // A home that cannot be written shows when something is to be written; to stop a server nothing is.
        let made = self.home.create_folders();
        if let Err(error) = &made
            && (ForeignOwner::of(error).is_some() || ownership::is_open_to_others(&self.home))
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
        // Before anything is changed or signalled. A command elsewhere takes the same lock.
        if let Some(found) = elsewhere::find(&self.home) {
            return Err(failures::elsewhere(&self.home, &found));
        }
        self.upgrade_from_former_names()?;
        // Takes away what killed writers have left. What cannot be done shows when something is to be written.
        let _ = self.home.create_state();
        Ok(lock)
    }

    /// Ends a supervisor of codexd 0.1.0 and renames its files.
    fn upgrade_from_former_names(&self) -> Result<(), Failure> {
        match former_names::upgrade(&self.home) {
            Ok(Upgraded::Nothing) => {}
            Ok(Upgraded::Files) => {
                self.repaired("former-file-names", "renamed the state files of codexd 0.1.0");
            }
            Ok(Upgraded::Supervisor(pid)) => self.repaired(
                "outdated-supervisor",
                format!(
                    "ended the supervisor {pid} of codexd 0.1.0 and renamed its state files; the app-server keeps running"
                ),
            ),
            // Where files cannot be renamed they are read under their former names.
            Err(UpgradeError::System(error)) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {}
            Err(error) => return Err(failures::upgrade(&self.home, &error)),
        }
        Ok(())
    }

    /// Records that something was found wrong and put right.
    pub fn repaired(&self, found: &str, message: impl Into<String>) {
        let message = message.into();
        self.log_event(Event::new(EventLevel::Warn, "repair", message.clone()).with("found", found));
        self.repairs.borrow_mut().push(Repair { found: found.to_owned(), message });
    }

    /// What was put right so far.
    pub fn repairs(&self) -> Vec<Repair> {
        self.repairs.borrow().clone()
    }

    /// Writes an event. One that cannot be written is lost, which is said on stderr and fails nothing.
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

    /// Records that a command refused or failed.
    pub fn refused(&self, command: &str, failure: &Failure) {
        let event = Event::new(EventLevel::Error, "command.failed", failure.message.clone())
            .with("command", command)
            .with("code", failure.code.as_str());
        self.log_event(event);
    }

    /// The settings, as far as they can be read; the defaults where the file cannot. Nothing is changed.
    pub fn settings_as_found(&self) -> ParsedSettings {
        settings_file::read(&self.home).unwrap_or_default()
    }

    /// The settings for a changing command: a defective file is kept aside first, and what could be read of it goes on.
    ///
    /// # Errors
    /// What the file system said.
    pub fn settings(&self) -> Result<Settings, Failure> {
        let path = self.home.settings();
        let parsed = settings_file::read(&self.home)
            .map_err(|error| failures::state("read the settings", &path, &error))?;
        if !parsed.defects.is_empty() {
            match settings_file::repair(&self.home, &parsed) {
                Ok(aside) => {
                    let defects = parsed.defects.join("; ");
                    let message = format!(
                        "the settings file was invalid ({defects}); replaced it, and kept the old file at {}",
                        aside.display()
                    );
                    self.repaired("corrupt-settings", message);
                }
                // Where nothing can be written, what could be read must do.
                Err(error) => {
                    output::say(&format!(
                        "warning: the settings file is invalid and cannot be repaired: {error}"
                    ));
                }
            }
        }
        if let Some(seconds) = parsed.grace_beyond_upstream.filter(|_| parsed.defects.is_empty()) {
            match settings_file::write(&self.home, &parsed.settings) {
                Ok(()) => self.repaired(
                    GRACE_BEYOND_UPSTREAM,
                    long_grace(seconds) + "; moved the value to stopGraceSeconds",
                ),
                Err(error) => output::say(&format!("warning: {}: {error}", long_grace(seconds))),
            }
        }
        Ok(parsed.settings)
    }

    /// Writes changed settings.
    ///
    /// # Errors
    /// What the file system said; the old ones are untouched then.
    pub fn write_settings(&self, settings: &Settings) -> Result<(), Failure> {
        settings_file::write(&self.home, settings)
            .map_err(|error| failures::state("write the settings", &self.home.settings(), &error))
    }
}
