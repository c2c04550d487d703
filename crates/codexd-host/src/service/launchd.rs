//! The text of a launchd agent (launchd.plist(5)) for one home, as a function of what is in it.
//!
//! codexd does not run on macOS. The agent is for a person who tries it there.

use std::path::PathBuf;

use codexd_core::limits::LAUNCHD_THROTTLE_SECONDS;

use super::systemd::UnitNames;
use crate::home::Home;

/// The label of the agent of the default home. Others have the hash of their path behind it.
const LABEL: &str = "so.makefile.baa-codexd";

/// What is in the agent.
#[derive(Clone, Debug)]
pub struct AgentSettings {
    /// The home.
    pub home: Home,
    /// Whether this is `~/.codex`.
    pub is_default_home: bool,
    /// The `codexd` that it runs, an absolute path.
    pub codexd: PathBuf,
    /// The environment: `PATH`, `HOME`, `LANG`, `LC_ALL`, and the variables of the configuration. Not for secrets.
    pub environment: Vec<(String, String)>,
    /// The folder in which it runs.
    pub working_directory: PathBuf,
    /// The folder in which `launchd/<label>.out.log` and `launchd/<label>.err.log` are.
    pub logs: PathBuf,
}

/// A value that cannot stand in a property list.
#[derive(Clone, Debug, thiserror::Error, Eq, PartialEq)]
#[error("{what} cannot stand in a property list: {why}: {}", .text.escape_debug())]
pub struct UnrenderableText {
    /// What it is.
    pub what: String,
    /// It.
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

/// A value of a property list.
enum Value {
    Text(String),
    Bool(bool),
    Integer(u64),
    Texts(Vec<String>),
    Dictionary(Vec<(String, String)>),
}

impl AgentSettings {
    /// The label, which is the name of the file without `.plist`.
    pub fn label(&self) -> String {
        if self.is_default_home {
            LABEL.to_owned()
        } else {
            format!("{LABEL}.{}", UnitNames::of(&self.home).hash())
        }
    }

    /// The text of the file.
    ///
    /// # Errors
    /// [`UnrenderableText`].
    pub fn render(&self) -> Result<String, UnrenderableText> {
        let label = self.label();
        let path = |path: &std::path::Path| path.to_string_lossy().into_owned();
        let log = |stream: &str| path(&self.logs.join(format!("launchd/{label}.{stream}.log")));
        let home = path(self.home.root());
        let mut environment = vec![("CODEX_HOME".to_owned(), home.clone())];
        environment.extend(self.environment.iter().filter(|(name, _)| name != "CODEX_HOME").cloned());
        let program = [path(&self.codexd), "run".to_owned(), "--codex-home".to_owned(), home];
        let entries = [
            ("Label", Value::Text(label.clone())),
            ("ProgramArguments", Value::Texts(program.to_vec())),
            ("WorkingDirectory", Value::Text(path(&self.working_directory))),
            ("EnvironmentVariables", Value::Dictionary(environment)),
            ("ProcessType", Value::Text("Background".to_owned())),
            ("RunAtLoad", Value::Bool(true)),
            ("KeepAlive", Value::Bool(true)),
            ("ThrottleInterval", Value::Integer(LAUNCHD_THROTTLE_SECONDS)),
            ("StandardOutPath", Value::Text(log("out"))),
            ("StandardErrorPath", Value::Text(log("err"))),
        ];
        let mut text = String::from(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" \
             \"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">\n<plist version=\"1.0\">\n<dict>\n",
        );
        for (key, value) in &entries {
            text += &format!("\t<key>{key}</key>\n{}", value.to_xml(key)?);
        }
        text.push_str("</dict>\n</plist>\n");
        Ok(text)
    }
}

impl Value {
    fn to_xml(&self, key: &str) -> Result<String, UnrenderableText> {
        let string = |what: &str, text: &str| -> Result<String, UnrenderableText> {
            Ok(format!("<string>{}</string>", escaped(what, text)?))
        };
        Ok(match self {
            Value::Text(text) => format!("\t{}\n", string(key, text)?),
            Value::Bool(value) => format!("\t<{value}/>\n"),
            Value::Integer(number) => format!("\t<integer>{number}</integer>\n"),
            Value::Texts(texts) => {
                let lines: Result<String, UnrenderableText> =
                    texts.iter().map(|text| Ok(format!("\t\t{}\n", string(key, text)?))).collect();
                format!("\t<array>\n{}\t</array>\n", lines?)
            }
            Value::Dictionary(pairs) => {
                let pair = |(name, value): &(String, String)| -> Result<String, UnrenderableText> {
                    let name_xml = escaped("the name of a variable", name)?;
                    Ok(format!("\t\t<key>{name_xml}</key>\n\t\t{}\n", string(name, value)?))
                };
                let lines: Result<String, UnrenderableText> = pairs.iter().map(pair).collect();
                format!("\t<dict>\n{}\t</dict>\n", lines?)
            }
        })
    }
}

/// Text between two tags. XML 1.0 has no way to write most control characters; a carriage return would be read as a line break.
fn escaped(what: &str, text: &str) -> Result<String, UnrenderableText> {
    let error = |why| UnrenderableText { what: what.to_owned(), text: text.to_owned(), why };
    if text.contains(char::REPLACEMENT_CHARACTER) {
        return Err(error("it is not UTF-8"));
    }
    let mut xml = String::new();
    for character in text.chars() {
        match character {
            '&' => xml.push_str("&amp;"),
            '<' => xml.push_str("&lt;"),
            '>' => xml.push_str("&gt;"),
            '\r' => xml.push_str("&#13;"),
            '\n' | '\t' => xml.push(character),
            '\u{fffe}' | '\u{ffff}' => return Err(error("XML does not have this character")),
            control if control < ' ' => return Err(error("it has control characters")),
            other => xml.push(other),
        }
    }
    Ok(xml)
}

#[cfg(test)]
mod tests {
    use super::AgentSettings;
    use crate::home::Home;

    fn agent(home: &str) -> AgentSettings {
        AgentSettings {
            home: Home::new(home),
            is_default_home: true,
            codexd: "/usr/local/bin/codexd".into(),
            environment: vec![("PATH".to_owned(), "/usr/bin:/bin".to_owned())],
            working_directory: home.into(),
            logs: "/home/x/.codex/codexd/logs".into(),
        }
    }

    #[test]
    fn a_path_with_markup_is_escaped_and_one_with_control_characters_is_refused() {
        let text = agent("/home/<a & b>]]>").render().expect("rendered");
        assert!(text.contains("<string>/home/&lt;a &amp; b&gt;]]&gt;</string>"), "{text}");
        assert!(agent("/home/\u{7}").render().is_err());
        assert!(agent("/home/\u{fffd}").render().is_err());
    }

    #[test]
    fn only_the_default_home_has_the_plain_label() {
        let mut settings = agent("/nonexistent/x");
        assert_eq!(settings.label(), "so.makefile.baa-codexd");
        settings.is_default_home = false;
        assert_eq!(settings.label().len(), "so.makefile.baa-codexd.".len() + 12);
        let text = settings.render().expect("rendered");
        let log = format!("/home/x/.codex/codexd/logs/launchd/{}.err.log", settings.label());
        assert!(text.contains(&log), "{text}");
    }
}
