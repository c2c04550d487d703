//! `codexd remote-control [start|stop|pair]`: as those of `codex remote-control`.

use std::time::{Duration, Instant};

use codexd_core::contract::{BootstrapReply, ErrorCode, Failure, LifecycleReply};
use codexd_host::service::backend;
use codexd_protocol::session::Session;
use serde::Serialize;
use serde_json::{Value, json};

use crate::cli::{GraceArgs, RemoteControlAction, StartArgs};
use crate::commands::{bootstrap, lifecycle, start, stop};
use crate::context::{Context, VERSION};
use crate::limits::{REMOTE_CONTROL_POLL_INTERVAL, REMOTE_CONTROL_TIMEOUT};
use crate::output::Answer;
use crate::style::Text;

/// The answer: that of the command that was run.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Reply {
    /// That of `bootstrap`.
    Bootstrapped(With<BootstrapReply>),
    /// That of `start`.
    Started(With<LifecycleReply>),
    /// That of `stop`.
    Stopped(lifecycle::Reply),
    /// The pairing of a device.
    Pairing(Pairing),
}

/// An answer with the state of the connection of remote control.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct With<A> {
    #[serde(flatten)]
    reply: A,
    /// As the app-server reports it; absent unless the command has waited for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    remote_control: Option<Value>,
}

/// What a person enters in the other device.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Pairing {
    status: &'static str,
    /// As the app-server has answered it.
    pairing: Value,
    codexd_version: &'static str,
}

impl Answer for Reply {
    fn text(&self) -> Text {
        let enabled = |state: Option<&Value>| {
            let name = state.and_then(|state| state["serverName"].as_str()).unwrap_or("this machine");
            Text::from("remote control is enabled on ").then(Text::quoted(name))
        };
        match self {
            Reply::Bootstrapped(with) => enabled(with.remote_control.as_ref()),
            Reply::Started(with) => enabled(with.remote_control.as_ref()),
            Reply::Stopped(reply) => reply.text(),
            Reply::Pairing(pairing) => {
                let mut text = Text::from("pairing started");
                for (name, value) in pairing.pairing.as_object().into_iter().flatten() {
                    let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                    text.push_line(Text::quoted(name).then(": ").then(Text::quoted(&value)));
                }
                text
            }
        }
    }
}

/// Runs the command.
///
/// # Errors
/// Those of `bootstrap`, `enable-remote-control`, `start` or `stop`; `remote-control-failed`.
pub fn run(context: &Context, action: Option<RemoteControlAction>) -> Result<Reply, Failure> {
    match action {
        None => ensure(context),
        Some(RemoteControlAction::Start) => {
            let mut reply = ensure(context)?;
            let state = await_connection(context)?;
            match &mut reply {
                Reply::Bootstrapped(with) => with.remote_control = Some(state),
                Reply::Started(with) => with.remote_control = Some(state),
                Reply::Stopped(_) | Reply::Pairing(_) => {}
            }
            Ok(reply)
        }
        Some(RemoteControlAction::Stop) => stop::run(context, &GraceArgs::default()).map(Reply::Stopped),
        Some(RemoteControlAction::Pair) => pair(context),
    }
}

/// Bootstraps a home that never was, else enables remote control and starts the server.
fn ensure(context: &Context) -> Result<Reply, Failure> {
    if backend::recorded(&context.home).is_none() {
        let args = crate::cli::BootstrapArgs { remote_control: true, backend: crate::cli::BackendArg::Auto };
        let bootstrap::Reply(reply) = bootstrap::run(context, &args)?;
        return Ok(Reply::Bootstrapped(With { reply, remote_control: None }));
    }
    super::run(context, true, &GraceArgs::default())?;
    let lifecycle::Reply(reply) = start::run(context, &StartArgs::default())?;
    Ok(Reply::Started(With { reply, remote_control: None }))
}

fn session(context: &Context, timeout: Duration) -> Result<Session, Failure> {
    let socket = context.home.control_socket();
    Session::open(&socket, VERSION, timeout).map_err(|why| {
        let message = format!("no app-server answers on {}: {why}", socket.display());
        Failure::new(ErrorCode::NotAnswering, message).hint("start one with `codexd remote-control start`")
    })
}

/// Waits until the app-server is connected, or has given up.
fn await_connection(context: &Context) -> Result<Value, Failure> {
    let mut session = session(context, REMOTE_CONTROL_TIMEOUT)?;
    let deadline = Instant::now() + REMOTE_CONTROL_TIMEOUT - REMOTE_CONTROL_POLL_INTERVAL;
    loop {
        let state = match session.call("remoteControl/status/read", &json!({})) {
            Ok(Ok(state)) => state,
            Ok(Err(error)) => return Err(refused("remoteControl/status/read", &error)),
            Err(why) => return Err(Failure::new(ErrorCode::RemoteControlFailed, why)),
        };
        let status = state["status"].as_str().unwrap_or_default();
        if status == "connected" {
            return Ok(state);
        }
        if Instant::now() >= deadline {
            let name = state["serverName"].as_str().unwrap_or("this machine");
            let message = format!("remote control is enabled on {name}, but its connection is {status}");
            return Err(Failure::new(ErrorCode::RemoteControlFailed, message)
                .hint("log in with `codex login`; the app-server keeps running and tries again")
                .with("remoteControl", state));
        }
        codexd_host::poll::pause(REMOTE_CONTROL_POLL_INTERVAL);
    }
}

fn pair(context: &Context) -> Result<Reply, Failure> {
    let mut session = session(context, REMOTE_CONTROL_TIMEOUT)?;
    match session.call("remoteControl/pairing/start", &json!({})) {
        Ok(Ok(pairing)) => {
            Ok(Reply::Pairing(Pairing { status: "pairing", pairing, codexd_version: VERSION }))
        }
        Ok(Err(error)) => Err(refused("remoteControl/pairing/start", &error)),
        Err(why) => Err(Failure::new(ErrorCode::RemoteControlFailed, why)),
    }
}

/// The app-server refused, in its words.
fn refused(method: &str, error: &Value) -> Failure {
    let why = error["message"].as_str().unwrap_or("no reason was given");
    let message = format!("{method} failed: {}", codexd_core::foreign_text::quote(why));
    Failure::new(ErrorCode::RemoteControlFailed, message)
}
