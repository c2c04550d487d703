//! The settings file: what codexd knows of it is checked, what it does not know is kept.

mod gateway;

use std::path::PathBuf;

use serde_json::{Map, Value};

pub use gateway::{Gateway, SubagentApprovals};

use crate::foreign_text::quote;
use crate::limits;

const REMOTE_CONTROL: &str = "remoteControlEnabled";
/// Upstream's key.
const UPSTREAM_GRACE: &str = "shutdownGraceSeconds";
/// Ours, which may be longer than upstream accepts.
const GRACE: &str = "stopGraceSeconds";
const CODEX_BIN: &str = "codexBin";
const GATEWAY: &str = "gateway";
const WORKING_DIRECTORY: &str = "workingDirectory";
const UMASK: &str = "umask";

/// The settings of one CODEX_HOME.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// Start the server with remote control.
    pub remote_control_enabled: bool,
    /// The grace of `stop` and `restart`; `None` means upstream's, or the default.
    pub stop_grace_seconds: Option<u64>,
    /// The same under upstream's key.
    pub shutdown_grace_seconds: Option<u64>,
    /// The Codex to run, an absolute path.
    pub codex_bin: Option<PathBuf>,
    /// What stands in front of the server.
    pub gateway: Gateway,
    /// The working directory of the app-server, an absolute path; `None` means the home folder of the user.
    pub working_directory: Option<PathBuf>,
    /// The umask of the app-server; `None` means the default.
    pub umask: Option<u32>,
    /// Every field of the file, also those of others.
    fields: Map<String, Value>,
}

/// The settings that a text holds, with what is wrong in it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ParsedSettings {
    /// What could be read; defaults for the rest.
    pub settings: Settings,
    /// What could not: the file must be kept aside before it is written over.
    pub defects: Vec<String>,
    /// A grace that stands under upstream's key and is longer than upstream accepts, in seconds. The settings have it under our
    /// own key.
    pub grace_beyond_upstream: Option<u64>,
}

impl Settings {
    /// The grace in force, in seconds.
    pub fn grace_seconds(&self) -> u64 {
        let set = self.stop_grace_seconds.or(self.shutdown_grace_seconds);
        set.unwrap_or(limits::SHUTDOWN_GRACE_SECONDS)
    }

    /// The umask of the app-server.
    pub fn server_umask(&self) -> u32 {
        self.umask.unwrap_or(limits::SERVER_UMASK)
    }

    /// The same settings with remote control on or off.
    #[must_use]
    pub fn with_remote_control(&self, enabled: bool) -> Settings {
        let mut changed = self.clone();
        changed.remote_control_enabled = enabled;
        changed.fields.insert(REMOTE_CONTROL.into(), enabled.into());
        changed
    }

    /// The text of the file: every field it had, known or not, in the order it had.
    pub fn to_text(&self) -> String {
        let mut fields = self.fields.clone();
        // Upstream of the 0.131 era refuses a file without this field.
        fields.entry(REMOTE_CONTROL).or_insert(self.remote_control_enabled.into());
        format!("{:#}\n", Value::Object(fields))
    }
}

/// Reads the text of a settings file. Whatever the text, there is an answer.
pub fn parse(bytes: &[u8]) -> ParsedSettings {
    let fields = match serde_json::from_slice::<Map<String, Value>>(bytes) {
        Ok(fields) => fields,
        Err(error) => {
            let defects = vec![format!("not a JSON object: {}", quote(&error.to_string()))];
            return ParsedSettings { defects, ..ParsedSettings::default() };
        }
    };
    let mut parsed = ParsedSettings::default();
    for (name, value) in fields {
        match check(&mut parsed.settings, &name, &value) {
            Ok(()) => {
                parsed.settings.fields.insert(name, value);
            }
            Err(expected) => {
                let (name, found) = (quote(&name), quote(&value.to_string()));
                parsed.defects.push(format!("{name} is {found}, expected {expected}"));
            }
        }
    }
    move_long_grace(&mut parsed);
    parsed
}

/// With a longer grace than it accepts every command of upstream's daemon fails.
fn move_long_grace(parsed: &mut ParsedSettings) {
    let settings = &mut parsed.settings;
    let is_long = |seconds: &u64| *seconds > limits::UPSTREAM_GRACE_MAX_SECONDS;
    let Some(seconds) = settings.shutdown_grace_seconds.take_if(|seconds| is_long(seconds)) else { return };
    settings.fields.remove(UPSTREAM_GRACE);
    let kept = *settings.stop_grace_seconds.get_or_insert(seconds);
    settings.fields.insert(GRACE.into(), kept.into());
    parsed.grace_beyond_upstream = Some(seconds);
}

