//! Whether one reply keeps the promises of another.

use serde_json::{Map, Value};

use super::contestant::Outcome;

/// Members whose presence says something, so that they may neither lack nor come in addition.
const TELLING: [&str; 3] = ["backend", "pid", "appServerVersion"];
/// Members whose values are of the run or of the program itself; only their kind is compared.
const OWN: [&str; 2] = ["pid", "cliVersion"];

/// Everything in which `ours` departs from a success of `theirs`.
pub fn compare(command: &str, ours: &Outcome, theirs: &Outcome) -> Vec<String> {
    let (true, Some(Value::Object(expected))) = (theirs.run.success(), &theirs.reply) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    match (&ours.reply, ours.run.success()) {
        (Some(Value::Object(reply)), true) => found.extend(members(reply, expected)),
        _ => found.push(format!("it failed: {}", ours.run)),
    }
    if ours.run.output_leaked {
        found.push("a process that it left behind holds its output".to_owned());
    }
    if ours.serves != theirs.serves {
        found.push(format!("a server answers afterwards: {}, not {}", ours.serves, theirs.serves));
    }
    let other = theirs.contestant;
    let context = |departure: String| {
        format!("{command}, beside {other:?}: {departure}\n    theirs: {}", theirs.run.stdout.trim_end())
    };
    found.into_iter().map(context).collect()
}

fn members(ours: &Map<String, Value>, theirs: &Map<String, Value>) -> Vec<String> {
    let mut found = Vec::new();
    for (name, expected) in theirs {
        match ours.get(name) {
            None => found.push(format!("{name} is missing")),
            Some(value) if OWN.contains(&name.as_str()) => {
                if std::mem::discriminant(value) != std::mem::discriminant(expected) {
                    found.push(format!("{name} is {value}, which is another kind than {expected}"));
                }
            }
            Some(value) if value != expected => found.push(format!("{name} is {value}, not {expected}")),
            Some(_) => {}
        }
    }
    for name in TELLING {
        if let (Some(value), None) = (ours.get(name), theirs.get(name)) {
            found.push(format!("{name} is {value}, and should not be there"));
        }
    }
    let known: Vec<_> = theirs.keys().filter(|name| ours.contains_key(*name)).collect();
    let order: Vec<_> = ours.keys().filter(|name| theirs.contains_key(*name)).collect();
    if known != order {
        found.push(format!("the members come in the order {order:?}, not {known:?}"));
    }
    found
}

mod tests {
    use serde_json::{Value, json};

    use super::members;

    fn compared(ours: Value, theirs: Value) -> Vec<String> {
        let object = |value: Value| value.as_object().cloned().expect("an object");
        members(&object(ours), &object(theirs))
    }

    #[test]
    fn more_members_are_welcome_and_telling_ones_are_not() {
        assert!(compared(json!({"status": "a", "more": 1}), json!({"status": "a"})).is_empty());
        assert_eq!(compared(json!({"status": "a", "pid": 1}), json!({"status": "a"})).len(), 1);
        assert_eq!(compared(json!({"status": "b"}), json!({"status": "a"})).len(), 1);
        assert_eq!(compared(json!({"pid": "1"}), json!({"pid": 1})).len(), 1);
        assert_eq!(compared(json!({"b": 1, "a": 1}), json!({"a": 1, "b": 1})).len(), 1);
    }
}
