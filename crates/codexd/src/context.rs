//! What every verb has at hand: the home, the options, the event log, and what was put right on the way.

use std::cell::{OnceCell, RefCell};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use codexd_core::contract::{ErrorCode, EventLevel, Failure, Repair};
use codexd_core::settings::{ParsedSettings, Settings};
use codexd_host::events::{Event, EventLog};
use codexd_host::lock::OperationLock;
use codexd_host::{Home, elsewhere, settings_file};

use crate::caller::Caller;
use crate::cli::Global;
use crate::{failures, output};

/// The version of codexd.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The problem, and the repair, of a grace that upstream's daemon does not accept.
pub const GRACE_BEYOND_UPSTREAM: &str = "grace-beyond-upstream";

/// What is wrong with it.
pub fn long_grace(seconds: u64) -> String {
    let limit = codexd_core::limits::UPSTREAM_GRACE_MAX_SECONDS;
    format!("the setting shutdownGraceSeconds is {seconds}; upstream's commands fail with more than {limit}")
}

/// What every verb has at hand.
#[derive(Debug)]
pub struct Context {
    /// The home.
    pub home: Home,
    /// The options of every verb.
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
    /// [`ErrorCode::HomeInvalid`] if no home can be told or the one that was named is not there.
    pub fn new(global: Global) -> Result<Self, Failure> {
        let home = resolve_home(&global)?;
        let log = EventLog::new(home.events());
        Ok(Self { log, home, global, caller: OnceCell::new(), repairs: RefCell::default() })
    }

    /// Who runs this command.
    pub fn caller(&self) -> &Caller {
        self.caller.get_or_init(|| Caller::identify(&self.home))
    }

    /// Takes the operation lock for `verb`; says on stderr whom it waits for.
    ///
    /// # Errors
    /// [`ErrorCode::LockTimeout`], [`ErrorCode::RunningElsewhere`], or what the file system said.
    pub fn lock(&self, verb: &str) -> Result<OperationLock, Failure> {
        // A home that cannot be written shows when something is to be written; to stop a server nothing is.
        let made = self.home.create_folders();
        let path = self.home.operation_lock();
        let patience = Duration::from_secs(self.global.lock_timeout);
        let taken = OperationLock::take(&path, verb, patience, |holder| {
            let holder = holder.unwrap_or("another codexd or codex command");
            output::say(&format!("waiting up to {} s for {holder}", patience.as_secs()));
        });
        let lock = taken.map_err(|error| match made {
            Err(made) if !matches!(error, codexd_host::lock::LockError::Timeout { .. }) => {
                failures::state("make the state folder in", self.home.root(), &made)
            }
            _ => failures::lock(&path, &error),
        })?;
        // Before anything is changed or signalled. A command elsewhere takes the same lock.
        if let Some(found) = elsewhere::find(&self.home) {
            return Err(failures::elsewhere(&self.home, &found));
        }
        // Takes away what killed writers have left. What cannot be done shows when something is to be written.
        let _ = self.home.create_state();
        Ok(lock)
    }

    /// Records that something was found wrong and put right.
    pub fn repaired(&self, found: &str, message: impl Into<String>) {
        let message = message.into();
        self.note(Event::new(EventLevel::Warn, "repair", message.clone()).with("found", found));
        self.repairs.borrow_mut().push(Repair { found: found.to_owned(), message });
    }

    /// What was put right so far.
    pub fn repairs(&self) -> Vec<Repair> {
        self.repairs.borrow().clone()
    }

    /// Writes an event. One that cannot be written is lost, which is said on stderr and fails nothing.
    pub fn note(&self, event: Event) {
        if let Err(error) = self.log.append(&event)
            && error.kind() != io::ErrorKind::NotFound
        {
            output::say(&format!(
                "warning: the event log {} cannot be written: {error}",
                self.home.events().display()
            ));
        }
    }

    /// Records that a verb refused or failed.
    pub fn refused(&self, verb: &str, failure: &Failure) {
        let event = Event::new(EventLevel::Error, "verb.failed", failure.message.clone())
            .with("verb", verb)
            .with("code", failure.code.as_str());
        self.note(event);
    }

