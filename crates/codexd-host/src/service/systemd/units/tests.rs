//! The unit files against their golden texts. `CODEXD_UPDATE_GOLDEN=1` rewrites the texts.

use std::path::Path;

use super::{UnitSettings, UnrenderableText, quoted, value};
use crate::home::Home;
use crate::service::systemd::UnitNames;

fn settings(root: &str) -> UnitSettings {
    let home = Home::new(root);
    UnitSettings {
        names: UnitNames::of(&home),
        home,
        codexd: "/usr/local/bin/codexd".into(),
        environment: [("PATH", "/usr/local/bin:/usr/bin:/bin"), ("HOME", "/home/x"), ("LANG", "C.UTF-8")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        gateway: true,
        stop_grace_seconds: 60,
        app_server_limits: Vec::new(),
    }
}

fn rendered(settings: &UnitSettings) -> String {
    let files = settings.render().expect("rendered");
    let hash = settings.names.hash();
    files.iter().fold(String::new(), |all, file| {
        let name = file.name.replace(hash, "HASH");
        format!("{all}==> {name}\n{}\n", file.text.replace(hash, "HASH"))
    })
}

#[track_caller]
fn assert_golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/service/systemd/golden").join(name);
    if std::env::var_os("CODEXD_UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, text).expect("written");
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap_or_default(), text, "{}", path.display());
}

#[test]
fn the_units_of_an_ordinary_home_are_the_golden_ones() {
    assert_golden("ordinary.txt", &rendered(&settings("/nonexistent/x/.codex")));
}

#[test]
fn the_units_of_a_home_with_an_odd_path_and_limits_are_the_golden_ones() {
    let mut settings = settings("/nonexistent/a \"b\" 50% $HOME 'c'/.codex");
    settings.codexd = "/opt/my tools/$v/co\\dexd".into();
    settings.environment.push(("ODD".into(), "a\"b\\c %h $d\ne".into()));
    settings.app_server_limits.push(("MemoryHigh".into(), "50%".into()));
    assert_golden("odd.txt", &rendered(&settings));
}

#[test]
fn a_home_with_a_long_path_or_without_a_gateway_has_no_socket_unit() {
    let long = settings(&format!("/nonexistent/{}", "x".repeat(100)));
    let mut without = settings("/nonexistent/x/.codex");
    without.gateway = false;
    for settings in [long, without] {
        let text = rendered(&settings);
        assert!(!text.contains("Sockets=") && !text.contains(".socket\n"), "{text}");
        assert_eq!(settings.render().expect("rendered").len(), 4);
    }
}

#[test]
fn what_systemd_would_read_as_something_else_is_refused() {
    for text in ["", " a", "a ", "a\nb", "a\\", "\u{fffd}"] {
        value("it", text).expect_err(text);
    }
    assert_eq!(value("it", "a b%"), Ok("a b%%".into()));
    assert_eq!(quoted("it", ""), Ok("\"\"".into()));
    let error: UnrenderableText = quoted("the path", "a\u{1b}b").expect_err("a control character");
    assert_eq!(
        error.to_string(),
        "the path cannot stand in a unit file of systemd: it has control characters: a\\u{1b}b"
    );
}

#[test]
fn no_unit_restricts_what_runs_in_it() {
    let text = rendered(&settings("/nonexistent/x/.codex"));
    for option in
        ["Protect", "Private", "Restrict", "NoNewPrivileges", "SystemCallFilter", "Capabilit", "ReadOnly"]
    {
        assert!(!text.contains(option), "{option} may break Codex's sandbox");
    }
}
