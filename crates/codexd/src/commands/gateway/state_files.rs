//! The files of the gateway: which goals are active, and its client identity.
//!
//! A goal is written down before it is paused, and both survive a power failure. Without the client identity, a new gateway
//! that finds loaded threads could not manage them until a client connects. A file that cannot be read counts as missing.

use std::io;

use codexd_gateway::host::{PersistedClientIdentity, PersistedGoals, StateStore};
use codexd_host::Home;
use codexd_host::atomic::{self, Durability};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The file of the client identity in codexd 0.1.0.
const FORMER_CLIENT_IDENTITY: &str = "gateway-persona.json";

#[derive(Debug)]
pub struct StateFiles {
    home: Home,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct ClientIdentity {
    generations: Vec<String>,
    #[serde(alias = "introduction")]
    initialize_params: Box<RawValue>,
}

impl StateFiles {
    /// The files of this home.
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
            return atomic::remove_if_exists(&path);
        }
        atomic::replace(&path, &serde_json::to_vec(goals)?, Durability::Power)
    }

    fn client_identity(&mut self) -> Option<PersistedClientIdentity> {
        let former = || read(&self.home.state_file(FORMER_CLIENT_IDENTITY));
        let identity: Option<ClientIdentity> = read(&self.home.gateway_client_identity()).or_else(former);
        let ClientIdentity { generations, initialize_params } = identity?;
        Some(PersistedClientIdentity { initialize_params: initialize_params.get().to_owned(), generations })
    }

    fn persist_client_identity(&mut self, identity: &PersistedClientIdentity) -> io::Result<()> {
        let initialize_params = RawValue::from_string(identity.initialize_params.clone())?;
        let identity = ClientIdentity { generations: identity.generations.clone(), initialize_params };
        let bytes = serde_json::to_vec(&identity)?;
        atomic::replace(&self.home.gateway_client_identity(), &bytes, Durability::Process)?;
        atomic::remove_if_exists(&self.home.state_file(FORMER_CLIENT_IDENTITY))
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
    fn goals_are_read_by_the_next_gateway() {
        let (_folder, home) = home();
        let mut memory = StateFiles::new(home.clone());
        assert!(memory.goals().is_empty());
        let goals =
            PersistedGoals { active: vec!["a".to_owned(), "b".to_owned()], suspended: vec!["b".to_owned()] };
        memory.persist_goals(&goals).expect("kept");
        assert_eq!(StateFiles::new(home.clone()).goals(), goals);
        memory.persist_goals(&PersistedGoals::default()).expect("kept");
        assert!(!home.gateway_goals().exists() && memory.goals().is_empty());
        memory.persist_goals(&PersistedGoals::default()).expect("nothing to remove is no failure");
        std::fs::write(home.gateway_goals(), "{broken").expect("written");
        assert!(memory.goals().is_empty());
    }

    #[test]
    fn a_client_identity_is_read_by_the_next_gateway() {
        let (_folder, home) = home();
        let identity = |initialize_params: &str| PersistedClientIdentity {
            initialize_params: initialize_params.to_owned(),
            generations: vec!["g1".to_owned(), "g2".to_owned()],
        };
        let mut memory = StateFiles::new(home.clone());
        assert_eq!(memory.client_identity(), None);
        let kept = identity(r#"{"clientInfo":{"name":"x"},"capabilities":{}}"#);
        memory.persist_client_identity(&kept).expect("kept");
        assert_eq!(StateFiles::new(home.clone()).client_identity(), Some(kept));
        assert!(memory.persist_client_identity(&identity("not JSON")).is_err());
        std::fs::write(home.gateway_client_identity(), "{broken").expect("written");
        assert_eq!(memory.client_identity(), None);
    }
    #[test]
    fn a_client_identity_of_an_older_codexd_is_read_and_then_replaced() {
        let (_folder, home) = home();
        let former = home.state_file(super::FORMER_CLIENT_IDENTITY);
        std::fs::write(&former, r#"{"generations":["g1"],"introduction":{"capabilities":{}}}"#)
            .expect("written");
        let mut memory = StateFiles::new(home.clone());
        let read = memory.client_identity().expect("read");
        assert_eq!(read.initialize_params, r#"{"capabilities":{}}"#);
        memory.persist_client_identity(&read).expect("written");
        assert!(!former.exists() && home.gateway_client_identity().exists());
        assert_eq!(memory.client_identity(), Some(read));
    }
}
