//! Everything that an app-server may ask its clients, beside the approval of a command (which is in `sharing`): asked by the
//! real one, through the gateway.
//!
//! Not run: `applyPatchApproval` and `execCommandApproval`, which 0.169.0 no longer sends.

use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use anyhow::{Context, ensure};
use codexd_testkit::home::Config;
use codexd_testkit::model::ModelEvent;
use codexd_testkit::{Client, Server, Version, codex, skip};
use serde_json::{Value, json};

use super::fixture::{GatewayFixture, TIMEOUT, join};

const REAL: Server = Server::Real(Version::NEWEST);

/// An MCP server whose only tool asks its caller for a name and gives back the answer.
const ASKER: &str = r#"#!/bin/sh
while IFS= read -r line; do
    id=$(printf '%s' "$line" | sed -n 's/^{"jsonrpc":"2.0","id":\([0-9]*\),.*/\1/p')
    answer() { printf '{"jsonrpc":"2.0","id":%s,"result":%s}\n' "$1" "$2"; }
    case $line in
    *'"method":"initialize"'*) answer "$id" '{"protocolVersion":"2025-06-18","capabilities":{"tools":{}},"serverInfo":{"name":"asker","version":"1"}}' ;;
    *'"method":"tools/list"'*) answer "$id" '{"tools":[{"name":"ask","description":"asks","inputSchema":{"type":"object","properties":{}},"annotations":{"readOnlyHint":true}}]}' ;;
    *'"method":"tools/call"'*) call=$id
        printf '%s\n' '{"jsonrpc":"2.0","id":1000,"method":"elicitation/create","params":{"message":"Who are you?","requestedSchema":{"type":"object","properties":{"name":{"type":"string"}},"required":["name"]}}}' ;;
    *'"method"'*) test -z "$id" || answer "$id" '{}' ;;
    *) answer "$call" "{\"content\":[{\"type\":\"text\",\"text\":\"asked\"}],\"structuredContent\":$line}" ;;
    esac
done
"#;

/// A kind of question.
#[derive(Clone, Copy)]
struct Kind {
    method: &'static str,
    /// What makes the model cause it.
    text: &'static str,
    /// The answer, and what of it the model must see.
    answer: fn() -> Value,
    seen: &'static str,
    /// Whether the server says when it does not matter any more.
    is_resolved: bool,
}

const FILE_CHANGE: Kind = Kind {
    method: "item/fileChange/requestApproval",
    text: "[[shell=apply_patch <<'EOF'\n*** Begin Patch\n*** Add File: made.txt\n+hello\n*** End Patch\nEOF\n;; deltas=1]]",
    answer: || json!({"decision": "accept"}),
    seen: "Success. Updated the following files",
    is_resolved: true,
};
const PERMISSIONS: Kind = Kind {
    method: "item/permissions/requestApproval",
    text: r#"[[tool=request_permissions {"reason":"r","permissions":{"network":{"enabled":true}}};; deltas=1]]"#,
    answer: || json!({"permissions": {"network": {"enabled": true}}, "scope": "turn"}),
    seen: r#"{\"network\":{\"enabled\":true}"#,
    is_resolved: true,
};
const USER_INPUT: Kind = Kind {
    method: "item/tool/requestUserInput",
    text: r#"[[tool=request_user_input {"questions":[{"id":"q","header":"H","question":"Which?","options":[
        {"label":"left","description":"l"},{"label":"right","description":"r"}]}]};; deltas=1]]"#,
    answer: || json!({"answers": {"q": {"answers": ["right"]}}}),
    seen: r#"[\"right\"]"#,
    is_resolved: true,
};
const ELICITATION: Kind = Kind {
    method: "mcpServer/elicitation/request",
    text: "[[tool=mcp__asker/ask {};; deltas=1]]",
    answer: || json!({"action": "accept", "content": {"name": "somebody"}}),
    seen: r#"{\"name\":\"somebody\"}"#,
    is_resolved: true,
};
const TOOL_CALL: Kind = Kind {
    method: "item/tool/call",
    text: r#"[[tool=lookup {"q":"x"};; deltas=1]]"#,
    answer: || json!({"contentItems": [{"type": "inputText", "text": "looked up"}], "success": true}),
    seen: "looked up",
    is_resolved: false,
};

