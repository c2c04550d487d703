//! `settings.json`, which upstream's daemon shares: what codexd knows of it is checked, what it does not know is kept. Keys of
//! codexd that an earlier version wrote there still count, until a changing command moves them to `codexd.toml`.

use serde_json::{Map, Value as Json};

use super::gateway;
use super::table::{self, Setting};
use super::value::{Kind, Value};
use crate::foreign_text::quote;
use crate::limits;

const REMOTE_CONTROL: &str = "remoteControlEnabled";
/// Upstream's key.
const UPSTREAM_GRACE: &str = "shutdownGraceSeconds";
/// Ours, which may be longer than upstream accepts.
const GRACE: &str = "stopGraceSeconds";
const GATEWAY: &str = "gateway";
const UPDATER: &str = "updater";
/// Keys that an earlier codexd wrote here, beside `gateway`.
const FORMER: [&str; 4] = [GRACE, "codexBin", "workingDirectory", "umask"];

/// The settings of the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SharedSettings {
    /// What the file sets, also under keys of codexd that belong into `codexd.toml`.
    values: Vec<(&'static Setting, Value)>,
    /// Whether keys are to be moved to `codexd.toml`.
    has_former: bool,
    /// Every field of the file, also those of others.
    fields: Map<String, Json>,
}

/// The settings that a text holds, with what is wrong in it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ParsedSettings {
    /// What could be read.
    pub settings: SharedSettings,
    /// What could not: the file must be kept aside before it is written over.
    pub defects: Vec<String>,
    /// A grace under upstream's key that is longer than upstream accepts, in seconds. The settings have it under codexd's own key.
    pub grace_beyond_upstream: Option<u64>,
}

impl SharedSettings {
    /// What the file sets.
    pub fn values(&self) -> impl Iterator<Item = (&'static Setting, &Value)> {
        self.values.iter().map(|(setting, value)| (*setting, value))
    }

    /// What belongs into `codexd.toml`.
    pub fn former(&self) -> impl Iterator<Item = (&'static Setting, &Value)> {
        self.values().filter(|(setting, _)| setting.file == table::SettingFile::CodexdToml)
    }

    /// Whether keys of codexd are in the file, even if they set nothing.
    pub fn has_former(&self) -> bool {
        self.has_former
    }

    /// The same settings without what belongs into `codexd.toml`. Fields of others inside of `gateway` are kept.
    #[must_use]
    pub fn without_former(&self) -> SharedSettings {
        let mut rest = self.clone();
        rest.values.retain(|(setting, _)| setting.file == table::SettingFile::SettingsJson);
        rest.has_former = false;
        for key in FORMER {
            rest.fields.shift_remove(key);
        }
        if let Some(Json::Object(gateway)) = rest.fields.get_mut(GATEWAY) {
            gateway.retain(|name, _| gateway_setting(name).is_none());
        }
        let is_empty = |gateway: &Json| gateway.as_object().is_none_or(Map::is_empty);
        if rest.fields.get(GATEWAY).is_some_and(is_empty) {
            rest.fields.shift_remove(GATEWAY);
        }
        rest
    }

    /// The same settings with remote control on or off.
    #[must_use]
    pub fn with_remote_control(&self, enabled: bool) -> SharedSettings {
        let mut changed = self.clone();
        changed.put(REMOTE_CONTROL, Value::Bool(enabled));
        changed.fields.insert(REMOTE_CONTROL.into(), enabled.into());
        changed
    }

    /// The text of the file: every field it had, known or not, in the order it had.
    pub fn to_text(&self) -> String {
        let mut fields = self.fields.clone();
        // Upstream of the 0.131 era refuses a file without this field.
        fields.entry(REMOTE_CONTROL).or_insert(false.into());
        format!("{:#}\n", Json::Object(fields))
    }

    fn put(&mut self, key: &str, value: Value) {
        if let Some(setting) = table::find(key) {
            self.values.retain(|(known, _)| known.key != key);
            self.values.push((setting, value));
        }
    }

    /// Reads a field.
    ///
    /// # Errors
    /// What was expected instead.
    fn read(&mut self, name: &str, value: &Json) -> Result<(), String> {
        match name {
            GATEWAY => {
                self.has_former |= value.as_object().is_none_or(|fields| {
                    fields.is_empty() || fields.keys().any(|field| gateway_setting(field).is_some())
                });
                for (setting, value) in gateway_values(value)? {
                    self.put(setting.key, value);
                }
            }
            UPDATER => {
                for (field, value) in value.as_object().ok_or("an object")? {
                    if let Some(setting) = table::find(&format!("{UPDATER}.{field}")) {
                        self.put(setting.key, read(setting.kind, value, field)?);
                    }
                }
            }
            UPSTREAM_GRACE => {
                let kind = Kind::Integer { min: 0, max: limits::SHUTDOWN_GRACE_MAX_SECONDS };
                self.put(UPSTREAM_GRACE, kind.from_json(value).map_err(|bad| bad.expected)?);
            }
            _ if FORMER.contains(&name) => {
                self.has_former = true;
                if let Some(setting) = table::find(name).filter(|_| !value.is_null()) {
                    self.put(name, setting.kind.from_json(value).map_err(|bad| bad.expected)?);
                }
            }
            REMOTE_CONTROL => {
                self.put(REMOTE_CONTROL, Kind::Bool.from_json(value).map_err(|bad| bad.expected)?);
            }
            _ => {}
        }
        Ok(())
    }
}

