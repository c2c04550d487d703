//! The Codex of the running server, or of the server that the supervisor is about to start: later commands use it if nothing
//! else is selected.

use std::path::PathBuf;

use codexd_core::launch_spec::NamedCodex;
use codexd_host::service::supervisor::{self, StatePhase};
use codexd_host::{Home, process};

use crate::observe;

/// Empty if no server runs, and for the embedded server.
#[derive(Debug, Default)]
pub struct RecordedCodex {
    /// What `--codex-bin` selected.
    pub named: Option<NamedCodex>,
    /// Its executable.
    pub executable: Option<PathBuf>,
}

impl RecordedCodex {
    /// Reads it from the record of the running server, or from the state that a supervisor wrote before a crash or a reboot.
    pub fn of(home: &Home) -> Self {
        let record = observe::server(home).ok();
        if let Some(server) = record.as_ref().and_then(|record| record.process.as_ref()) {
            let Some(codexd) = record.as_ref().and_then(|record| record.codexd.as_ref()) else {
                // A server of the daemon of upstream.
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
