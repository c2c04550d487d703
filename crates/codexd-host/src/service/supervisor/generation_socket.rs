//! Which socket a new generation gets behind the gateway.

use std::path::{Path, PathBuf};

use super::state;
use super::wire::Generation;
use crate::home::Home;
use crate::process;

/// The first path that no running generation uses. `generations` comes from the supervisor, `recorded` from the pid record; the
/// generations that a supervisor left behind are read from `supervisor.json`.
pub fn free_generation_socket(home: &Home, generations: &[Generation], recorded: Option<&Path>) -> PathBuf {
    let state = state::read(home);
    let left_behind = state.iter().flat_map(|state| {
        let running =
            state.others.iter().filter(|other| other.process.as_ref().is_some_and(process::is_alive));
        running.filter_map(|other| other.program.socket.as_deref())
    });
    let taken: Vec<&Path> = generations
        .iter()
        .filter_map(|generation| generation.socket.as_deref())
        .chain(recorded)
        .chain(left_behind)
        .collect();
    (1..)
        .map(|nth| home.generation_socket(nth))
        .find(|socket| !taken.contains(&socket.as_path()))
        .unwrap_or_else(|| home.generation_socket(0))
}
