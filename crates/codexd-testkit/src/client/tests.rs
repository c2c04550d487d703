use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::{Client, Place};

/// A server that answers each message of its one client with these, then closes when asked to `leave`.
async fn client_of(replies: fn(&Value) -> Vec<Value>) -> (tempfile::TempDir, Client) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("s");
    let listener = UnixListener::bind(&path).expect("bound");
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("a client");
        let mut socket = tokio_tungstenite::accept_async(stream).await.expect("a handshake");
        while let Some(Ok(Message::Text(text))) = socket.next().await {
            let message: Value = serde_json::from_str(&text).expect("JSON");
            for reply in replies(&message) {
                socket.send(Message::text(reply.to_string())).await.expect("sent");
            }
            if message["method"] == "leave" {
                let frame = CloseFrame { code: CloseCode::Away, reason: "bye".into() };
                socket.close(Some(frame)).await.expect("closed");
            }
        }
    });
    (folder, Client::dial(&Place::from(path)).await.expect("connected"))
}

fn echo(message: &Value) -> Vec<Value> {
    vec![json!({"method": "note", "params": 1}), json!({"id": message["id"], "result": message["params"]})]
}

#[tokio::test]
async fn an_answer_is_found_behind_a_notification() {
    let (_folder, client) = client_of(echo).await;
    assert_eq!(client.call("a", json!({"b": 2})).await.expect("answered"), json!({"b": 2}));
    assert_eq!(client.wait_method("note").await.expect("it came first")["params"], 1);
    client.forget();
    assert!(client.received().is_empty());
}

#[tokio::test]
async fn an_error_answer_keeps_its_code() {
    let refuse = |message: &Value| vec![json!({"id": message["id"], "error": {"code": -5, "message": "no"}})];
    let (_folder, client) = client_of(refuse).await;
    let error = client.request("a", json!({})).await.expect("answered").expect_err("refused");
    assert_eq!((error.code, error.message.as_str()), (-5, "no"));
    assert!(client.call("a", json!({})).await.is_err());
}

#[tokio::test]
async fn a_wait_in_vain_tells_what_came_instead() {
    let (_folder, client) = client_of(echo).await;
    client.call("a", json!({})).await.expect("answered");
    let client = client.with_patience(Duration::from_millis(50));
    let error = client.wait_method("never").await.expect_err("it never comes").to_string();
    assert!(error.contains("never") && error.contains("note"), "{error}");
}

#[tokio::test]
async fn the_servers_closing_frame_is_kept_and_ends_every_wait() {
    let (_folder, client) = client_of(|_| Vec::new()).await;
    let error = client.call("leave", json!({})).await.expect_err("it left").to_string();
    assert!(error.contains("bye"), "{error}");
    assert_eq!(client.wait_closed().await.expect("closed").frame, Some((1001, "bye".to_owned())));
}

#[tokio::test]
async fn requests_of_the_server_are_answered_at_once() {
    let ask = |message: &Value| match message["method"].as_str() {
        Some("ask") => vec![json!({"id": "q", "method": "approve", "params": {}})],
        Some(_) => Vec::new(),
        None => vec![json!({"method": "thanks", "params": message["result"]})],
    };
    let (_folder, client) = client_of(ask).await;
    client.answer_requests(|request| (request["method"] == "approve").then(|| json!({"yes": true})));
    client.notify("ask", Value::Null).await.expect("sent");
    let thanks = client.wait_method("thanks").await.expect("the answer arrived");
    assert_eq!(thanks["params"], json!({"yes": true}));
}