macro_rules! kinds {
    ($($name:ident: $kind:ident;)+) => {
        $(mod $name {
            #[tokio::test]
            async fn a_request_is_answered_by_the_first_client_and_sent_to_a_later_viewer() -> anyhow::Result<()> {
                if let Err(reason) = codexd_testkit::codex::platform() {
                    codexd_testkit::skip!("{reason}");
                }
                super::answered(super::$kind).await
            }

            #[tokio::test]
            async fn is_over_when_its_turn_is_interrupted() -> anyhow::Result<()> {
                if let Err(reason) = codexd_testkit::codex::platform() {
                    codexd_testkit::skip!("{reason}");
                }
                super::interrupted(super::$kind).await
            }
        })+
    };
}

kinds! {
    the_approval_of_a_file_change: FILE_CHANGE;
    the_approval_of_permissions: PERMISSIONS;
    the_input_of_a_user: USER_INPUT;
    an_elicitation: ELICITATION;
    the_call_of_a_tool_of_the_client: TOOL_CALL;
}

/// A question that alice and bob were asked, and one who has joined since.
struct Question {
    fixture: GatewayFixture,
    kind: Kind,
    thread: String,
    turn: String,
    alice: Client,
    bob: Client,
    late: Client,
    id: Value,
}

impl Question {
    async fn ask(kind: Kind) -> anyhow::Result<Question> {
        let fixture = GatewayFixture::configured(REAL, |home, model| {
            let asker = home.write("asker", ASKER)?;
            std::fs::set_permissions(&asker, std::fs::Permissions::from_mode(0o755))?;
            let tables = format!(
                "[features]\nrequest_permissions_tool = true\ndefault_mode_request_user_input = true\n\
                 [mcp_servers.asker]\ncommand = {:?}\n",
                asker.to_string_lossy()
            );
            home.configure(&Config { tables, ..Config::for_model(model) })
        })
        .await?;
        let (alice, bob) = (fixture.client("alice").await?, fixture.client("bob").await?);
        let tool = json!({"type": "function", "name": "lookup", "description": "looks up",
            "inputSchema": {"type": "object", "properties": {"q": {"type": "string"}}}});
        let params = json!({"cwd": fixture.work(), "sandbox": "read-only", "dynamicTools": [tool]});
        let thread = alice.call("thread/start", params).await?["thread"]["id"].clone();
        let thread = thread.as_str().context("an id")?.to_owned();
        alice.turn(&thread, "[[deltas=1]]").await?;
        join(&bob, &thread).await?;
        let turn = alice.start_turn(&thread, kind.text).await?;
        let asked = alice.wait_method(kind.method).await?;
        let id = asked["id"].clone();
        ensure!(asked["params"]["threadId"] == thread.as_str(), "{asked}");
        ensure!(bob.wait_method(kind.method).await? == asked, "bob was asked something else");
        let late = fixture.client("late").await?;
        join(&late, &thread).await?;
        ensure!(late.wait_method(kind.method).await? == asked, "it is the same for who joins");
        Ok(Question { fixture, kind, thread, turn, alice, bob, late, id })
    }

    /// The turn has ended so for everybody, each was asked once, and told that it is settled if the server says so.
    async fn settle(self, status: &str) -> anyhow::Result<GatewayFixture> {
        for client in [&self.alice, &self.bob, &self.late] {
            let end = client.wait_turn(&self.turn).await?;
            ensure!(end["params"]["turn"]["status"] == status, "{end}");
            if self.kind.is_resolved {
                client.wait_method("serverRequest/resolved").await?;
            }
            // Whatever else there was to tell has been told when this is answered.
            client.call("thread/read", json!({"threadId": self.thread})).await?;
            let told = client.received();
            let count = |method: &str| told.iter().filter(|told| told["method"] == *method).count();
            let resolved = usize::from(self.kind.is_resolved);
            ensure!(count(self.kind.method) == 1 && count("serverRequest/resolved") == resolved, "{told:#?}");
            let is_other = |told: &&Value| {
                told["method"] == "serverRequest/resolved" && told["params"]["requestId"] != self.id
            };
            ensure!(told.iter().find(is_other).is_none(), "{told:#?}");
        }
        let last = self.fixture.client("last").await?;
        join(&last, &self.thread).await?;
        last.call("thread/read", json!({"threadId": self.thread})).await?;
        let asked = last.received().into_iter().find(|told| told["method"] == self.kind.method);
        ensure!(asked.is_none(), "it is over: {asked:?}");
        Ok(self.fixture)
    }
}

