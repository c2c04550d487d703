use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::{MockModel, ModelEvent};

const TIMEOUT: Duration = Duration::from_secs(10);

fn ask(model: &MockModel, text: &str) -> TcpStream {
    let body = format!(r#"{{"model":"m","input":[{{"role":"user","content":"{text}"}}]}}"#);
    let mut stream = TcpStream::connect(model.address).expect("it listens");
    let head =
        "POST /v1/responses HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n";
    write!(stream, "{head}content-length: {}\r\n\r\n{body}", body.len()).expect("sent");
    stream
}

fn answer(mut stream: TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    text
}

#[test]
fn an_answer_has_the_pieces_that_were_asked_for() {
    let model = MockModel::start().expect("a model");
    let text = answer(ask(&model, "hello [[deltas=3 batch=2]]"));
    assert_eq!(text.matches("event: response.output_text.delta").count(), 3, "{text}");
    assert!(text.contains("event: response.completed"), "{text}");
    assert_eq!(model.requests()[0].user_message, "hello [[deltas=3 batch=2]]");
}

#[test]
fn a_failure_is_given_as_asked() {
    let model = MockModel::start().expect("a model");
    assert!(answer(ask(&model, "[[fail=429]]")).starts_with("HTTP/1.1 429"));
    assert!(answer(ask(&model, "[[fail=sse]]")).contains("event: response.failed"));
    let cut = answer(ask(&model, "[[fail=drop]]"));
    assert!(!cut.contains("\r\n0\r\n"), "the answer was closed properly: {cut}");
}

#[test]
fn a_held_answer_waits_for_its_release() {
    let model = MockModel::start().expect("a model");
    let stream = ask(&model, "[[hold=a]]");
    crate::block_on(model.wait_request("hold=a", TIMEOUT)).expect("it came");
    assert!(!model.events().iter().any(|event| matches!(event, ModelEvent::Finished { .. })));
    model.release("a");
    assert!(answer(stream).contains("event: response.completed"));
}

#[test]
fn hanging_up_on_a_held_answer_is_seen() {
    let model = MockModel::start().expect("a model");
    let stream = ask(&model, "[[hold=a]]");
    crate::block_on(async {
        model.wait_request("hold=a", TIMEOUT).await.expect("it came");
        drop(stream);
        let gone = |events: &[ModelEvent]| {
            events.iter().any(|event| matches!(event, ModelEvent::Abandoned { .. })).then_some(())
        };
        model.wait_event("the hang-up", TIMEOUT, gone).await.expect("seen");
    });
}
