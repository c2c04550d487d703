//! The part of `status` that tells of the gateway and of the servers behind it.

use codexd_core::contract::status::{GatewayReport, GatewaySettingReport, GatewayStanding, GenerationReport};
use codexd_core::foreign_text::quote;
use codexd_core::generations::Role;
use codexd_core::identity::{Pid, Process};
use codexd_core::limits::{STATUS_THREADS_NAMED, THREAD_RETRY_MS_MAX};
use codexd_core::settings::Gateway;
use codexd_host::service::supervisor::OtherState;
use codexd_host::{Home, atomic, process};
use serde::Deserialize;
use serde_json::Value;

use super::Found;
use crate::gateway_program;

/// What the gateway writes about itself.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct GatewayFile {
    gateway: Process,
    handover: Option<Value>,
    not_loaded: Option<NotLoaded>,
}

/// The threads that the app-server refuses to load.
#[derive(Deserialize)]
struct NotLoaded {
    count: usize,
    threads: Vec<RefusedThread>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RefusedThread {
    thread_id: String,
    reason: String,
}

/// What the settings say.
pub fn setting(gateway: Gateway) -> GatewaySettingReport {
    let listen = gateway.listen().map(|address| format!("ws://{address}"));
    let subagent_approvals = gateway.is_on().then(|| gateway.subagent_approvals().as_str());
    GatewaySettingReport { enabled: gateway.is_on(), listen, subagent_approvals }
}

/// The gateway, where there is one or should be.
pub fn gateway(found: &Found) -> Option<GatewayReport> {
    let known = found.supervisor.state.as_ref().and_then(|supervisor| supervisor.gateway.as_ref());
    let living =
        known.and_then(|gateway| gateway.process.as_ref()).filter(|gateway| process::is_alive(gateway));
    let needed =
        found.server.is_some() && found.codexd.as_ref().is_some_and(|record| record.socket.is_some());
    let restarts = known.map(|gateway| gateway.restarts).unwrap_or_default();
    match living {
        Some(gateway) => Some(GatewayReport {
            pid: Some(gateway.pid),
            state: GatewayStanding::Running,
            listen: listens_at(found, gateway.pid),
            restarts,
        }),
        None if needed => {
            Some(GatewayReport { pid: None, state: GatewayStanding::Missing, listen: None, restarts })
        }
        None => None,
    }
}

/// Where a gateway listens besides.
fn listens_at(found: &Found, pid: Pid) -> Option<String> {
    if let Some(settings) = &found.gateway_settings {
        let listener = settings.listener.as_ref().filter(|listener| listener.error.is_none());
        return listener.map(|listener| listener.listen.clone());
    }
    // An older gateway says nothing: where it was told to.
    let arguments = process::arguments(pid);
    let mut rest = arguments.iter().skip_while(|argument| *argument != gateway_program::LISTEN);
    Some(format!("ws://{}", rest.nth(1)?.to_str()?))
}

/// Every server that lives, the current one first.
pub fn generations(home: &Home, found: &Found) -> Vec<GenerationReport> {
    let supervisor = found.supervisor.state.as_ref();
    let version = || supervisor?.program.as_ref()?.version.clone();
    let current = found.server.as_ref().map(|server| GenerationReport {
        pid: server.pid,
        role: Role::Current,
        socket: found
            .codexd
            .as_ref()
            .and_then(|record| record.socket.clone())
            .unwrap_or(home.control_socket()),
        version: version()
            .filter(|_| supervisor.is_some_and(|supervisor| supervisor.server.as_ref() == Some(server))),
    });
    let others = supervisor.map(|supervisor| supervisor.others.as_slice()).unwrap_or_default();
    current.into_iter().chain(others.iter().filter_map(|other| report(home, other))).collect()
}

fn report(home: &Home, other: &OtherState) -> Option<GenerationReport> {
    let process = other.process.as_ref().filter(|process| process::is_alive(process))?;
    let socket = other.program.socket.clone().unwrap_or(home.control_socket());
    Some(GenerationReport {
        pid: process.pid,
        role: other.role,
        socket,
        version: other.program.version.clone(),
    })
}

/// What the gateway that lives has written about the last handover.
pub fn handover(home: &Home) -> Option<Value> {
    gateway_file(home)?.handover
}

/// Which threads the app-server refuses to load, and why: a sentence.
pub fn not_loaded(home: &Home) -> Option<String> {
    let NotLoaded { count, threads } = gateway_file(home)?.not_loaded?;
    let named: Vec<String> = (threads.iter().take(STATUS_THREADS_NAMED))
        .map(|thread| format!("{} ({})", quote(&thread.thread_id), quote(&thread.reason)))
        .collect();
    let more = count.saturating_sub(named.len());
    let more = if more == 0 { String::new() } else { format!(", and {more} more") };
    let threads = if count == 1 { "thread" } else { "threads" };
    (count > 0).then(|| {
        format!(
            "the app-server refuses to load {count} {threads}; retried every {} s at most: {}{more}",
            THREAD_RETRY_MS_MAX / 1_000,
            named.join(", ")
        )
    })
}

fn gateway_file(home: &Home) -> Option<GatewayFile> {
    let bytes = atomic::read(&home.gateway_state()).ok()??;
    let gateway_file: GatewayFile = serde_json::from_slice(&bytes).ok()?;
    process::is_alive(&gateway_file.gateway).then_some(gateway_file)
}
