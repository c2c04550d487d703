//! The text of the unit files of one home (systemd.unit(5)), as a function of what is in them.
//!
//! An app-server is a unit of its own, and so is the gateway: a restart or a crash of codexd ends neither. No option is used that takes
//! something away from the programs that run in a unit: Codex's sandbox needs user namespaces, and bubblewrap.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use codexd_core::limits::{
    CONTROL_BACKLOG, GATEWAY_STOP_GRACE_MS, SERVICE_RESTART_PAUSE_MS, SERVICE_STOP_TIMEOUT_SECONDS,
    SERVICE_WATCHDOG_SECONDS, UNIT_STOP_MARGIN_SECONDS,
};
use codexd_protocol::unix::SUN_PATH_MAX;

use super::names::UnitNames;
use crate::home::Home;

/// The first line of every file: by it codexd knows its own.
pub const HEADER: &str = "# Written by codexd, which replaces it; put changes into a drop-in.";

/// What is in the units.
#[derive(Clone, Debug)]
pub struct UnitSettings {
    /// The home.
    pub home: Home,
    /// The names of the units.
    pub names: UnitNames,
    /// The `codexd` that they run, an absolute path.
    pub codexd: PathBuf,
    /// The environment of the supervisor, and through it of the first server: `PATH`, `HOME`, `LANG`, … Not for secrets: unit files are
    /// read by backups, and `systemctl show` prints them.
    pub environment: Vec<(String, String)>,
    /// Whether the gateway serves the control socket. Without a gateway the app-server binds it itself.
    pub gateway: bool,
    /// How long running turns have when the machine shuts down.
    pub stop_grace_seconds: u64,
    /// Settings of systemd.resource-control(5) for each app-server, such as `MemoryHigh` and `4G`.
    pub app_server_limits: Vec<(String, String)>,
}

/// One file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UnitFile {
    /// The name of the unit.
    pub name: String,
    /// The text of the file.
    pub text: String,
}

/// A path or a value that cannot stand in a unit file.
#[derive(Clone, Debug, thiserror::Error, Eq, PartialEq)]
#[error("{what} cannot stand in a unit file of systemd: {why}: {}", .text.escape_debug())]
pub struct UnrenderableText {
    /// What it is.
    pub what: String,
    /// It.
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

impl UnitSettings {
    /// The files, in the order in which they are to be written: none refers to a later one that is started with it.
    ///
    /// # Errors
    /// [`UnrenderableText`].
    pub fn render(&self) -> Result<Vec<UnitFile>, UnrenderableText> {
        let mut files = vec![
            UnitFile { name: self.names.app_server_template(), text: self.app_server()? },
            UnitFile { name: self.names.gateway(), text: self.gateway()? },
        ];
        if let Some(socket) = self.control_socket() {
            files.push(UnitFile { name: self.names.socket(), text: self.socket(&socket)? });
        }
        files.push(UnitFile { name: self.names.supervisor(), text: self.supervisor()? });
        files.push(UnitFile { name: self.names.commands(), text: self.commands()? });
        Ok(files)
    }

    /// The control socket, if systemd is to hold it: its path must fit a socket address.
    pub fn control_socket(&self) -> Option<PathBuf> {
        let path = self.home.control_socket();
        (self.gateway && path.as_os_str().len() <= SUN_PATH_MAX).then_some(path)
    }

    fn supervisor(&self) -> Result<String, UnrenderableText> {
        let mut text = self.head("codexd: runs the app-server")?;
        text.push_str("StartLimitIntervalSec=0\n\n[Service]\nType=notify\n");
        text += &format!("ExecStart={}\n", self.codexd(&["run"], &["--service", "systemd"])?);
        text += &format!("ExecReload={}\n", self.codexd(&["reload"], &[])?);
        if self.control_socket().is_some() {
            // The mode belongs to the socket and not to the process: without this option a start of the supervisor would make the
            // gateway, which has the same socket, wait in accept(2).
            text += &format!("Sockets={}\nNonBlocking=yes\n", self.names.socket());
        }
        text += &self.environment()?;
        let pause_ms = SERVICE_RESTART_PAUSE_MS;
        // The servers are in other units: what is left in this one is a command that ends by itself.
        text += &format!("KillMode=process\nRestart=on-failure\nRestartSec={pause_ms}ms\n");
        // A reload waits for running turns, and so may a start.
        text += &format!("TimeoutStartSec=infinity\nTimeoutStopSec={SERVICE_STOP_TIMEOUT_SECONDS}s\n");
        text += &format!("WatchdogSec={SERVICE_WATCHDOG_SECONDS}s\n");
        text.push_str("\n[Install]\nWantedBy=default.target\n");
        Ok(text)
    }

    fn socket(&self, path: &Path) -> Result<String, UnrenderableText> {
        let mut text = self.head("Control socket of codexd")?;
        let path = value("the path of the control socket", &path.to_string_lossy())?;
        text += &format!("\n[Socket]\nListenStream={path}\nSocketMode=0600\nDirectoryMode=0700\n");
        text += &format!("Backlog={CONTROL_BACKLOG}\nFileDescriptorName=control\nRemoveOnStop=yes\n");
        text.push_str("\n[Install]\nWantedBy=sockets.target\n");
        Ok(text)
    }

