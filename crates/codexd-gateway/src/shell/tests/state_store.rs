//! Stored state, and a slow disk.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::timeout;

use super::{FakeStateStore, TestGateway, next_text, send, with_gateway};
use crate::host::{HostCommand, PersistedClientIdentity, PersistedGoals, Role};
use crate::hub::{Action, Event};

async fn goals_stored(gateway: &mut TestGateway, expected: u64) {
    let Event::GoalsPersisted(number) = gateway.next().await else { panic!("goals are stored") };
    assert_eq!(number, expected);
}

fn persist(number: u64, goals: &PersistedGoals) -> Action {
    Action::PersistGoals { number, goals: goals.clone() }
}

#[test]
fn goals_are_persisted_and_restored() {
    with_gateway(async |gateway| {
        gateway.begin().await;
        let kept = PersistedGoals { active: vec!["a".into(), "b".into()], suspended: vec!["b".into()] };
        gateway.act(vec![persist(1, &kept)]).await;
        goals_stored(gateway, 1).await;
        assert_eq!(*gateway.store.goals.lock().expect("whole"), kept);
        crate::shell::persist::restore_goals(&gateway.shell);
        let Event::GoalsRestored(goals) = gateway.next().await else { panic!("the goals") };
        assert_eq!(goals, kept);
    });
}

#[test]
fn a_failed_write_of_goals_is_retried() {
    with_gateway(async |gateway| {
        gateway.begin().await;
        let now = PersistedGoals { active: vec!["b".into()], suspended: Vec::new() };
        gateway.store.fails.store(3, Relaxed);
        gateway.act(vec![persist(1, &PersistedGoals::default()), persist(2, &now)]).await;
        let Some(HostCommand::Note { kind, .. }) = gateway.host_commands.recv().await else {
            panic!("a log entry")
        };
        assert_eq!(kind, "goals.persist_failed");
        let kept = async {
            while *gateway.store.goals.lock().expect("whole") != now {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(30), kept).await.expect("kept in the end");
    });
}

fn echo(event: &Event) -> Vec<Action> {
    match event {
        Event::ClientMessage(client, text) => vec![Action::SendToClient(*client, text.clone())],
        _ => Vec::new(),
    }
}

#[test]
fn a_disk_that_hangs_delays_no_client_and_is_written_to_once_it_goes_on() {
    with_gateway(async |gateway| {
        gateway.script.borrow_mut().reply = Some(echo);
        gateway.script.borrow_mut().quiet = true;
        gateway.store.disk.hang(true);
        let (_, mut socket) = gateway.client().await;
        let path = gateway.folder.path().to_string_lossy().into_owned();
        for number in 1..=500 {
            let goals = PersistedGoals { active: vec![number.to_string()], suspended: Vec::new() };
            gateway.act(vec![persist(number, &goals), Action::PersistClientIdentity("me".into())]).await;
        }
        gateway.act(vec![Action::CheckRollout { thread: "a".into(), path }]).await;
        for count in 0..100 {
            send(&mut socket, &count.to_string()).await;
            assert_eq!(next_text(&mut socket).await, count.to_string());
        }
        gateway.nothing_happened();
        gateway.store.disk.hang(false);
        // One write had started; of the queued ones only the last counts.
        let mut written = Vec::new();
        while written.last() != Some(&500) {
            let Event::GoalsPersisted(number) = gateway.next().await else { panic!("goals are stored") };
            written.push(number);
        }
        assert!(written.len() <= 2, "{written:?}");
        assert!(matches!(gateway.next().await, Event::RolloutChecked { exists: true, .. }));
        assert_eq!(gateway.store.goals.lock().expect("whole").active, ["500"]);
    });
}

#[test]
fn a_client_identity_is_restored_if_an_app_server_knows_it_or_goals_continue() {
    let none = PersistedGoals::default();
    let kept = with_persisted(None, &none, async |gateway| {
        gateway.generations(&[("g1", Role::Current)]).await;
        assert!(gateway.next_debug().await.starts_with("Servers"));
        gateway.act(vec![Action::PersistClientIdentity("me".into())]).await;
        identity_known_to(gateway, &["g1"]).await;
        gateway.generations(&[("g2", Role::Current), ("g1", Role::Outgoing)]).await;
        assert!(gateway.next_debug().await.starts_with("Servers"));
        identity_known_to(gateway, &["g1", "g2"]).await;
    });
    let generations = vec!["g1".to_owned(), "g2".to_owned()];
    assert_eq!(kept, Some(PersistedClientIdentity { initialize_params: "me".into(), generations }));
    let some = PersistedGoals { active: vec!["a".into()], ..PersistedGoals::default() };
    for (running, goals, is_restored) in [("g2", &none, true), ("g3", &none, false), ("g3", &some, true)] {
        with_persisted(kept.clone(), goals, async |gateway| {
            gateway.generations(&[(running, Role::Current)]).await;
            if !goals.is_empty() {
                assert!(matches!(gateway.next().await, Event::GoalsRestored(kept) if kept == *goals));
            }
            if is_restored {
                assert!(
                    matches!(gateway.next().await, Event::ClientIdentityRestored(client_identity) if client_identity.as_str() == "me")
                );
            }
            assert!(gateway.next_debug().await.starts_with("Servers"));
            gateway.nothing_happened();
        });
    }
}

async fn identity_known_to(gateway: &TestGateway, generations: &[&str]) {
    let is_kept = || {
        let client_identity = gateway.store.client_identity.lock().expect("whole");
        client_identity.as_ref().is_some_and(|client_identity| client_identity.generations == generations)
    };
    let kept = async {
        while !is_kept() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(20), kept).await.expect("it is kept");
}

fn with_persisted(
    client_identity: Option<PersistedClientIdentity>,
    goals: &PersistedGoals,
    test: impl AsyncFnOnce(&mut TestGateway),
) -> Option<PersistedClientIdentity> {
    let mut store = FakeStateStore::default();
    with_gateway(async |gateway| {
        *gateway.store.client_identity.lock().expect("whole") = client_identity;
        *gateway.store.goals.lock().expect("whole") = goals.clone();
        test(gateway).await;
        store = gateway.store.clone();
    });
    std::mem::take(&mut *store.client_identity.lock().expect("whole"))
}
