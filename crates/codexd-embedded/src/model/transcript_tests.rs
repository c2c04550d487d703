use serde_json::{Value, json};

use super::{Item, ItemBody, Meta, Record, Transcript, TurnStatus};
use crate::ids::{IdGenerator, ItemId};
use crate::timestamp::Timestamp;

fn records() -> Vec<Record> {
    let mut id_generator = IdGenerator::new(3);
    let at = Timestamp::from_millis(1_000);
    let (id, turn) = (id_generator.thread(at), id_generator.turn(at));
    let meta = Meta {
        id,
        created: at,
        cwd: "/w".into(),
        model: "m".into(),
        model_provider: "p".into(),
        approval_policy: json!("on-request"),
        originator: "o".into(),
        version: "1".into(),
    };
    let body =
        ItemBody::UserMessage { client_id: None, content: vec![json!({"type": "text", "text": "hi"})] };
    let item = Item { id: ItemId("u".into()), started: at, completed: Some(at), body };
    vec![
        Record::ThreadStarted { meta },
        Record::TurnStarted { turn, at: Timestamp::from_millis(2_000) },
        Record::ItemCompleted { turn, item },
        Record::Named { name: "n".into() },
        Record::TurnEnded {
            turn,
            at: Timestamp::from_millis(3_000),
            status: TurnStatus::Completed,
            error: None,
        },
    ]
}

#[test]
fn a_transcript_reads_back_from_its_lines() {
    let written: Vec<Record> = records();
    let read = written.iter().map(|record| {
        let line = serde_json::to_string(record).expect("a record is JSON");
        serde_json::from_str(&line).expect("and reads back")
    });
    let transcript = Transcript::replay(read).expect("it starts with its thread");
    assert_eq!(transcript, Transcript::replay(written).expect("the same"));
    assert_eq!((transcript.preview().as_str(), transcript.name.as_deref()), ("hi", Some("n")));
    assert_eq!(transcript.updated, Timestamp::from_millis(3_000));
}

#[test]
fn a_turn_without_an_end_was_interrupted() {
    let mut cut = records();
    cut.pop();
    let transcript = Transcript::replay(cut).expect("a thread").abandoned();
    let turn = transcript.turns.last().expect("its turn");
    assert_eq!((turn.status, turn.ended, &turn.error), (TurnStatus::Interrupted, None, &None));
}

#[test]
fn lines_without_a_thread_are_no_transcript() {
    assert_eq!(Transcript::replay(records().into_iter().skip(1)), None);
    assert!(serde_json::from_value::<Record>(Value::Null).is_err());
}
