//! What outlives a gateway: which goals are at work, and as whom it introduced itself.
//!
//! A goal is written down before it is paused, and that survives a power cut, as the pause does. Without the persona a gateway
//! that finds threads at work, or has to see to it that they go on, could only wait until a client comes. A file that cannot
//! be read counts as none.

use std::{fs, io};

use codexd_gateway::host::{PersistedClientIdentity, PersistedGoals, StateStore};
use codexd_host::Home;
use codexd_host::atomic::{self, Durability};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The files of the home.
#[derive(Debug)]
pub struct StateFiles {
    home: Home,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Persona {
    generations: Vec<String>,
    introduction: Box<RawValue>,
}

impl StateFiles {
    /// What is kept in this home.
    pub fn new(home: Home) -> Self {
        Self { home }
    }
}

fn read<T: DeserializeOwned>(path: &std::path::Path) -> Option<T> {
    let bytes = atomic::read(path).ok().flatten()?;
    serde_json::from_slice(&bytes).ok()
}

impl StateStore for StateFiles {
    fn goals(&mut self) -> PersistedGoals {
        read(&self.home.gateway_goals()).unwrap_or_default()
    }

    fn persist_goals(&mut self, goals: &PersistedGoals) -> io::Result<()> {
        let path = self.home.gateway_goals();
        if goals.is_empty() {
            return match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        atomic::replace(&path, &serde_json::to_vec(goals)?, Durability::Power)
    }

    fn client_identity(&mut self) -> Option<PersistedClientIdentity> {
        let Persona { generations, introduction } = read(&self.home.gateway_persona())?;
        Some(PersistedClientIdentity { initialize_params: introduction.get().to_owned(), generations })
    }

    fn persist_client_identity(&mut self, persona: &PersistedClientIdentity) -> io::Result<()> {
        let introduction = RawValue::from_string(persona.initialize_params.clone())?;
        let kept = Persona { generations: persona.generations.clone(), introduction };
        atomic::replace(&self.home.gateway_persona(), &serde_json::to_vec(&kept)?, Durability::Process)
    }
}

#[cfg(test)]
mod tests {
    use super::StateFiles;
    use codexd_gateway::host::{PersistedClientIdentity, PersistedGoals, StateStore};
    use codexd_host::Home;

    fn home() -> (tempfile::TempDir, Home) {
        let folder = tempfile::tempdir().expect("a folder");
        let home = Home::new(folder.path());
        home.create_state().expect("made");
        (folder, home)
    }

    #[test]
    fn goals_are_there_for_the_next_one() {
        let (_folder, home) = home();
        let mut memory = StateFiles::new(home.clone());
        assert!(memory.goals().is_empty());
        let goals =
            PersistedGoals { active: vec!["a".to_owned(), "b".to_owned()], held: vec!["b".to_owned()] };
        memory.persist_goals(&goals).expect("kept");
        assert_eq!(StateFiles::new(home.clone()).goals(), goals);
        memory.persist_goals(&PersistedGoals::default()).expect("kept");
        assert!(!home.gateway_goals().exists() && memory.goals().is_empty());
        memory.persist_goals(&PersistedGoals::default()).expect("nothing to remove is no failure");
        std::fs::write(home.gateway_goals(), "{broken").expect("written");
        assert!(memory.goals().is_empty());
    }

    #[test]
    fn a_persona_is_there_for_the_next_one() {
        let (_folder, home) = home();
        let persona = |introduction: &str| PersistedClientIdentity {
            initialize_params: introduction.to_owned(),
            generations: vec!["g1".to_owned(), "g2".to_owned()],
        };
        let mut memory = StateFiles::new(home.clone());
        assert_eq!(memory.client_identity(), None);
        let kept = persona(r#"{"clientInfo":{"name":"x"},"capabilities":{}}"#);
        memory.persist_client_identity(&kept).expect("kept");
        assert_eq!(StateFiles::new(home.clone()).client_identity(), Some(kept));
        assert!(memory.persist_client_identity(&persona("not JSON")).is_err());
        std::fs::write(home.gateway_persona(), "{broken").expect("written");
        assert_eq!(memory.client_identity(), None);
    }
}
