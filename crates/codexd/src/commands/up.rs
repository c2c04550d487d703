//! `codexd up`: for a person at a terminal. Starts Codex, or the embedded server if none is installed, and prints how to
//! attach.

use codexd_core::contract::{Failure, LifecycleReply};
use codexd_core::launch_spec::LaunchSpec;
use codexd_core::lifecycle::Command;
use codexd_host::pid_record;
use serde::Serialize;

use super::lifecycle;
use crate::context::Context;
use crate::drive::{self, Handover, Request};
use crate::failures;
use crate::installed_codex::{self, Installed};
use crate::launch_specs::{self, LaunchRequest};
use crate::output::{self, Answer, Mode};
use crate::style::{self, Color, Text};

/// The answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reply {
    #[serde(flatten)]
    lifecycle: LifecycleReply,
    /// The command that attaches a terminal.
    attach: String,
    /// Whether there is a Codex at the path that the answer names.
    #[serde(skip)]
    installed: bool,
}

impl Answer for Reply {
    fn text(&self) -> Text {
        let reply = &self.lifecycle;
        let version = reply.app_server_version.clone().unwrap_or_else(|| "unknown".to_owned());
        let what = if reply.embedded {
            style::paint("built-in server, which only echoes (Codex is not installed)", Color::Yellow)
        } else {
            style::paint(Text::from("Codex app-server ").then(Text::quoted(&version)), Color::Green)
        };
        let mut rows = vec![("running", what)];
        if self.installed && !reply.embedded {
            rows.push(("binary", reply.managed_codex_path.display().to_string().into()));
        }
        rows.push(("socket", reply.socket_path.display().to_string().into()));
        rows.push(("attach", Text::from(&self.attach)));
        if reply.embedded {
            rows.push(("get codex", "codexd install, then codexd up again".into()));
        }
        rows.push(("stop", "codexd stop".into()));
        style::table(&rows)
    }
}

/// Runs the command.
///
/// # Errors
/// Why no server answers.
pub fn run(context: &Context, mode: Mode) -> Result<Reply, Failure> {
    let _lock = context.lock("up")?;
    let config = context.config()?;
    let real = match installed_codex::find_installed(context, &config) {
        Ok(installed) => Some(installed),
        Err(not_found) if not_found.named.is_some() || not_found.unusable => {
            return Err(failures::no_codex(&not_found));
        }
        Err(_) => None,
    };
    announce(context, real.as_ref());
    let embedded_runs = pid_record::observe(&context.home)
        .is_ok_and(|record| record.process.is_some() && record.codexd.is_some_and(|codexd| codexd.embedded));
    let program = |launch: &LaunchRequest| -> Result<LaunchSpec, Failure> {
        let socket = launch.socket.clone();
        match &real {
            Some(installed) => launch_specs::codex(context, &config, installed, socket),
            None => launch_specs::embedded(context, &config, socket),
        }
    };
    // The embedded server is replaced as soon as a Codex is installed.
    let command =
        if embedded_runs && real.is_some() { Command::Restart } else { Command::Start { adopt: false } };
    let policy = lifecycle::within_grace(&config, None);
    let (gateway, handover) = (config.gateway(), Handover::Never);
    let outcome = drive::drive(context, &Request { command, program: &program, policy, gateway, handover })?;
    drive::log_outcome(context, "up", &outcome);
    if mode == Mode::Text {
        for repair in context.repairs() {
            output::say(&format!("repaired: {}", repair.message));
        }
    }
    let lifecycle = lifecycle::reply(context, &config, &outcome).0;
    let attach = format!("codex --remote {}", quoted(&format!("unix://{}", lifecycle.socket_path.display())));
    Ok(Reply { lifecycle, attach, installed: real.is_some() })
}

/// Quotes `word` for a shell.
fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_./:@%+=,-".contains(&byte);
    if word.bytes().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

fn announce(context: &Context, real: Option<&Installed>) {
    match real {
        Some(installed) => output::say(&format!(
            "starting Codex {} from {}",
            installed.version_if_quick(context).unwrap_or_else(|| "(version unknown)".to_owned()),
            installed.found.path.display()
        )),
        None => output::say(
            "Codex is not installed: starting the built-in server, which only echoes; \
             install Codex with `codexd install`",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::quoted;
    use std::process::Command;

    #[test]
    fn a_shell_takes_what_is_quoted_for_one_word() {
        assert_eq!(quoted("unix:///home/a/.codex/s.sock"), "unix:///home/a/.codex/s.sock");
        for word in ["unix:///a b", "$(x)", "it's", "a\\b", "*", "grün", "~", "a\nb", "'"] {
            let printed = Command::new("sh").args(["-c", &format!("printf %s {}", quoted(word))]).output();
            assert_eq!(String::from_utf8(printed.expect("a shell").stdout).expect("text"), word);
        }
    }
}
