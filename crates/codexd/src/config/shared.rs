//! What a changing command puts right in `settings.json`: defects, a grace period that upstream does not accept, and keys of codexd,
//! which move to `codexd.toml`.

use codexd_core::config::{self, Config, FlagValues};
use codexd_core::contract::{EventLevel, Failure};
use codexd_host::events::Event;
use codexd_host::{config_file, settings_file};

use super::{Found, load, text_of};
use crate::context::{Context, GRACE_BEYOND_UPSTREAM, long_grace};
use crate::{failures, output};

impl Context {
    /// Puts `settings.json` right, and answers the configuration after that. Where nothing can be written, what was read counts.
    pub(super) fn put_right(&self, found: Found, flags: &[FlagValues]) -> Result<Config, Failure> {
        self.repair_settings(&found);
        if !found.config.shared().has_former() {
            return Ok(found.config);
        }
        match self.move_former(&found) {
            Ok(()) => {
                if let Some(seconds) = found.shared.grace_beyond_upstream {
                    let message =
                        long_grace(seconds) + "; moved the value to stopGraceSeconds in codexd.toml";
                    self.repaired(GRACE_BEYOND_UPSTREAM, message);
                }
                Ok(load(&self.home, flags).config)
            }
            Err(error) => {
                output::say(&format!(
                    "warning: cannot move settings to {}: {error}",
                    self.home.config().display()
                ));
                Ok(found.config)
            }
        }
    }

    fn repair_settings(&self, found: &Found) {
        if found.shared.defects.is_empty() {
            return;
        }
        match settings_file::repair(&self.home, &found.shared) {
            Ok(aside) => {
                let defects = found.shared.defects.join("; ");
                let message = format!(
                    "the settings file was invalid ({defects}); replaced it and kept the old file as {}",
                    aside.display()
                );
                self.repaired("corrupt-settings", message);
            }
            // In a home that is not writable, the values that could be read count.
            Err(error) => {
                output::say(&format!(
                    "warning: the settings file is invalid and cannot be repaired: {error}"
                ));
            }
        }
    }

    /// Moves keys of codexd from `settings.json` to `codexd.toml`. The new file is complete before the old one changes: if the command is
    /// killed in between, both have the values, those of `codexd.toml` count, and the next command removes the old ones.
    fn move_former(&self, found: &Found) -> Result<(), String> {
        let settings = found.config.shared();
        let mut text = text_of(found.file.as_deref())?.to_owned();
        let (set_before, _) = config::parse_toml(&self.home.config(), text.as_bytes());
        let is_set = |key: &str| set_before.iter().any(|value| value.setting.key == key);
        let (mut moved, mut dropped) = (Vec::new(), Vec::new());
        for (setting, value) in settings.former() {
            if is_set(setting.key) {
                dropped.push(setting.key);
            } else {
                text = config::set(&text, setting, value)?;
                moved.push(setting.key);
            }
        }
        if !moved.is_empty() {
            config_file::write(&self.home, &text).map_err(|error| error.to_string())?;
        }
        let rest = settings.without_former();
        settings_file::write(&self.home, &rest).map_err(|error| error.to_string())?;
        let (from, to) = (self.home.settings(), self.home.config());
        let mut message = format!("moved {} from {} to {}", list(&moved), from.display(), to.display());
        if !dropped.is_empty() {
            message += &format!("; {} there counts, and that of settings.json was removed", list(&dropped));
        }
        let event = Event::new(EventLevel::Info, "config.moved", message);
        self.log_event(event.with("moved", moved).with("dropped", dropped));
        Ok(())
    }

    /// Writes changed settings to `settings.json`.
    ///
    /// # Errors
    /// What the file system said; the old ones are untouched then.
    pub fn write_settings(&self, config: &Config) -> Result<(), Failure> {
        settings_file::write(&self.home, config.shared())
            .map_err(|error| failures::state("write the settings", &self.home.settings(), &error))
    }
}

fn list(keys: &[&str]) -> String {
    if keys.is_empty() { "nothing".to_owned() } else { keys.join(", ") }
}