async fn answered(kind: Kind) -> anyhow::Result<()> {
    let question = Question::ask(kind).await?;
    question.bob.respond(&question.id, (kind.answer)()).await?;
    question.bob.wait_turn(&question.turn).await?;
    // Too late: this changes nothing.
    let error = json!({"id": question.id, "error": {"code": 1, "message": "no"}});
    question.alice.send(error).await?;
    let seen = question.fixture.model.requests().pop().context("the model was asked")?;
    let output = seen.body["input"].as_array().and_then(|input| {
        input.iter().rfind(|item| item["type"] == "function_call_output").map(ToString::to_string)
    });
    let output = output.context("the model is told what came of it")?;
    ensure!(output.contains(kind.seen) || output.replace(r"\\", "").contains(kind.seen), "{output}");
    question.settle("completed").await?.close().await
}

async fn interrupted(kind: Kind) -> anyhow::Result<()> {
    let question = Question::ask(kind).await?;
    let params = json!({"threadId": question.thread, "turnId": question.turn});
    question.bob.call("turn/interrupt", params).await?;
    question.settle("interrupted").await?.close().await
}

/// A home whose model wants an account, and which is told the time by its clients.
async fn with_account() -> anyhow::Result<GatewayFixture> {
    // 0.171.0 refuses `thread/start` with this made-up account.
    GatewayFixture::configured(Server::Real(Version::V0_169_0), |home, model| {
        let url = model.url();
        let tables = format!(
            "[model_providers.authed]\nname = \"authed\"\nwire_api = \"responses\"\nbase_url = \"{url}\"\n\
             request_max_retries = 0\nstream_max_retries = 0\nrequires_openai_auth = true\n\
             [features.current_time_reminder]\nenabled = true\nclock_source = \"external\"\n\
             reminder_interval_seconds = 0\n"
        );
        let top_level = format!("chatgpt_base_url = \"{url}\"");
        home.configure(&Config { tables, top_level, ..Config::for_model(model) })
    })
    .await
}

/// An unsigned token: only the signature tells it from a valid one. No algorithm,
/// an expiry far away, the account `a`.
fn token(signature: &str) -> String {
    const CLAIMS: &str = "eyJleHAiOjk5OTk5OTk5OTksImh0dHBzOi8vYXBpLm9wZW5haS5jb20vYXV0aCI6eyJjaGF0Z3B0X2FjY291\
        bnRfaWQiOiJhIiwiY2hhdGdwdF9wbGFuX3R5cGUiOiJwcm8iLCJjaGF0Z3B0X3VzZXJfaWQiOiJ1In19";
    format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{CLAIMS}.{signature}")
}

#[tokio::test]
async fn every_client_is_asked_once_for_a_fresh_token_and_the_first_answer_counts() -> anyhow::Result<()> {
    const ASKED: &str = "account/chatgptAuthTokens/refresh";
    if let Err(reason) = codex::platform() {
        skip!("{reason}");
    }
    let fixture = with_account().await?;
    let (alice, bob) = (fixture.client("alice").await?, fixture.client("bob").await?);
    let plain = fixture.client_with("plain", json!({})).await?;
    let login = json!({"type": "chatgptAuthTokens", "accessToken": token("b2xk"), "chatgptAccountId": "a"});
    alice.call("account/login/start", login).await?;
    alice.answer_requests(|asked| {
        (asked["method"] == "currentTime/read").then(|| json!({"currentTimeAt": 1_800_000_000}))
    });
    bob.call("thread/list", json!({})).await?;
    let params = json!({"cwd": fixture.work(), "modelProvider": "authed"});
    let thread = alice.call("thread/start", params).await?["thread"]["id"].clone();
    let turn = alice.start_turn(thread.as_str().context("an id")?, "[[fail=401]]").await?;
    for client in [&alice, &bob, &plain] {
        client.wait_method(ASKED).await?;
    }
    let asked = bob.wait_method(ASKED).await?;
    bob.respond(&asked["id"], json!({"accessToken": token("bmV3"), "chatgptAccountId": "a"})).await?;
    let fresh = format!("Bearer {}", token("bmV3"));
    let is_fresh = |events: &[ModelEvent]| {
        let received = events.iter().filter_map(|event| match event {
            ModelEvent::Received(request) => Some(request),
            _ => None,
        });
        received.flat_map(|request| &request.headers).find(|(_, value)| *value == fresh).map(drop)
    };
    fixture.model.wait_event("a request with the fresh token", TIMEOUT, is_fresh).await?;
    alice.wait_turn(&turn).await?;
    for client in [&alice, &bob, &plain] {
        client.call("thread/loaded/list", json!({})).await?;
        let asked = client.received().iter().filter(|told| told["method"] == ASKED).count();
        // The turn has ended after one answer: there was one question.
        ensure!(asked == 1, "asked {asked} times");
    }
    fixture.close().await
}

