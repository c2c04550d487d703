use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use super::*;

/// Two valid values of a setting, neither of them its default, in the form of the environment.
pub(crate) fn samples(setting: &Setting) -> Vec<String> {
    let default = match setting.default {
        DefaultValue::Value(text) => text,
        _ => "",
    };
    let all: Vec<String> = match setting.kind {
        Kind::Bool => vec!["true".into(), "false".into()],
        Kind::Integer { min, max } => vec![max.to_string(), (min + 7).to_string()],
        Kind::Text => vec!["one".into(), "two words".into()],
        Kind::Choice(words) => words.iter().map(|word| (*word).to_owned()).collect(),
        Kind::Path => vec!["/a b".into(), "/c/d".into()],
        Kind::Program => vec!["/a/codex".into(), "other".into()],
        Kind::Umask => vec!["027".into(), "077".into()],
        Kind::ReleaseSource => vec!["npm".into(), "directory:/a b".into(), "file:/a.tgz".into()],
        Kind::WebSocketUrl => vec!["ws://127.0.0.1:1".into(), "ws://[::1]:2".into()],
        Kind::Words => vec!["[\"a b\", \"-c\"]".into(), "x y".into()],
    };
    let others: Vec<String> = all.iter().filter(|sample| *sample != default).cloned().collect();
    if others.len() < 2 { all } else { others }
}

struct Rig {
    facts: Facts,
    shared: ParsedSettings,
    file: String,
    environment: BTreeMap<&'static str, OsString>,
    flags: Vec<FlagValues>,
}

impl Rig {
    fn new() -> Self {
        let facts = Facts {
            host_name: "host".into(),
            user_home: Some("/u".into()),
            codex_home: "/h".into(),
            current_dir: "/cwd".into(),
        };
        let shared = ParsedSettings::default();
        Self { facts, shared, file: String::new(), environment: BTreeMap::new(), flags: Vec::new() }
    }

    fn resolve(&self) -> (Config, Vec<String>) {
        let (config, problems) = resolve(&Levels {
            facts: &self.facts,
            shared: (&self.shared.settings, Path::new("/h/settings.json")),
            file: Some((self.file.as_bytes(), Path::new("/h/codexd.toml"))),
            environment: &|name| self.environment.get(name).cloned(),
            flags: &self.flags,
        });
        (config, problems.iter().map(ToString::to_string).collect())
    }

    fn entry(&self, setting: &Setting) -> Entry {
        let (config, problems) = self.resolve();
        assert!(problems.is_empty(), "{}: {problems:?}", setting.key);
        config.entries().iter().find(|entry| entry.setting.key == setting.key).cloned().expect("an entry")
    }
}

fn toml(setting: &Setting, sample: &str) -> String {
    set("", setting, &setting.kind.from_text(sample).expect("valid")).expect("edited")
}

#[test]
fn every_level_of_every_setting_wins_over_the_one_below() {
    for setting in SETTINGS.iter().filter(|setting| setting.file == SettingFile::CodexdToml) {
        let [one, other] = &samples(setting)[..2] else { panic!("two samples of {}", setting.key) };
        let value = |text: &str| Some(setting.kind.from_text(text).expect("valid"));
        let mut rig = Rig::new();
        assert_eq!(rig.entry(setting).origin, Origin::Default, "{}", setting.key);
        rig.file = toml(setting, one);
        let found = rig.entry(setting);
        assert_eq!((found.value, found.origin.level()), (value(one), "file"), "{}", setting.key);
        // The last variable is the weakest.
        let mut samples = [other, one].into_iter().cycle();
        for (&name, sample) in setting.variables.iter().rev().zip(&mut samples) {
            rig.environment.insert(name, sample.into());
            let found = rig.entry(setting);
            assert_eq!((found.value, found.origin), (value(sample), Origin::Variable(name)));
        }
        if let Some(flag) = setting.flag {
            let sample = samples.next().expect("endless");
            let values = match value(sample) {
                Some(Value::Words(words)) => words,
                _ => vec![sample.clone()],
            };
            rig.flags = vec![FlagValues { setting, values }];
            let found = rig.entry(setting);
            assert_eq!((found.value, found.origin), (value(sample), Origin::Flag(flag)));
        }
    }
}

#[test]
fn an_empty_variable_is_not_set_and_leads_to_the_next_one() {
    let mut rig = Rig::new();
    let node = find("nodeId").expect("a setting");
    rig.environment.insert("CODEXD_NODE_ID", "".into());
    rig.environment.insert("BAA_NODE_ID", "node".into());
    assert_eq!(rig.entry(node).origin, Origin::Variable("BAA_NODE_ID"));
}