    /// The settings, as far as they can be read. Nothing is changed.
    pub fn settings_as_found(&self) -> ParsedSettings {
        settings_file::read(&self.home).unwrap_or_else(|error| ParsedSettings {
            defects: vec![format!("not readable: {error}")],
            ..ParsedSettings::default()
        })
    }

    /// The settings for a changing verb: a defective file is kept aside first, and what could be read of it goes on.
    ///
    /// # Errors
    /// What the file system said.
    pub fn settings(&self) -> Result<Settings, Failure> {
        let path = self.home.settings();
        let parsed = settings_file::read(&self.home)
            .map_err(|error| failures::state("read the settings", &path, &error))?;
        if !parsed.defects.is_empty() {
            match settings_file::mend(&self.home, &parsed) {
                Ok(aside) => {
                    let defects = parsed.defects.join("; ");
                    let message = format!(
                        "the settings were defective ({defects}); the old file is kept at {}",
                        aside.display()
                    );
                    self.repaired("corrupt-settings", message);
                }
                // Where nothing can be written, what could be read must do.
                Err(error) => {
                    output::say(&format!("warning: the defective settings stay as they are: {error}"));
                }
            }
        }
        if let Some(seconds) = parsed.grace_beyond_upstream.filter(|_| parsed.defects.is_empty()) {
            match settings_file::write(&self.home, &parsed.settings) {
                Ok(()) => self
                    .repaired(GRACE_BEYOND_UPSTREAM, long_grace(seconds) + "; moved it to stopGraceSeconds"),
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

/// The home that was named must be there, as upstream has it; the default one is made.
fn resolve_home(global: &Global) -> Result<Home, Failure> {
    let invalid = |message: String| Failure::new(ErrorCode::HomeInvalid, message);
    let from_env = || std::env::var_os("CODEX_HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    if let Some(named) = global.codex_home.clone().or_else(from_env) {
        let shown = named.display().to_string();
        let found = named.canonicalize().map_err(|error| {
            invalid(format!("CODEX_HOME is {shown}, which cannot be used: {error}"))
                .hint("make the folder, or name another with --codex-home or CODEX_HOME")
        })?;
        if !found.is_dir() {
            return Err(invalid(format!("CODEX_HOME is {shown}, which is not a folder")));
        }
        return utf8(found);
    }
    let user = std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    let user = user.filter(|home| home.is_absolute()).ok_or_else(|| {
        invalid("neither CODEX_HOME nor HOME says where Codex lives".to_owned())
            .hint("set CODEX_HOME to an absolute path")
    })?;
    utf8(canonical(&user.join(".codex")))
}

/// The one path that something has before and after it is made, with no links in it: what is kept by path, the hash of a short
/// socket for one, would belong to another home otherwise.
fn canonical(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| match (path.parent(), path.file_name()) {
        (Some(folder), Some(name)) => canonical(folder).join(name),
        _ => path.to_owned(),
    })
}

/// The home's path goes into JSON.
fn utf8(home: PathBuf) -> Result<Home, Failure> {
    match home.to_str() {
        Some(_) => Ok(Home::new(home)),
        None => {
            let message = format!("the path of CODEX_HOME is not UTF-8: {}", home.display());
            Err(Failure::new(ErrorCode::HomeInvalid, message).hint("Codex itself needs a path in UTF-8, too"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::canonical;

    #[test]
    fn a_home_has_one_path_before_and_after_it_is_made() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().canonicalize().expect("there");
        std::fs::create_dir(root.join("real")).expect("made");
        std::os::unix::fs::symlink(root.join("real"), root.join("link")).expect("linked");
        for home in [".codex", "new user/.codex"] {
            let before = canonical(&root.join("link").join(home));
            assert_eq!(before, root.join("real").join(home));
            std::fs::create_dir_all(&before).expect("made");
            assert_eq!(canonical(&root.join("link").join(home)), before);
        }
    }
}
