//! The gateway, the generations and the handover in the report of `status`.

use codexd_core::config::Gateway;
use codexd_core::contract::status::{GatewayReport, GatewaySettingReport, GatewayStanding, GenerationReport};
use codexd_core::foreign_text::quote;
use codexd_core::generations::Role;
use codexd_core::identity::{Pid, Process};
use codexd_core::limits::{STATUS_THREADS_NAMED, THREAD_RETRY_MS_MAX};
use codexd_core::plural::counted;
use codexd_host::service::supervisor::OtherState;
use codexd_host::{Home, atomic, launch, process};
use serde::Deserialize;
use serde_json::Value;

use super::Found;

/// The fields of `gateway.json`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct GatewayFile {
    gateway: Process,
    handover: Option<Value>,
    not_loaded: Option<NotLoaded>,
}

/// The threads that the app-server cannot load.
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

/// The gateway in the settings.
pub fn setting(gateway: Gateway) -> GatewaySettingReport {
    let listen = gateway.listen().map(|address| format!("ws://{address}"));
    let subagent_approvals = gateway.is_on().then(|| gateway.subagent_approvals().as_str());
    GatewaySettingReport { enabled: gateway.is_on(), listen, subagent_approvals }
}

/// The gateway that runs or is missing; `None` if none is needed.
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

/// The TCP address of the gateway as a URL.
fn listens_at(found: &Found, pid: Pid) -> Option<String> {
    if let Some(settings) = &found.gateway_settings {
        let listener = settings.listener.as_ref().filter(|listener| listener.error.is_none());
        return listener.map(|listener| listener.listen.clone());
    }
    // An older gateway does not write down where it listens.
    Some(format!("ws://{}", launch::gateway::listen_argument(pid)?))
}

/// The running servers, the current one first.
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

/// The last report of the running gateway about a handover.
pub fn handover(home: &Home) -> Option<Value> {
    gateway_file(home)?.handover
}

/// A sentence about the threads that the app-server cannot load.
pub fn not_loaded(home: &Home) -> Option<String> {
    let NotLoaded { count, threads } = gateway_file(home)?.not_loaded?;
    let named: Vec<String> = (threads.iter().take(STATUS_THREADS_NAMED))
        .map(|thread| format!("{} ({})", quote(&thread.thread_id), quote(&thread.reason)))
        .collect();
    let more = count.saturating_sub(named.len());
    let more = if more == 0 { String::new() } else { format!(", and {more} more") };
    (count > 0).then(|| {
        format!(
            "the app-server cannot load {} (retried at least every {} s): {}{more}",
            counted(count, "thread"),
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
