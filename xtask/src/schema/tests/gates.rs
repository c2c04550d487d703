//! The gates beside a real server: its answers to a client without `experimentalApi`.

use codexd_gateway::routes::gates::{CODE, check};
use codexd_gateway::routes::methods::{self, Gate};
use codexd_testkit::{AppServer, Client, Home, Server, Version, codex, skip};
use serde_json::value::to_raw_value;
use serde_json::{Value, json};

const NO_THREAD: &str = "01a1fe43-f03d-7091-913e-8b833a7015a4";

/// What the server says to this request, and what we would have said.
async fn both(client: &Client, method: &str, params: &Value) -> anyhow::Result<(String, Option<String>)> {
    let answer = client.request(method, params.clone()).await?;
    let theirs = answer.err().map_or(String::new(), |error| {
        if error.message.ends_with("requires experimentalApi capability") {
            assert_eq!(error.code, CODE, "{method}");
        }
        error.message
    });
    Ok((theirs, check(method, Some(&to_raw_value(params)?), false).err()))
}

/// Whether the two say the same: the same gate, or both none. Params that are wrong deep inside are the server's to see.
fn agree(theirs: &str, ours: Option<&str>) -> bool {
    match ours {
        Some(ours) => theirs == ours || theirs.starts_with("Invalid request: "),
        None => !theirs.ends_with("requires experimentalApi capability"),
    }
}

/// The least that a method takes.
fn least(method: &str, home: &Home) -> Value {
    match method {
        "thread/start" => json!({"cwd": home.work()}),
        "command/exec" => json!({"command": ["true"]}),
        "thread/list" => json!({}),
        "turn/start" => json!({"threadId": NO_THREAD, "input": []}),
        "turn/steer" => json!({"threadId": NO_THREAD, "input": [], "expectedTurnId": "x"}),
        _ => json!({"threadId": NO_THREAD}),
    }
}

#[tokio::test]
async fn the_gates_judge_as_the_real_server_does() -> anyhow::Result<()> {
    if let Err(reason) = codex::platform() {
        skip!("{reason}");
    }
    let home = Home::new()?;
    let server = AppServer::start(&home, Server::Real(Version::V0_171_0)).await?;
    let client = Client::dial(server.place()).await?;
    client.initialize("plain", json!({})).await?;
    let mut gated = 0;
    let mut differ = Vec::new();
    let mut judge = |method: &str, params: &Value, theirs: String, ours: Option<String>| {
        gated += usize::from(ours.as_deref() == Some(&theirs));
        if !agree(&theirs, ours.as_deref()) {
            differ.push(format!("{method} {params}: the server says {theirs:?}, the gate {ours:?}"));
        }
    };
    let gated_methods = methods::all().filter(|row| matches!(row.gate, Gate::Method(_)));
    for method in gated_methods.map(|row| row.name) {
        for params in [json!({}), json!([]), Value::Null, json!({"threadId": NO_THREAD})] {
            let (theirs, ours) = both(&client, method, &params).await?;
            judge(method, &params, theirs, ours);
        }
    }
    let policy = json!({"granular": {"sandbox_approval": true, "rules": true, "mcp_elicitations": true}});
    for row in methods::all() {
        let (method, Gate::Members(fields)) = (row.name, row.gate) else { continue };
        for (field, _) in fields {
            for value in [
                json!(null),
                json!(false),
                json!(true),
                json!([]),
                json!({}),
                json!(""),
                json!("/x"),
                json!(0),
                policy.clone(),
            ] {
                let mut params = least(method, &home);
                params[*field] = value;
                let (theirs, ours) = both(&client, method, &params).await?;
                judge(method, &params, theirs, ours);
            }
        }
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
    assert!(gated > 60, "only {gated} of the requests were gated by both");
    Ok(())
}
