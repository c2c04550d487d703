//! Requests: validated in upstream's order, then dispatched to their handlers.

use codexd_protocol::RequestId;
use serde_json::json;

use crate::call::Call;
use crate::ids::{ConnectionId, ThreadId};
use crate::model::shared_state::Origin;
use crate::model::{Lookup, State};
use crate::params::InitializeParams;
use crate::refusal::Refusal;

impl State {
    /// Responds to a request exactly once.
    pub(crate) fn answer(
        &mut self,
        connection: ConnectionId,
        id: &RequestId,
        call: Result<Call, Refusal>,
        lookup: Lookup,
    ) {
        let origin = Origin { connection, id };
        let judged = call.and_then(|call| self.judge(connection, call));
        if let Err(refusal) = judged.and_then(|(call, thread)| self.handle(origin, call, thread, lookup)) {
            self.shared.reply(origin, Err(refusal));
        }
    }

    fn judge(&self, connection: ConnectionId, call: Call) -> Result<(Call, Option<ThreadId>), Refusal> {
        let client = self.shared.connections.client(connection);
        match (&call, client) {
            (Call::Initialize(_), Some(_)) => return Err(Refusal::invalid("Already initialized")),
            (Call::Initialize(_), None) => return Ok((call, None)),
            (_, None) => return Err(Refusal::invalid("Not initialized")),
            (_, Some(client)) => {
                if let (Some(method), false) = (call.experimental(), client.experimental) {
                    return Err(Refusal::invalid(format!("{method} requires experimentalApi capability")));
                }
            }
        }
        if self.shared.draining && call.refused_while_draining() {
            return Err(Refusal::draining());
        }
        let thread = call.thread()?;
        Ok((call, thread))
    }

    /// Responds, or returns the error to respond with.
    fn handle(
        &mut self,
        origin: Origin<'_>,
        call: Call,
        thread: Option<ThreadId>,
        lookup: Lookup,
    ) -> Result<(), Refusal> {
        match (call, thread) {
            (Call::Initialize(params), _) => self.initialize(origin, &params),
            (Call::Diagnostics, _) => self.diagnostics(origin, &lookup),
            (Call::ThreadStart(params), _) => self.thread_start(origin, params),
            (Call::ThreadList(params), _) => self.thread_list(origin, &params, lookup),
            (Call::ThreadLoadedList, _) => self.thread_loaded_list(origin),
            (Call::ThreadResume(params), Some(id)) => self.thread_resume(origin, id, &params, lookup)?,
            (Call::ThreadRead(params), Some(id)) => self.thread_read(origin, id, &params, lookup)?,
            (Call::ThreadTurnsList(params), Some(id)) => {
                self.thread_turns_list(origin, id, &params, lookup)?;
            }
            (Call::ThreadUnsubscribe(_), Some(id)) => self.thread_unsubscribe(origin, id),
            (Call::ThreadSetName(params), Some(id)) => self.thread_set_name(origin, id, &params, lookup)?,
            (Call::ThreadArchive(_), Some(id)) => self.thread_archive(origin, id, lookup)?,
            (Call::ThreadUnarchive(_), Some(id)) => self.thread_unarchive(origin, id, lookup)?,
            (Call::TurnStart(params), Some(id)) => self.turn_start(origin, id, params)?,
            (Call::TurnSteer(params), Some(id)) => self.turn_steer(origin, id, params)?,
            (Call::TurnInterrupt(params), Some(id)) => self.turn_interrupt(origin, id, &params)?,
            (Call::Unsupported(method), _) => return Err(Refusal::unsupported(&method)),
            (_, None) => return Err(Refusal::malformed("missing field `threadId`")),
        }
        Ok(())
    }

    fn initialize(&mut self, origin: Origin<'_>, params: &InitializeParams) {
        let shared = &mut self.shared;
        let originator = shared.connections.initialize(origin.connection, params);
        let (settings, client) = (&shared.settings, &params.client_info);
        let user_agent = format!(
            "{originator}/{} ({}; {}) codexd-embedded ({}; {})",
            settings.version,
            std::env::consts::OS,
            std::env::consts::ARCH,
            client.name,
            client.version,
        );
        let result = json!({
            "userAgent": user_agent,
            "codexHome": settings.codex_home,
            "platformFamily": std::env::consts::FAMILY,
            "platformOs": std::env::consts::OS,
        });
        let status = json!({
            "status": if settings.remote_control { "errored" } else { "disabled" },
            "serverName": settings.server_name,
            "installationId": settings.installation_id,
            "environmentId": null,
        });
        shared.reply(origin, Ok(result));
        shared.notify_client(origin.connection, "remoteControl/status/changed", &status);
    }

    fn diagnostics(&mut self, origin: Origin<'_>, lookup: &Lookup) {
        let resident = match lookup {
            Lookup::Memory { resident_bytes } => Some(resident_bytes),
            _ => None,
        };
        let running = self.threads.values().filter(|thread| thread.running.is_some()).count();
        let gauge = |name: &str, value: usize| json!({"name": name, "value": value});
        let result = json!({
            "process": {
                "id": std::process::id(), "residentMemoryBytes": resident, "physicalFootprintBytes": null,
            },
            "gauges": [
                gauge("app.requests.in_flight", 1),
                gauge("app.server_requests.pending", self.shared.approvals.len()),
                gauge("core.threads.live", self.threads.len()),
                gauge("core.turns.active", running),
            ],
        });
        self.shared.reply(origin, Ok(result));
    }
}
