//! What is on disk, and a disk that is slow.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::timeout;

use super::{House, Notebook, hear, in_house, say};
use crate::host::{HostOrder, KeptGoals, KeptPersona, Role};
use crate::hub::{Action, Event};

async fn goals_stored(house: &mut House, expected: u64) {
    let Event::GoalsPersisted(number) = house.next().await else { panic!("goals are stored") };
    assert_eq!(number, expected);
}

fn keep(number: u64, goals: &KeptGoals) -> Action {
    Action::PersistGoals { number, goals: goals.clone() }
}

#[test]
fn goals_are_remembered_and_told_to_the_next_brain() {
    in_house(async |house| {
        let kept = KeptGoals { active: vec!["a".into(), "b".into()], held: vec!["b".into()] };
        house.act(vec![keep(1, &kept)]).await;
        goals_stored(house, 1).await;
        assert_eq!(*house.memory.goals.lock().expect("whole"), kept);
        house.driver.remember();
        let Event::GoalsRestored(goals) = house.next().await else { panic!("the goals") };
        assert_eq!(goals, kept);
    });
}

#[test]
fn goals_that_could_not_be_kept_are_kept_as_soon_as_they_can_be() {
    in_house(async |house| {
        let now = KeptGoals { active: vec!["b".into()], held: Vec::new() };
        house.memory.fails.store(3, Relaxed);
        house.act(vec![keep(1, &KeptGoals::default()), keep(2, &now)]).await;
        let Some(HostOrder::Note { kind, .. }) = house.orders.recv().await else { panic!("a word of it") };
        assert_eq!(kind, "goals.forgotten");
        let kept = async {
            while *house.memory.goals.lock().expect("whole") != now {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(30), kept).await.expect("kept at last");
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
    in_house(async |house| {
        house.script.borrow_mut().reply = Some(echo);
        house.script.borrow_mut().quiet = true;
        house.memory.disk.hang(true);
        let (_, mut socket) = house.client().await;
        let path = house.folder.path().to_string_lossy().into_owned();
        for number in 1..=500 {
            let goals = KeptGoals { active: vec![number.to_string()], held: Vec::new() };
            house.act(vec![keep(number, &goals), Action::PersistClientIdentity("me".into())]).await;
        }
        house.act(vec![Action::CheckRollout { thread: "a".into(), path }]).await;
        for count in 0..100 {
            say(&mut socket, &count.to_string()).await;
            assert_eq!(hear(&mut socket).await, count.to_string());
        }
        house.nothing_happened();
        house.memory.disk.hang(false);
        // One was on its way; of those that waited only the last counts.
        let mut told = Vec::new();
        while told.last() != Some(&500) {
            let Event::GoalsPersisted(number) = house.next().await else { panic!("goals are stored") };
            told.push(number);
        }
        assert!(told.len() <= 2, "{told:?}");
        assert!(matches!(house.next().await, Event::RolloutChecked { exists: true, .. }));
        assert_eq!(house.memory.goals.lock().expect("whole").active, ["500"]);
    });
}

#[test]
fn a_persona_is_told_to_the_next_brain_if_somebody_knows_it_or_goals_are_to_go_on() {
    let none = KeptGoals::default();
    let kept = in_house_that_keeps(None, &none, async |house| {
        house.generations(&[("g1", Role::Current)]).await;
        assert!(house.next_word().await.starts_with("Servers"));
        house.act(vec![Action::PersistClientIdentity("me".into())]).await;
        persona_known_to(house, &["g1"]).await;
        house.generations(&[("g2", Role::Current), ("g1", Role::Outgoing)]).await;
        assert!(house.next_word().await.starts_with("Servers"));
        persona_known_to(house, &["g1", "g2"]).await;
    });
    let known_to = vec!["g1".to_owned(), "g2".to_owned()];
    assert_eq!(kept, Some(KeptPersona { introduction: "me".into(), known_to }));
    let some = KeptGoals { active: vec!["a".into()], ..KeptGoals::default() };
    for (living, goals, is_told) in [("g2", &none, true), ("g3", &none, false), ("g3", &some, true)] {
        in_house_that_keeps(kept.clone(), goals, async |house| {
            house.generations(&[(living, Role::Current)]).await;
            if !goals.is_empty() {
                assert!(matches!(house.next().await, Event::GoalsRestored(kept) if kept == *goals));
            }
            if is_told {
                assert!(
                    matches!(house.next().await, Event::ClientIdentityRestored(persona) if persona.as_str() == "me")
                );
            }
            assert!(house.next_word().await.starts_with("Servers"));
            house.nothing_happened();
        });
    }
}

async fn persona_known_to(house: &House, marks: &[&str]) {
    let is_kept = || {
        let persona = house.memory.persona.lock().expect("whole");
        persona.as_ref().is_some_and(|persona| persona.known_to == marks)
    };
    let kept = async {
        while !is_kept() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(20), kept).await.expect("it is kept");
}

fn in_house_that_keeps(
    persona: Option<KeptPersona>,
    goals: &KeptGoals,
    test: impl AsyncFnOnce(&mut House),
) -> Option<KeptPersona> {
    let mut memory = Notebook::default();
    in_house(async |house| {
        *house.memory.persona.lock().expect("whole") = persona;
        *house.memory.goals.lock().expect("whole") = goals.clone();
        test(house).await;
        memory = house.memory.clone();
    });
    std::mem::take(&mut *memory.persona.lock().expect("whole"))
}