fn check(settings: &mut Settings, name: &str, value: &Value) -> Result<(), &'static str> {
    match (name, value) {
        (REMOTE_CONTROL, Value::Bool(enabled)) => settings.remote_control_enabled = *enabled,
        (REMOTE_CONTROL, _) => return Err("true or false"),
        (GRACE, value) => settings.stop_grace_seconds = Some(grace(value)?),
        (UPSTREAM_GRACE, value) => settings.shutdown_grace_seconds = Some(grace(value)?),
        (CODEX_BIN, Value::Null) => settings.codex_bin = None,
        (CODEX_BIN, Value::String(path)) if path.starts_with('/') => {
            settings.codex_bin = Some(PathBuf::from(path));
        }
        (CODEX_BIN, _) => return Err("an absolute path"),
        (WORKING_DIRECTORY, Value::Null) => settings.working_directory = None,
        (WORKING_DIRECTORY, Value::String(path)) if path.starts_with('/') => {
            settings.working_directory = Some(PathBuf::from(path));
        }
        (WORKING_DIRECTORY, _) => return Err("an absolute path"),
        (UMASK, Value::Null) => settings.umask = None,
        (UMASK, value) => {
            settings.umask = Some(parse_umask(value).ok_or("octal digits from \"000\" to \"077\"")?);
        }
        (GATEWAY, value) => settings.gateway = Gateway::parse(value)?,
        _ => {}
    }
    Ok(())
}

fn grace(value: &Value) -> Result<u64, &'static str> {
    let seconds = value.as_u64().filter(|&seconds| seconds <= limits::SHUTDOWN_GRACE_MAX_SECONDS);
    seconds.ok_or("whole seconds, at most a day")
}

/// The owner's own rights cannot be masked: the server could not use its files.
fn parse_umask(value: &Value) -> Option<u32> {
    let digits = value.as_str().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    u32::from_str_radix(digits, 8).ok().filter(|&umask| umask <= 0o077)
}

#[cfg(test)]
mod tests {
    use super::parse;
    use proptest::prelude::*;

    #[test]
    fn fields_of_others_survive_a_change() {
        let parsed = parse(br#"{"updateIntervalMinutes":60,"remoteControlEnabled":false,"x":{"y":[1]}}"#);
        assert!(parsed.defects.is_empty());
        let text = parsed.settings.with_remote_control(true).to_text();
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(
            value,
            serde_json::json!({"updateIntervalMinutes":60,"remoteControlEnabled":true,"x":{"y":[1]}})
        );
    }

    #[test]
    fn one_bad_field_does_not_cost_the_good_ones() {
        let parsed = parse(br#"{"shutdownGraceSeconds":"soon","remoteControlEnabled":true}"#);
        assert!(parsed.settings.remote_control_enabled);
        assert_eq!(parsed.settings.grace_seconds(), 60);
        assert_eq!(
            parsed.defects,
            ["shutdownGraceSeconds is \"soon\", expected whole seconds, at most a day"]
        );
    }

    #[test]
    fn a_grace_longer_than_upstream_accepts_moves_to_our_own_key() {
        let parsed = parse(br#"{"shutdownGraceSeconds":600,"x":1}"#);
        assert_eq!((parsed.settings.grace_seconds(), parsed.grace_beyond_upstream), (600, Some(600)));
        assert!(parsed.defects.is_empty());
        let again = parse(parsed.settings.to_text().as_bytes());
        assert_eq!((again.settings.grace_seconds(), again.grace_beyond_upstream), (600, None));
        let both = parse(br#"{"shutdownGraceSeconds":600,"stopGraceSeconds":900}"#);
        assert_eq!(both.settings.grace_seconds(), 900, "our own key counts");
        let within = parse(br#"{"shutdownGraceSeconds":300}"#);
        assert_eq!((within.settings.grace_seconds(), within.grace_beyond_upstream), (300, None));
    }

    #[test]
    fn the_gateway_is_on_unless_switched_off_and_what_others_wrote_in_it_is_kept() {
        assert!(parse(b"{}").settings.gateway.is_on());
        assert!(!parse(br#"{"gateway":false}"#).settings.gateway.is_on());
        let parsed = parse(br#"{"gateway":{"listen":"ws://127.0.0.1:7","theirs":1}}"#);
        let text = parsed.settings.with_remote_control(true).to_text();
        assert!(text.contains("\"theirs\": 1"), "{text}");
        assert_eq!(parse(br#"{"gateway":"maybe"}"#).defects.len(), 1);
    }

    #[test]
    fn a_umask_is_octal_and_leaves_the_owner_everything() {
        assert_eq!(parse(b"{}").settings.server_umask(), 0o022);
        assert_eq!(parse(br#"{"umask":"027"}"#).settings.server_umask(), 0o027);
        assert_eq!(parse(br#"{"umask":null}"#).settings.server_umask(), 0o022);
        for wrong in ["{\"umask\":\"777\"}", "{\"umask\":22}", "{\"umask\":\"+22\"}", "{\"umask\":\"\"}"] {
            assert_eq!(parse(wrong.as_bytes()).defects.len(), 1, "{wrong}");
        }
    }

    #[test]
    fn a_working_directory_is_an_absolute_path_or_null() {
        let found = parse(br#"{"workingDirectory":"/srv"}"#).settings.working_directory;
        assert_eq!(found.as_deref(), Some(std::path::Path::new("/srv")));
        assert!(parse(br#"{"workingDirectory":null}"#).defects.is_empty());
        assert_eq!(parse(br#"{"workingDirectory":"work"}"#).defects.len(), 1);
    }

    #[test]
    fn an_empty_object_is_no_defect() {
        assert!(parse(b"{}").defects.is_empty());
        assert_eq!(parse(b"{ nonsense").defects.len(), 1);
        assert_eq!(parse(b"").defects.len(), 1);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = parse(&bytes).settings.to_text();
        }
    }
}
