//! Scenes about what needs an account or a device: without one, everything is refused in its own way. (The embedded server
//! knows nothing of it.)

use serde_json::json;

use super::stage::Stage;

/// A conversation by voice: it is begun, and told to have failed.
pub(super) async fn realtime(stage: &mut Stage) -> anyhow::Result<()> {
    let full = json!({"experimentalApi": true});
    let alice = stage.enter_with("alice", full.clone()).await?;
    let (bob, bystander) = (stage.enter_with("bob", full).await?, stage.enter("bystander").await?);
    let thread = alice.thread(stage).await?;
    alice.turn(&thread, "[[deltas=1]]").await?;
    bob.join(&thread).await?;
    alice.ask("thread/realtime/listVoices", json!({})).await?.ok();
    let audio = json!({"data": "AAAA", "sampleRate": 24_000, "numChannels": 1, "samplesPerChannel": 2});
    for (method, params, told) in [
        ("start", json!({"outputModality": "audio"}), "thread/realtime/error"),
        ("start", json!({"outputModality": "smell"}), ""),
        ("start", json!({"outputModality": "text", "prompt": "hi"}), "thread/realtime/error"),
        ("appendText", json!({"text": "hi"}), "error"),
        ("appendSpeech", json!({"text": "hi"}), "error"),
        ("appendAudio", json!({"audio": audio}), "error"),
        ("stop", json!({}), "thread/realtime/closed"),
    ] {
        let mut params = params;
        params["threadId"] = json!(thread);
        for client in [&alice, &bob] {
            client.forget();
        }
        let answer = alice.ask(&format!("thread/realtime/{method}"), params).await?;
        for client in [&alice, &bob].into_iter().filter(|_| answer.is_ok() && !told.is_empty()) {
            client.wait_method(told).await?;
        }
    }
    for client in [&alice, &bob] {
        bystander.forget();
        let turn = client.start_turn(&thread, "[[deltas=1]]").await?;
        for viewer in [&alice, &bob] {
            viewer.wait_turn(&turn).await?;
        }
        bystander.wait_status("idle").await?;
    }
    Ok(())
}

/// The verification of a user by a device, and remote control.
pub(super) async fn devices(stage: &mut Stage) -> anyhow::Result<()> {
    let alice = stage.enter_with("alice", json!({"experimentalApi": true})).await?;
    let plain = stage.enter("plain").await?;
    for client in [&alice, &plain] {
        for (method, params) in [
            ("userVerification/status", json!({})),
            ("userVerification/enroll", json!({})),
            ("userVerification/verify", json!({"challenge": "AAAA", "description": "d", "title": "t"})),
            ("userVerification/verify", json!({})),
            ("userVerification/cancel", json!({"requestId": 77})),
            ("userVerification/cancel", json!({})),
            ("userVerification/delete", json!({})),
            ("remoteControl/status/read", json!({})),
            ("remoteControl/enable", json!({})),
            ("remoteControl/disable", json!({})),
            ("remoteControl/pairing/start", json!({})),
            ("remoteControl/pairing/status", json!({})),
            ("remoteControl/client/list", json!({"environmentId": "e"})),
            ("remoteControl/client/list", json!({})),
            ("remoteControl/client/revoke", json!({"environmentId": "e", "clientId": "c"})),
        ] {
            client.ask(method, params).await?.ok();
        }
    }
    Ok(())
}
