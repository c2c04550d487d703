//! The text form of `status`.

use codexd_core::contract::status::GatewayReport;
use codexd_core::contract::{Backend, CodexSource, State};
use codexd_core::foreign_text::quote;
use codexd_core::generations::Role;

use super::Reply;
use crate::failures;
use crate::output::Answer;
use crate::style::{self, Color, Text};

impl Answer for Reply {
    fn text(&self) -> Text {
        let report = &self.report;
        let (word, color) = match report.state {
            State::Running => ("running", Color::Green),
            State::Starting => ("starting", Color::Yellow),
            State::Draining => ("draining: waiting for running turns to finish", Color::Yellow),
            State::Stopped => ("stopped", Color::Dim),
            State::Failed => ("failed", Color::Red),
            State::CrashLooping => ("crash-looping", Color::Red),
            State::Unmanaged => {
                ("running, not managed by codexd (adopt it with codexd start --adopt)", Color::Yellow)
            }
        };
        let mut rows = vec![("state", style::paint(word, color))];
        if let Some(pid) = report.pid {
            let up = report.uptime_seconds.map(|seconds| format!(", up {}", style::duration(seconds)));
            rows.push(("app-server", format!("pid {pid}{}", up.unwrap_or_default()).into()));
        }
        if let Some(version) = &report.app_server_version {
            let stale = if self.installed && report.running_is_installed == Some(false) {
                style::paint("  (another version is installed; run codexd restart)", Color::Yellow)
            } else {
                Text::default()
            };
            rows.push(("version", Text::quoted(version).then(stale)));
        }
        rows.push(("installed", self.installed_text()));
        rows.extend(report.gateway.as_ref().map(|gateway| ("gateway", gateway_text(gateway))));
        let others = report.generations.iter().filter(|generation| generation.role != Role::Current);
        rows.extend(others.map(|other| {
            let what =
                if other.role == Role::Outgoing { "is handing over its threads" } else { "is starting" };
            ("generation", format!("app-server pid {} {what}", other.pid).into())
        }));
        if let Some(pid) = report.supervisor_pid {
            let by = if report.backend == Some(Backend::Systemd) { ", run by systemd" } else { "" };
            rows.push(("supervisor", format!("pid {pid}{by}, {}", restarts_text(report.restarts)).into()));
        }
        if let Some(at) = &report.next_attempt_at {
            rows.push(("next attempt", at.into()));
        }
        if let Some(exit) = report.last_exit.as_ref().filter(|exit| !exit.requested) {
            let how = match (exit.code, exit.signal) {
                (Some(code), _) => format!("code {code}"),
                (_, Some(signal)) => format!("signal {signal}"),
                _ => "unknown".to_owned(),
            };
            rows.push(("last exit", format!("{how} at {}", exit.at).into()));
            rows.extend(failures::error_line(exit).map(|line| ("", style::paint(line, Color::Dim))));
        }
        rows.push(("socket", report.socket_path.display().to_string().into()));
        rows.extend(
            report.problems.iter().map(|problem| ("problem", style::paint(&problem.message, Color::Yellow))),
        );
        for event in &report.events {
            rows.push(("event", style::paint(format!("{} {}", event.created_at, event.message), Color::Dim)));
        }
        style::table(&rows)
    }
}

impl Reply {
    fn source_text(&self) -> &'static str {
        match self.report.managed_codex_source {
            Some(CodexSource::Named) => " (--codex-bin)",
            Some(CodexSource::Setting) => " (from the setting codexBin)",
            Some(CodexSource::Record) => " (from --codex-bin of the running server)",
            Some(CodexSource::Managed | CodexSource::Path) | None => "",
        }
    }

    fn installed_text(&self) -> Text {
        let path = self.report.managed_codex_path.display();
        match &self.report.managed_codex_version {
            _ if !self.installed => "no Codex (install it with `codexd install`)".into(),
            Some(version) => format!("Codex {} at {path}{}", quote(version), self.source_text()).into(),
            None => format!("Codex, version unknown, at {path}").into(),
        }
    }
}

fn restarts_text(restarts: u64) -> String {
    match restarts {
        0 => "no restarts".to_owned(),
        1 => "restarted once".to_owned(),
        more => format!("restarted {more} times"),
    }
}

fn gateway_text(gateway: &GatewayReport) -> Text {
    let listen = gateway.listen.as_ref().map(|listen| format!(", {listen}")).unwrap_or_default();
    match gateway.pid {
        Some(pid) => format!("pid {pid}{listen}").into(),
        None => style::paint("not running: no client can connect", Color::Red),
    }
}
