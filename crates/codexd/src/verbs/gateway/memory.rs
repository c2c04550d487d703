//! What outlives a gateway: which goals it holds, and as whom it introduced itself.
//!
//! A goal is written down before it is paused, and that survives a power cut, as the pause does. Without the persona a gateway
//! that finds a server with threads at work could only wait until a client comes. A file that cannot be read counts as none.

use std::{fs, io};

use codexd_gateway::host::Memory;
use codexd_host::Home;
use codexd_host::atomic::{self, Durability};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The files of the home.
#[derive(Debug)]
pub struct Kept {
    home: Home,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct HeldGoals {
    threads: Vec<String>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Persona {
    generations: Vec<String>,
    introduction: Box<RawValue>,
}

impl Kept {
    /// What is kept in this home.
    pub fn new(home: Home) -> Self {
        Self { home }
    }
}

fn read<T: DeserializeOwned>(path: &std::path::Path) -> Option<T> {
    let bytes = atomic::read(path).ok().flatten()?;
    serde_json::from_slice(&bytes).ok()
}

impl Memory for Kept {
    fn goals(&mut self) -> Vec<String> {
        read::<HeldGoals>(&self.home.held_goals()).unwrap_or_default().threads
    }

    fn keep_goals(&mut self, threads: &[String]) -> io::Result<()> {
        let path = self.home.held_goals();
        if threads.is_empty() {
            return match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        let kept = HeldGoals { threads: threads.to_vec() };
        atomic::replace(&path, &serde_json::to_vec(&kept)?, Durability::Power)
    }

    fn persona(&mut self, living: &[String]) -> Option<String> {
        let kept = read::<Persona>(&self.home.gateway_persona())?;
        let is_known = kept.generations.iter().any(|mark| living.contains(mark));
        is_known.then(|| kept.introduction.get().to_owned())
    }

    fn keep_persona(&mut self, persona: &str, living: &[String]) -> io::Result<()> {
        let introduction = RawValue::from_string(persona.to_owned())?;
        let kept = Persona { generations: living.to_vec(), introduction };
        atomic::replace(&self.home.gateway_persona(), &serde_json::to_vec(&kept)?, Durability::Process)
    }
}

#[cfg(test)]
mod tests {
    use super::Kept;
    use codexd_gateway::host::Memory;
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
        let mut memory = Kept::new(home.clone());
        assert!(memory.goals().is_empty());
        memory.keep_goals(&["a".to_owned(), "b".to_owned()]).expect("kept");
        assert_eq!(Kept::new(home.clone()).goals(), ["a", "b"]);
        memory.keep_goals(&[]).expect("kept");
        assert!(!home.held_goals().exists() && memory.goals().is_empty());
        memory.keep_goals(&[]).expect("nothing to remove is no failure");
        std::fs::write(home.held_goals(), "{broken").expect("written");
        assert!(memory.goals().is_empty());
    }

    #[test]
    fn a_persona_is_there_as_long_as_somebody_knows_it() {
        let (_folder, home) = home();
        let marks = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let mut memory = Kept::new(home.clone());
        assert_eq!(memory.persona(&marks(&["g1"])), None);
        let persona = r#"{"clientInfo":{"name":"x"},"capabilities":{}}"#;
        memory.keep_persona(persona, &marks(&["g1", "g2"])).expect("kept");
        let mut next = Kept::new(home.clone());
        assert_eq!(next.persona(&marks(&["g2", "g3"])).as_deref(), Some(persona));
        assert_eq!((next.persona(&marks(&["g3"])), next.persona(&[])), (None, None));
        assert!(memory.keep_persona("not JSON", &[]).is_err());
        std::fs::write(home.gateway_persona(), "{broken").expect("written");
        assert_eq!(next.persona(&marks(&["g1"])), None);
    }
}