    fn app_server(&self) -> Result<String, UnrenderableText> {
        let mut text = self.head("Codex app-server %i")?;
        text.push_str("\n[Service]\nType=exec\n");
        text += &format!("ExecStart={} --instance %i\n", self.codexd(&["launch", "app-server"], &[])?);
        let stop_seconds = self.stop_grace_seconds.saturating_add(UNIT_STOP_MARGIN_SECONDS);
        text += &format!("KillMode=mixed\nRestart=no\nTimeoutStopSec={stop_seconds}s\n");
        // Without this option systemd makes a slice for the instances, which stays until the user logs out.
        text.push_str("Slice=app.slice\n");
        // A tool that takes too much memory is ended, and not the server with all its turns.
        text.push_str("OOMPolicy=continue\n");
        for (name, limit) in &self.app_server_limits {
            // A percentage stands for itself here.
            text += &format!("{name}={}\n", value(name, limit)?.replace("%%", "%"));
        }
        Ok(text)
    }

    fn gateway(&self) -> Result<String, UnrenderableText> {
        let mut text = self.head("Gateway of codexd")?;
        text.push_str("\n[Service]\nType=exec\n");
        text += &format!("ExecStart={}\n", self.codexd(&["launch", "gateway"], &[])?);
        let stop_seconds = GATEWAY_STOP_GRACE_MS.div_ceil(1_000) + UNIT_STOP_MARGIN_SECONDS;
        text += &format!("KillMode=mixed\nRestart=no\nTimeoutStopSec={stop_seconds}s\n");
        Ok(text)
    }

    fn commands(&self) -> Result<String, UnrenderableText> {
        let mut text = self.head("Codex app-server: start, stop and reload as `codexd` does")?;
        text.push_str("\n[Service]\nType=oneshot\nRemainAfterExit=yes\n");
        text += &format!("ExecStart={}\n", self.codexd(&["start"], &[])?);
        text += &format!("ExecReload={}\n", self.codexd(&["reload"], &[])?);
        text += &format!("ExecStop={}\n", self.codexd(&["launch", "stop"], &[])?);
        text += &self.environment()?;
        let stop_seconds = self.stop_grace_seconds.saturating_add(UNIT_STOP_MARGIN_SECONDS);
        text += &format!("TimeoutStartSec=infinity\nTimeoutStopSec={stop_seconds}s\n");
        Ok(text)
    }

    fn head(&self, description: &str) -> Result<String, UnrenderableText> {
        let home = value("the path of the home", &self.home.root().to_string_lossy())?;
        Ok(format!("{HEADER}\n[Unit]\nDescription={description} ({home})\n"))
    }

    /// A call of codexd. The colon keeps systemd from replacing variables in it.
    fn codexd(&self, command: &[&str], options: &[&str]) -> Result<String, UnrenderableText> {
        let codexd = quoted("the path of codexd", &self.codexd.to_string_lossy())?;
        let home = quoted("the path of the home", &self.home.root().to_string_lossy())?;
        let mut call = format!(":{codexd} {} --codex-home {home}", command.join(" "));
        for option in options {
            let _ = write!(call, " {option}");
        }
        Ok(call)
    }

    fn environment(&self) -> Result<String, UnrenderableText> {
        let mut text = String::new();
        let variables = self.environment.iter().filter(|(name, _)| name != "CODEX_HOME");
        for (name, value) in variables {
            let assignment = quoted(name, &format!("{name}={value}"))?;
            let _ = writeln!(text, "Environment={assignment}");
        }
        Ok(text)
    }
}

/// A value that is taken as it stands, but for specifiers.
fn value(what: &str, text: &str) -> Result<String, UnrenderableText> {
    let error = |why| UnrenderableText { what: what.to_owned(), text: text.to_owned(), why };
    if text.is_empty() {
        return Err(error("it is empty"));
    }
    if text.chars().any(char::is_control) {
        return Err(error("it has control characters"));
    }
    if text.contains(char::REPLACEMENT_CHARACTER) {
        return Err(error("it is not UTF-8"));
    }
    // The first would be cut off, the second continues the line.
    if text.trim() != text || text.ends_with('\\') {
        return Err(error("it begins or ends with a blank, or ends with a backslash"));
    }
    Ok(text.replace('%', "%%"))
}

/// One word, in quotes.
fn quoted(what: &str, text: &str) -> Result<String, UnrenderableText> {
    let error = |why| UnrenderableText { what: what.to_owned(), text: text.to_owned(), why };
    if text.chars().any(|character| character.is_control() && !matches!(character, '\n' | '\t')) {
        return Err(error("it has control characters"));
    }
    if text.contains(char::REPLACEMENT_CHARACTER) {
        return Err(error("it is not UTF-8"));
    }
    let mut word = String::from("\"");
    for character in text.chars() {
        match character {
            '"' => word.push_str("\\\""),
            '\\' => word.push_str("\\\\"),
            '\n' => word.push_str("\\n"),
            '\t' => word.push_str("\\t"),
            '%' => word.push_str("%%"),
            other => word.push(other),
        }
    }
    word.push('"');
    Ok(word)
}

#[cfg(test)]
mod tests;
