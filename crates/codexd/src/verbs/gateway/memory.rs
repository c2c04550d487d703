//! What outlives a gateway: which goals it holds.
//!
//! It is written before a goal is paused and survives a power cut, as the pause does. A file that cannot be read counts as
//! none: then a goal may stay paused, which its client sees.

use std::{fs, io};

use codexd_gateway::host::Memory;
use codexd_host::Home;
use codexd_host::atomic::{self, Durability};
use serde::{Deserialize, Serialize};

/// The file of the home.
#[derive(Debug)]
pub struct HeldGoals {
    home: Home,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Kept {
    threads: Vec<String>,
}

impl HeldGoals {
    /// What is remembered in this home.
    pub fn new(home: Home) -> Self {
        Self { home }
    }
}

impl Memory for HeldGoals {
    fn goals(&mut self) -> Vec<String> {
        let bytes = atomic::read(&self.home.held_goals()).ok().flatten().unwrap_or_default();
        serde_json::from_slice::<Kept>(&bytes).unwrap_or_default().threads
    }

    fn keep_goals(&mut self, threads: &[String]) -> io::Result<()> {
        let path = self.home.held_goals();
        if threads.is_empty() {
            return match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        let kept = Kept { threads: threads.to_vec() };
        atomic::replace(&path, &serde_json::to_vec(&kept)?, Durability::Power)
    }
}

#[cfg(test)]
mod tests {
    use super::HeldGoals;
    use codexd_gateway::host::Memory;
    use codexd_host::Home;

    #[test]
    fn what_is_kept_is_there_for_the_next_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let home = Home::new(folder.path());
        home.create_state().expect("made");
        let mut memory = HeldGoals::new(home.clone());
        assert!(memory.goals().is_empty());
        memory.keep_goals(&["a".to_owned(), "b".to_owned()]).expect("kept");
        assert_eq!(HeldGoals::new(home.clone()).goals(), ["a", "b"]);
        memory.keep_goals(&[]).expect("kept");
        assert!(!home.held_goals().exists() && memory.goals().is_empty());
        memory.keep_goals(&[]).expect("nothing to remove is no failure");
        std::fs::write(home.held_goals(), "{broken").expect("written");
        assert!(memory.goals().is_empty());
    }
}
