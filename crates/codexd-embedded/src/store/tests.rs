use std::fs::{self, OpenOptions};
use std::io::Write;

use serde_json::json;

use super::Store;
use crate::ids::{IdGenerator, ThreadId};
use crate::model::transcript::{Meta, Record};
use crate::rollout;
use crate::timestamp::Timestamp;

fn started(id_generator: &mut IdGenerator) -> (ThreadId, Record) {
    let created = Timestamp::from_millis(1_795_150_801_000);
    let id = id_generator.thread(created);
    let meta = Meta {
        id,
        created,
        cwd: "/w".into(),
        model: "m".into(),
        model_provider: "p".into(),
        approval_policy: json!("on-request"),
        originator: "o".into(),
        version: "1".into(),
    };
    (id, Record::ThreadStarted { meta })
}

#[test]
fn a_thread_is_found_by_its_id_alone() {
    let home = tempfile::tempdir().expect("a folder");
    let (id, record) = started(&mut IdGenerator::new(1));
    Store::new(home.path().into()).append(id, &record).expect("written");
    let (found, archived) = Store::new(home.path().into()).find(id).expect("found");
    assert_eq!((found.meta.id, archived), (id, false));
}

#[test]
fn what_another_server_adds_is_seen() {
    let home = tempfile::tempdir().expect("a folder");
    let (id, record) = started(&mut IdGenerator::new(1));
    let (mut ours, mut theirs) = (Store::new(home.path().into()), Store::new(home.path().into()));
    ours.append(id, &record).expect("written");
    assert_eq!(ours.find(id).expect("found").0.name, None);
    theirs.append(id, &Record::Named { name: "n".into() }).expect("written");
    assert_eq!(ours.find(id).expect("found").0.name.as_deref(), Some("n"));
}

#[test]
fn a_line_that_was_cut_is_skipped_and_closed() {
    let home = tempfile::tempdir().expect("a folder");
    let (id, record) = started(&mut IdGenerator::new(1));
    Store::new(home.path().into()).append(id, &record).expect("written");
    let path = rollout::path(home.path(), id, false);
    let mut file = OpenOptions::new().append(true).open(&path).expect("there");
    file.write_all(b"{\"type\":\"nam").expect("cut");
    let mut store = Store::new(home.path().into());
    assert_eq!(store.find(id).expect("still readable").0.name, None);
    store.append(id, &Record::Named { name: "n".into() }).expect("written");
    let text = fs::read_to_string(&path).expect("text");
    assert!(text.ends_with("{\"type\":\"named\",\"name\":\"n\"}\n"), "{text}");
    assert_eq!(store.find(id).expect("found").0.name.as_deref(), Some("n"));
}

#[test]
fn an_archived_thread_is_in_the_other_list() {
    let home = tempfile::tempdir().expect("a folder");
    let mut store = Store::new(home.path().into());
    let (id, record) = started(&mut IdGenerator::new(1));
    store.append(id, &record).expect("written");
    store.relocate(id, true).expect("moved");
    assert_eq!((store.all(false).len(), store.all(true).len()), (0, 1));
    assert!(store.find(id).expect("found").1);
    store.relocate(id, false).expect("moved back");
    assert_eq!((store.all(false).len(), store.all(true).len()), (1, 0));
}