#[tokio::test]
async fn every_viewer_is_asked_for_the_time_and_the_first_answer_counts() -> anyhow::Result<()> {
    if let Err(reason) = codex::platform() {
        skip!("{reason}");
    }
    let fixture = with_account().await?;
    let (alice, bob) = (fixture.client_with("alice", json!({})).await?, fixture.client("bob").await?);
    let thread = alice.start_thread(&fixture.work()).await?;
    for (client, time) in [(&alice, 1_800_000_000), (&bob, 1_800_000_000 + 60)] {
        client.answer_requests(move |asked| {
            (asked["method"] == "currentTime/read").then(|| json!({"currentTimeAt": time}))
        });
    }
    let done = alice.turn(&thread, "[[deltas=1]]").await?;
    ensure!(done["params"]["turn"]["status"] == "completed", "{done}");
    ensure!(alice.received().iter().any(|told| told["method"] == "currentTime/read"), "alice was not asked");
    join(&bob, &thread).await?;
    // A server alone would refuse this: it wants one subscriber to ask, and the gateway is one.
    let done = alice.turn(&thread, "[[deltas=2]]").await?;
    ensure!(done["params"]["turn"]["status"] == "completed", "{done}");
    let asked = bob.wait_method("currentTime/read").await?;
    ensure!(asked["params"]["threadId"] == thread.as_str(), "{asked}");
    let last = fixture.client("last").await?;
    join(&last, &thread).await?;
    last.call("thread/read", json!({"threadId": thread})).await?;
    let asked = last.received().into_iter().find(|told| told["method"] == "currentTime/read");
    ensure!(asked.is_none(), "it is over: {asked:?}");
    fixture.close().await
}

#[tokio::test]
async fn the_attestation_of_a_client_reaches_the_model() -> anyhow::Result<()> {
    const ASKED: &str = "attestation/generate";
    if let Err(reason) = codex::platform() {
        skip!("{reason}");
    }
    let fixture = with_account().await?;
    let able = json!({"experimentalApi": true, "requestAttestation": true});
    let (alice, bob) = (fixture.client_with("alice", able).await?, fixture.client("bob").await?);
    for client in [&alice, &bob] {
        client.answer_requests(|asked| match asked["method"].as_str() {
            Some("currentTime/read") => Some(json!({"currentTimeAt": 1_800_000_000})),
            Some(ASKED) => Some(json!({"token": "the word of alice"})),
            _ => None,
        });
    }
    let login = json!({"type": "chatgptAuthTokens", "accessToken": token("b2xk"), "chatgptAccountId": "a"});
    bob.call("account/login/start", login).await?;
    let params = json!({"cwd": fixture.work(), "modelProvider": "authed"});
    let thread = bob.call("thread/start", params).await?["thread"]["id"].clone();
    let thread = thread.as_str().context("an id")?;
    let attested = |fixture: &GatewayFixture| {
        let last = fixture.model.requests().pop();
        let headers = last.map(|request| request.headers).unwrap_or_default();
        headers.into_iter().find(|(name, _)| name.eq_ignore_ascii_case("x-oai-attestation"))
    };
    // A server waits a tenth of a second for the word, and goes on without it.
    let began = Instant::now();
    loop {
        let done = bob.turn(thread, "[[deltas=1]]").await?;
        ensure!(done["params"]["turn"]["status"] == "completed", "{done}");
        let header = attested(&fixture);
        if header.as_ref().is_some_and(|(_, value)| value.contains("the word of alice")) {
            break;
        }
        ensure!(began.elapsed() < TIMEOUT, "the model is told {header:?}");
    }
    ensure!(bob.received().iter().all(|told| told["method"] != ASKED), "bob cannot attest");
    // Without one who can, nothing waits.
    alice.close().await?;
    let done = bob.turn(thread, "[[deltas=1]]").await?;
    ensure!(done["params"]["turn"]["status"] == "completed", "{done}");
    let header = attested(&fixture);
    ensure!(header.as_ref().is_none_or(|(_, value)| !value.contains("the word of alice")), "{header:?}");
    fixture.close().await
}
