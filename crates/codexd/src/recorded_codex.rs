//! The Codex of the server that runs, or is to run: what later commands use where nothing else names one.

use std::path::PathBuf;

use codexd_core::launch_spec::NamedCodex;
use codexd_host::service::supervisor::{self, StatePhase};
use codexd_host::{Home, process};

use crate::observe;

/// What the records say of it. Empty where no server runs, and for the server that is built into codexd.
#[derive(Debug, Default)]
pub struct RecordedCodex {
    /// What `--codex-bin` named for it.
    pub named: Option<NamedCodex>,
    /// Its executable.
    pub executable: Option<PathBuf>,
}

impl RecordedCodex {
    /// Looks it up: in the record of the server that lives, else in what its supervisor wrote before a crash or a reboot.
    pub fn of(home: &Home) -> Self {
        let record = observe::server(home).ok();
        if let Some(server) = record.as_ref().and_then(|record| record.process.as_ref()) {
            let Some(codexd) = record.as_ref().and_then(|record| record.codexd.as_ref()) else {
                // A server of upstream's daemon.
                let executable = process::executable(server.pid).ok().map(|(path, _)| path);
                return Self { named: None, executable };
            };
            if codexd.embedded {
                return Self::default();
            }
            return Self { named: codexd.named.clone(), executable: Some(codexd.executable.clone()) };
        }
        let state = supervisor::read_state(home).filter(|state| {
            matches!(state.phase, StatePhase::Running | StatePhase::Spawning | StatePhase::Waiting)
        });
        match state.and_then(|state| state.program).filter(|program| !program.embedded) {
            Some(program) => Self { named: program.named, executable: Some(program.executable) },
            None => Self::default(),
        }
    }
}
