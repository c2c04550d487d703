//! A daemon that is asked to do a command.

use codexd_testkit::{Client, Codexd, Home, Place, Run, Version, block_on, codex, limits, run};
use serde_json::Value;

use super::states::{State, home_for};

/// Whose daemon.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Contestant {
    /// The built one.
    Codexd,
    /// `codex app-server daemon` of a release.
    Upstream(Version),
}

impl Contestant {
    /// The real ones.
    pub const UPSTREAM: [Contestant; 2] =
        [Contestant::Upstream(Version::V0_131_0), Contestant::Upstream(Version::NEWEST)];

    /// Runs a command to its end.
    pub fn run(self, home: &Home, name: &str) -> anyhow::Result<Run> {
        match self {
            Contestant::Codexd => Codexd::new(home)?.run(&[name]),
            Contestant::Upstream(_) => run::run(self.command(home, name)?, limits::RUN),
        }
    }

    /// The command that runs a command.
    pub fn command(self, home: &Home, name: &str) -> anyhow::Result<std::process::Command> {
        Ok(match self {
            Contestant::Codexd => Codexd::new(home)?.command(&[name]),
            Contestant::Upstream(version) => {
                let mut command = home.command(codex::binary(version)?);
                command.args(["app-server", "daemon", name]);
                command
            }
        })
    }
}

/// What a command said and what it left.
pub struct Outcome {
    /// Whose daemon did it.
    pub contestant: Contestant,
    /// The run.
    pub run: Run,
    /// The JSON it printed, with the home's path taken out; `None` if it printed none.
    pub reply: Option<Value>,
    /// Whether a server answers on the control socket afterwards.
    pub serves: bool,
}

impl Outcome {
    /// Makes the state in a new home and runs the command there.
    pub fn of(contestant: Contestant, state: State, name: &str) -> anyhow::Result<Outcome> {
        let home = home_for(contestant, state)?;
        let _others = state.make(contestant, &home)?;
        let run = contestant.run(&home, name)?;
        let serves = answers(&home);
        let mut reply = run.json().ok();
        if let Some(Value::Object(members)) = &mut reply {
            for member in members.values_mut() {
                if let Value::String(text) = member {
                    *text = text.replace(&*home.path().to_string_lossy(), "$CODEX_HOME");
                }
            }
        }
        Ok(Outcome { contestant, run, reply, serves })
    }
}

/// Whether a server answers `initialize` on the control socket of a home.
pub fn answers(home: &Home) -> bool {
    block_on(Client::connect(&Place::from(home.control_socket()), "contract")).is_ok()
}