#[test]
fn the_file_wins_over_former_keys_of_settings_json() {
    let mut rig = Rig::new();
    rig.shared = parse_settings(br#"{"stopGraceSeconds":5,"umask":"027","shutdownGraceSeconds":7}"#);
    rig.file = "stopGraceSeconds = 6".into();
    let (config, problems) = rig.resolve();
    assert!(problems.is_empty());
    assert_eq!((config.grace_seconds(), config.umask(), config.umask_of_environment()), (6, 0o027, None));
    rig.file = String::new();
    assert_eq!(rig.resolve().0.grace_seconds(), 5);
    rig.shared = parse_settings(br#"{"shutdownGraceSeconds":7}"#);
    assert_eq!(rig.resolve().0.grace_seconds(), 7);
    rig.environment.insert("CODEXD_UMASK", "077".into());
    assert_eq!(rig.resolve().0.umask_of_environment(), Some(0o077));
}

#[test]
fn what_the_environment_and_the_command_line_get_wrong_is_told_and_the_level_below_counts() {
    for (key, text, message) in [
        ("eventCacheSize", "5o", "`eventCacheSize` is \"5o\", expected a whole number from 1 to 100000"),
        (
            "eventCacheSize",
            "+5",
            "`eventCacheSize` is \"+5\", expected a whole number from 1 to 100000; the nearest valid one is `5`",
        ),
        ("eventCacheSize", " 5", "`eventCacheSize` is \" 5\", expected a whole number from 1 to 100000"),
        (
            "eventCacheSize",
            "05",
            "`eventCacheSize` is \"05\", expected a whole number from 1 to 100000; the nearest valid one is `5`",
        ),
        (
            "eventCacheSize",
            "-1",
            "`eventCacheSize` is \"-1\", expected a whole number from 1 to 100000; the nearest valid one is `1`",
        ),
        ("eventCacheSize", "1e3", "`eventCacheSize` is \"1e3\", expected a whole number from 1 to 100000"),
        (
            "server.mode",
            "appserver",
            "`server.mode` is \"appserver\", expected \"app-server\" or \"exec\"; the nearest valid one is `app-server`",
        ),
        (
            "server.strategy",
            "spwan",
            "`server.strategy` is \"spwan\", expected \"spawn\" or \"external\"; the nearest valid one is `spawn`",
        ),
        ("server.args", "[1]", "`server.args` is \"[1]\", expected a list of texts"),
        ("server.args", "[\"a\"", "`server.args` is \"[\"a\"\", expected a list of texts"),
        ("gateway.enabled", "yes", "`gateway.enabled` is \"yes\", expected true or false"),
        (
            "gateway.listen",
            "127.0.0.1:1",
            "`gateway.listen` is \"127.0.0.1:1\", expected ws:// with an IP address and a port, such as ws://127.0.0.1:4500; the nearest valid one is `ws://127.0.0.1:1`",
        ),
        ("umask", "0o22", "`umask` is \"0o22\", expected octal digits from \"000\" to \"077\""),
        ("nodeId", "a\nb", "`nodeId` is \"a\\nb\", expected one line of text"),
    ] {
        let setting = find(key).expect("a setting");
        let mut rig = Rig::new();
        rig.environment.insert(setting.variables[0], text.into());
        let (config, problems) = rig.resolve();
        assert_eq!(problems, [format!("environment variable {}: {message}", setting.variables[0])]);
        assert_eq!(config.scaffold(), Rig::new().resolve().0.scaffold(), "{key}");
        if let Some(flag) = setting.flag.filter(|_| setting.kind != Kind::Words) {
            let mut rig = Rig::new();
            rig.flags = vec![FlagValues { setting, values: vec![text.into()] }];
            assert_eq!(rig.resolve().1, [format!("option --{flag}: {message}")]);
        }
    }
}

#[test]
fn a_variable_that_is_not_text_is_refused() {
    use std::os::unix::ffi::OsStringExt;
    let mut rig = Rig::new();
    rig.environment.insert("CODEXD_NODE_ID", OsString::from_vec(vec![b'a', 0xff]));
    let problems = rig.resolve().1;
    assert!(problems.len() == 1 && problems[0].contains("expected UTF-8 text"), "{problems:?}");
}

#[test]
fn relative_paths_count_from_the_current_folder_outside_of_files_only() {
    let mut rig = Rig::new();
    rig.environment.insert("BAA_LOGS_DIR", "logs".into());
    rig.environment.insert("CODEXD_SERVER_COMMAND", "./codex".into());
    let (config, problems) = rig.resolve();
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!(config.folders().logs, Path::new("/cwd/logs/codexd"));
    assert_eq!(config.codex_bin(), Some(Path::new("/cwd/./codex")));
    rig.file = "logsDir = \"logs\"".into();
    assert_eq!(rig.resolve().1.len(), 1);
}

#[test]
fn codexd_is_appended_to_the_folders_of_the_record_whatever_names_them() {
    let folders = |rig: &Rig| {
        let (config, problems) = rig.resolve();
        assert!(problems.is_empty(), "{problems:?}");
        let folders = config.folders();
        [&folders.logs, &folders.state].map(|path| path.to_string_lossy().into_owned())
    };
    let mut rig = Rig::new();
    assert_eq!(folders(&rig), ["/h/codexd/logs", "/h/codexd/state"]);
    rig.file = "repoRoot = \"/r\"".into();
    assert_eq!(folders(&rig), ["/r/logs/codexd", "/r/state/codexd"]);
    for (logs, state) in [
        ("BAA_LOGS_DIR", "BAA_STATE_DIR"),
        ("BAA_CODEXD_LOGS_DIR", "BAA_CODEXD_STATE_DIR"),
        ("CODEXD_LOGS_DIR", "CODEXD_STATE_DIR"),
    ] {
        rig.environment.insert(logs, format!("/{logs}").into());
        rig.environment.insert(state, format!("/{state}").into());
        assert_eq!(folders(&rig), [format!("/{logs}/codexd"), format!("/{state}/codexd")]);
    }
    let setting = find("logsDir").expect("a setting");
    rig.flags = vec![FlagValues { setting, values: vec!["/flag".into()] }];
    assert_eq!(folders(&rig)[0], "/flag/codexd");
}

#[test]
fn a_listener_for_the_network_needs_two_settings_whatever_level_they_come_from() {
    let mut rig = Rig::new();
    rig.file = "\ngateway.listen = \"ws://0.0.0.0:1\"".into();
    let (config, problems) = rig.resolve();
    assert_eq!(
        problems,
        [
            "/h/codexd.toml:2: `gateway.listen` is ws://0.0.0.0:1, expected a loopback address, or `gateway.allowNonLoopback` to be true"
        ]
    );
    assert_eq!(config.gateway(), Gateway::default());
    rig.environment.insert("CODEXD_GATEWAY_ALLOW_NON_LOOPBACK", "true".into());
    let (config, problems) = rig.resolve();
    assert!(problems.is_empty() && config.gateway().listen().is_some());
    rig.environment.insert("CODEXD_GATEWAY_ENABLED", "false".into());
    assert_eq!(rig.resolve().0.gateway(), Gateway::Off);
}

#[test]
fn codex_by_its_name_is_the_codex_that_codexd_finds() {
    let mut rig = Rig::new();
    for (text, expected) in [("codex", None), ("other", Some("other")), ("/x/codex", Some("/x/codex"))] {
        rig.environment.insert("CODEXD_SERVER_COMMAND", text.into());
        let config = rig.resolve().0;
        assert_eq!(config.codex_bin(), expected.map(Path::new));
        assert_eq!(config.scaffold()["server"]["childCommand"], text);
    }
}

#[test]
fn remote_control_changes_in_the_value_and_in_the_text_of_settings_json() {
    let config = Rig::new().resolve().0.with_remote_control(true);
    assert!(config.is_remote_control_enabled());
    assert!(config.shared().to_text().contains("true"));
    assert!(!config.with_remote_control(false).is_remote_control_enabled());
}

#[test]
fn the_object_of_the_scaffold_has_its_defaults() {
    let paths = serde_json::json!({
        "repoRoot": "/h",
        "logsRootDir": "/h/codexd/logs",
        "stateRootDir": "/h/codexd/state",
        "logsDir": "/h/codexd/logs",
        "stateDir": "/h/codexd/state",
        "structuredEventLogPath": "/h/codexd/logs/events.jsonl",
        "stdoutLogPath": "/h/codexd/logs/stdout.log",
        "stderrLogPath": "/h/codexd/logs/stderr.log",
        "identityPath": "/h/codexd/state/identity.json",
        "daemonStatePath": "/h/codexd/state/daemon-state.json",
        "sessionRegistryPath": "/h/codexd/state/session-registry.json",
        "recentEventsPath": "/h/codexd/state/recent-events.json",
    });
    let expected = serde_json::json!({
        "nodeId": "host",
        "version": null,
        "paths": paths,
        "server": {
            "mode": "app-server",
            "childStrategy": "spawn",
            "childCommand": "codex",
            "childArgs": ["app-server"],
            "childCwd": "/u",
            "endpoint": "stdio://codex-app-server",
        },
        "eventCacheSize": 50,
        "smokeLifetimeMs": 100,
    });
    assert_eq!(Rig::new().resolve().0.scaffold(), expected);
}