/// Reads the text of a settings file. Whatever the text, there is an answer.
pub fn parse(bytes: &[u8]) -> ParsedSettings {
    let fields = match serde_json::from_slice::<Map<String, Json>>(bytes) {
        Ok(fields) => fields,
        Err(error) => {
            let defects = vec![format!("not a JSON object: {}", quote(&error.to_string()))];
            return ParsedSettings { defects, ..ParsedSettings::default() };
        }
    };
    let mut parsed = ParsedSettings::default();
    for (name, value) in fields {
        match parsed.settings.read(&name, &value) {
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
    let grace = settings.values.iter().find_map(|(setting, value)| match value {
        Value::Integer(seconds) if setting.key == UPSTREAM_GRACE => Some(*seconds),
        _ => None,
    });
    let Some(seconds) = grace.filter(|&seconds| seconds > limits::UPSTREAM_GRACE_MAX_SECONDS) else { return };
    settings.values.retain(|(setting, _)| setting.key != UPSTREAM_GRACE);
    settings.fields.shift_remove(UPSTREAM_GRACE);
    if !settings.values.iter().any(|(setting, _)| setting.key == GRACE) {
        settings.put(GRACE, Value::Integer(seconds));
        settings.fields.insert(GRACE.into(), seconds.into());
    }
    settings.has_former = true;
    parsed.grace_beyond_upstream = Some(seconds);
}

fn gateway_setting(field: &str) -> Option<&'static Setting> {
    // Never written by an earlier codexd: `false` switched the gateway off.
    table::find(&format!("{GATEWAY}.{field}")).filter(|_| field != "enabled")
}

/// What the former key `gateway` sets. One bad field costs all of them, as it did.
fn gateway_values(value: &Json) -> Result<Vec<(&'static Setting, Value)>, String> {
    let fields = match value {
        Json::Bool(enabled) => {
            let setting = table::find("gateway.enabled");
            return Ok(setting.map(|setting| (setting, Value::Bool(*enabled))).into_iter().collect());
        }
        Json::Object(fields) => fields,
        _ => {
            return Err(
                "true, false, or an object with listen, allowNonLoopback and subagentApprovals".into()
            );
        }
    };
    let mut values = Vec::new();
    for (field, value) in fields {
        let Some(setting) = gateway_setting(field) else { continue };
        if !(value.is_null() && field == "listen") {
            values.push((setting, read(setting.kind, value, field)?));
        }
    }
    let listen = fields.get("listen").and_then(Json::as_str).and_then(gateway::address);
    let anywhere = fields.get("allowNonLoopback") == Some(&Json::Bool(true));
    if listen.is_some_and(|address| !gateway::may_listen(address, anywhere)) {
        return Err("listen to be a loopback address, or allowNonLoopback to be true".into());
    }
    Ok(values)
}

fn read(kind: Kind, value: &Json, field: &str) -> Result<Value, String> {
    kind.from_json(value).map_err(|bad| format!("{field} to be {}", bad.expected))
}

#[cfg(test)]
mod tests {
    use super::{ParsedSettings, parse};
    use crate::config::value::Value;
    use proptest::prelude::*;
    use serde_json::{Value as Json, json};

    fn value(parsed: &ParsedSettings, key: &str) -> Option<Value> {
        let mut values = parsed.settings.values();
        values.find(|(setting, _)| setting.key == key).map(|(_, value)| value.clone())
    }

    fn written(text: &str) -> Json {
        serde_json::from_str(text).expect("JSON")
    }

    #[test]
    fn fields_of_others_survive_a_change() {
        let parsed = parse(br#"{"updateIntervalMinutes":60,"remoteControlEnabled":false,"x":{"y":[1]}}"#);
        assert!(parsed.defects.is_empty());
        let text = parsed.settings.with_remote_control(true).to_text();
        assert_eq!(
            written(&text),
            json!({"updateIntervalMinutes":60,"remoteControlEnabled":true,"x":{"y":[1]}})
        );
    }

    #[test]
    fn one_bad_field_does_not_cost_the_good_ones() {
        let parsed = parse(br#"{"shutdownGraceSeconds":"soon","remoteControlEnabled":true}"#);
        assert_eq!(value(&parsed, "remoteControlEnabled"), Some(Value::Bool(true)));
        assert_eq!(value(&parsed, "shutdownGraceSeconds"), None);
        assert_eq!(
            parsed.defects,
            ["shutdownGraceSeconds is \"soon\", expected a whole number from 0 to 86400"]
        );
    }

    #[test]
    fn a_grace_longer_than_upstream_accepts_moves_to_our_own_key() {
        let grace = |parsed: &ParsedSettings| value(parsed, "stopGraceSeconds");
        let parsed = parse(br#"{"shutdownGraceSeconds":600,"x":1}"#);
        assert_eq!((grace(&parsed), parsed.grace_beyond_upstream), (Some(Value::Integer(600)), Some(600)));
        assert!(parsed.defects.is_empty() && parsed.settings.has_former());
        let again = parse(parsed.settings.to_text().as_bytes());
        assert_eq!((grace(&again), again.grace_beyond_upstream), (Some(Value::Integer(600)), None));
        let rest = parsed.settings.without_former();
        assert_eq!(written(&rest.to_text()), json!({"x":1,"remoteControlEnabled":false}));
        let both = parse(br#"{"shutdownGraceSeconds":600,"stopGraceSeconds":900}"#);
        assert_eq!(grace(&both), Some(Value::Integer(900)), "our own key counts");
        let within = parse(br#"{"shutdownGraceSeconds":300}"#);
        assert_eq!(value(&within, "shutdownGraceSeconds"), Some(Value::Integer(300)));
        assert!(within.grace_beyond_upstream.is_none() && !within.settings.has_former());
    }

    #[test]
    fn former_keys_are_read_and_taken_out_and_what_others_wrote_is_kept() {
        let parsed = parse(
            br#"{"gateway":{"listen":"ws://127.0.0.1:7","theirs":1},"umask":"027","codexBin":null,"a":[2]}"#,
        );
        assert!(parsed.defects.is_empty() && parsed.settings.has_former());
        let former: Vec<_> = parsed.settings.former().map(|(setting, _)| setting.key).collect();
        assert_eq!(former, ["gateway.listen", "umask"]);
        let rest = parsed.settings.without_former();
        assert_eq!(
            written(&rest.to_text()),
            json!({"gateway":{"theirs":1},"a":[2],"remoteControlEnabled":false})
        );
        assert!(!parse(rest.to_text().as_bytes()).settings.has_former(), "once");
    }

    #[test]
    fn the_former_gateway_is_a_word_or_an_object() {
        let off = parse(br#"{"gateway":false}"#);
        assert_eq!(value(&off, "gateway.enabled"), Some(Value::Bool(false)));
        for text in [r#"{"gateway":true}"#, r#"{"gateway":{}}"#, r#"{"gateway":{"listen":null}}"#] {
            let parsed = parse(text.as_bytes());
            assert!(parsed.defects.is_empty() && parsed.settings.has_former(), "{text}");
            assert_ne!(value(&parsed, "gateway.enabled"), Some(Value::Bool(false)), "{text}");
            assert_eq!(
                written(&parsed.settings.without_former().to_text()),
                json!({"remoteControlEnabled":false})
            );
        }
        for (gateway, expected) in [
            (json!("on"), "true, false"),
            (json!(1), "true, false"),
            (json!(null), "true, false"),
            (json!({"listen": "127.0.0.1:1"}), "listen to be ws://"),
            (json!({"listen": 4500}), "listen to be ws://"),
            (json!({"listen": "ws://0.0.0.0:1"}), "allowNonLoopback"),
            (json!({"allowNonLoopback": "yes"}), "allowNonLoopback"),
            (json!({"subagentApprovals": "everyone"}), "\"viewers\" or \"all\""),
            (json!({"subagentApprovals": null}), "\"viewers\" or \"all\""),
        ] {
            let parsed = parse(json!({"gateway": gateway}).to_string().as_bytes());
            let [defect] = &parsed.defects[..] else { panic!("one defect of {gateway}") };
            assert!(defect.contains(expected), "{defect}");
            assert_eq!(parsed.settings.values().count(), 0, "the defaults hold");
        }
        let open = parse(br#"{"gateway":{"listen":"ws://0.0.0.0:1","allowNonLoopback":true}}"#);
        assert!(open.defects.is_empty() && value(&open, "gateway.listen").is_some());
    }

    #[test]
    fn bad_values_of_former_and_shared_keys_are_defects() {
        for wrong in [
            r#"{"umask":"777"}"#,
            r#"{"umask":22}"#,
            r#"{"umask":"+22"}"#,
            r#"{"umask":""}"#,
            r#"{"workingDirectory":"work"}"#,
            r#"{"updater":{"updateIntervalMinutes":0}}"#,
            r#"{"updater":7}"#,
            "{ nonsense",
            "",
        ] {
            assert_eq!(parse(wrong.as_bytes()).defects.len(), 1, "{wrong}");
        }
        let updater = parse(br#"{"updater":{"updateIntervalMinutes":5,"autoUpdateEnabled":false,"more":1}}"#);
        assert_eq!(value(&updater, "updater.updateIntervalMinutes"), Some(Value::Integer(5)));
        assert!(updater.defects.is_empty() && parse(b"{}").defects.is_empty());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let parsed = parse(&bytes).settings;
            let _ = (parsed.to_text(), parsed.without_former().to_text());
        }
    }
}
