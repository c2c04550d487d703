//! The arguments of the process that `codexd run` becomes. Internal: unit files and codexd itself write them.

use std::ffi::OsString;
use std::path::PathBuf;

use codexd_host::Home;
use codexd_host::service::supervisor::StandaloneOptions;

use crate::output::Mode;

const RUN: &str = "run";
const HOME: &str = "--codex-home";
const SERVICE: &str = "--service";
const NONE: &str = "none";
const SYSTEMD: &str = "systemd";
const START: &str = "--start=";
const GRACE: &str = "--grace-seconds=";
const LIFETIME: &str = "--lifetime-ms=";
const JSON: &str = "--json";
const TEXT: &str = "--text";

/// What runs the supervisor, and how.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Arguments {
    /// A unit of systemd.
    Systemd {
        /// The home.
        home: Home,
    },
    /// No service manager.
    Standalone(Box<Standalone>),
}

/// How `codexd run` was called, without a service manager.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Standalone {
    /// The home.
    pub home: Home,
    /// The form of the answers.
    pub mode: Mode,
    /// The server to start, if any.
    pub server: RunServer,
    /// The grace period that the environment or an option sets, in seconds.
    pub grace_seconds: Option<u64>,
    /// How long it runs, in milliseconds; `None` without `--run-once`.
    pub lifetime_ms: Option<u64>,
    /// The options of every command that it runs.
    pub options: Vec<OsString>,
}

/// The server of `codexd run`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RunServer {
    /// None.
    Off,
    /// Codex.
    Codex,
    /// The one that is built into codexd.
    Embedded,
}

impl RunServer {
    const ALL: [(RunServer, &str); 3] =
        [(RunServer::Off, "none"), (RunServer::Codex, "codex"), (RunServer::Embedded, "embedded")];
}

impl Arguments {
    /// Reads the arguments; `None` for any other command line.
    pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Option<Self> {
        let arguments: Vec<OsString> = arguments.into_iter().skip(1).collect();
        let ([command, option, home, service, manager], rest) = arguments.split_first_chunk()?;
        if command != RUN || option != HOME || service != SERVICE {
            return None;
        }
        let home = Home::new(PathBuf::from(home));
        match manager.to_str()? {
            SYSTEMD if rest.is_empty() => Some(Arguments::Systemd { home }),
            NONE => Standalone::parse(home, rest).map(|found| Arguments::Standalone(Box::new(found))),
            _ => None,
        }
    }
}

impl Standalone {
    fn parse(home: Home, arguments: &[OsString]) -> Option<Self> {
        let ([mode, start, grace, lifetime], options) = arguments.split_first_chunk()?;
        let value =
            |argument: &OsString, option: &str| argument.to_str()?.strip_prefix(option).map(str::to_owned);
        let start = value(start, START)?;
        Some(Self {
            home,
            mode: match mode.to_str()? {
                JSON => Mode::Json,
                TEXT => Mode::Text,
                _ => return None,
            },
            server: RunServer::ALL.into_iter().find(|(_, word)| *word == start)?.0,
            grace_seconds: value(grace, GRACE)?.parse().ok(),
            lifetime_ms: value(lifetime, LIFETIME)?.parse().ok(),
            options: options.to_vec(),
        })
    }

    /// The arguments, without the name of the program.
    pub fn to_arguments(&self) -> Vec<OsString> {
        let start = RunServer::ALL.into_iter().find(|(server, _)| *server == self.server);
        let number =
            |number: Option<u64>| number.map_or_else(|| NONE.to_owned(), |number| number.to_string());
        let mut arguments: Vec<OsString> = vec![RUN.into(), HOME.into(), self.home.root().into()];
        arguments.extend([SERVICE.into(), NONE.into(), self.mode_option()]);
        arguments.push(format!("{START}{}", start.map_or(NONE, |(_, word)| word)).into());
        arguments.push(format!("{GRACE}{}", number(self.grace_seconds)).into());
        arguments.push(format!("{LIFETIME}{}", number(self.lifetime_ms)).into());
        arguments.extend(self.options.iter().cloned());
        arguments
    }

    /// The same for the supervisor; `codexd` is the binary.
    pub fn options(&self, codexd: PathBuf) -> StandaloneOptions {
        let mut options = vec![self.mode_option()];
        options.extend(self.options.iter().cloned());
        StandaloneOptions {
            codexd,
            options,
            start: match self.server {
                RunServer::Off => None,
                RunServer::Codex => Some(Vec::new()),
                RunServer::Embedded => Some(vec!["--embedded".into()]),
            },
            grace_seconds: self.grace_seconds,
            lifetime_ms: self.lifetime_ms,
        }
    }

    fn mode_option(&self) -> OsString {
        match self.mode {
            Mode::Json => JSON.into(),
            Mode::Text => TEXT.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Arguments, RunServer, Standalone};
    use crate::output::Mode;
    use codexd_host::Home;

    fn parse(words: &[&str]) -> Option<Arguments> {
        Arguments::parse(words.iter().map(Into::into))
    }

    #[test]
    fn only_the_arguments_of_the_unit_make_a_service() {
        let of_unit = parse(&["codexd", "run", "--codex-home", "/h", "--service", "systemd"]);
        assert_eq!(of_unit, Some(Arguments::Systemd { home: Home::new("/h") }));
        for other in [
            &["codexd", "run"][..],
            &["codexd", "run", "--codex-home", "/h"],
            &["codexd", "run", "--codex-home", "/h", "--service", "systemd", "--json"],
            &["codexd", "run", "--codex-home", "/h", "--service", "none"],
            &["codexd", "supervisor"],
        ] {
            assert_eq!(parse(other), None, "{other:?}");
        }
    }

    #[test]
    fn arguments_are_read_as_they_were_written() {
        for (server, mode, number) in [
            (RunServer::Off, Mode::Json, None),
            (RunServer::Codex, Mode::Text, Some(0)),
            (RunServer::Embedded, Mode::Json, Some(u64::MAX)),
        ] {
            let standalone = Standalone {
                home: Home::new("/a home"),
                mode,
                server,
                grace_seconds: number,
                lifetime_ms: number,
                options: vec!["--codex-bin".into(), "/b".into()],
            };
            let arguments = ["codexd".into()].into_iter().chain(standalone.to_arguments());
            let read = Arguments::parse(arguments);
            assert_eq!(read, Some(Arguments::Standalone(Box::new(standalone))));
        }
    }
}
