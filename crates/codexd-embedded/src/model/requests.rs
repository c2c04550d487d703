//! Requests: judged in upstream's order, then handed to who knows about them.

use codexd_protocol::RequestId;
use serde_json::json;

use crate::call::Call;
use crate::ids::{ConnectionId, ThreadId};
use crate::model::hall::Asker;
use crate::model::{Shelf, State};
use crate::params::InitializeParams;
use crate::refusal::Refusal;

impl State {
    /// Answers a request, in any case exactly once.
    pub(crate) fn answer(
        &mut self,
        connection: ConnectionId,
        id: &RequestId,
        call: Result<Call, Refusal>,
        shelf: Shelf,
    ) {
        let asker = Asker { connection, id };
        let judged = call.and_then(|call| self.judge(connection, call));
        if let Err(refusal) = judged.and_then(|(call, thread)| self.handle(asker, call, thread, shelf)) {
            self.hall.reply(asker, Err(refusal));
        }
    }

    fn judge(&self, connection: ConnectionId, call: Call) -> Result<(Call, Option<ThreadId>), Refusal> {
        let client = self.hall.connections.client(connection);
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
        if self.hall.draining && call.refused_while_draining() {
            return Err(Refusal::draining());
        }
        let thread = call.thread()?;
        Ok((call, thread))
    }

    /// Either answers, or returns why not.
    fn handle(
        &mut self,
        asker: Asker<'_>,
        call: Call,
        thread: Option<ThreadId>,
        shelf: Shelf,
    ) -> Result<(), Refusal> {
        match (call, thread) {
            (Call::Initialize(params), _) => self.initialize(asker, &params),
            (Call::Diagnostics, _) => self.diagnostics(asker, &shelf),
            (Call::ThreadStart(params), _) => self.thread_start(asker, params),
            (Call::ThreadList(params), _) => self.thread_list(asker, &params, shelf),
            (Call::ThreadLoadedList, _) => self.thread_loaded_list(asker),
            (Call::ThreadResume(params), Some(id)) => self.thread_resume(asker, id, &params, shelf)?,
            (Call::ThreadRead(params), Some(id)) => self.thread_read(asker, id, &params, shelf)?,
            (Call::ThreadTurnsList(params), Some(id)) => self.thread_turns_list(asker, id, &params, shelf)?,
            (Call::ThreadUnsubscribe(_), Some(id)) => self.thread_unsubscribe(asker, id),
            (Call::ThreadSetName(params), Some(id)) => self.thread_set_name(asker, id, &params, shelf)?,
            (Call::ThreadArchive(_), Some(id)) => self.thread_archive(asker, id, shelf)?,
            (Call::ThreadUnarchive(_), Some(id)) => self.thread_unarchive(asker, id, shelf)?,
            (Call::TurnStart(params), Some(id)) => self.turn_start(asker, id, params)?,
            (Call::TurnSteer(params), Some(id)) => self.turn_steer(asker, id, params)?,
            (Call::TurnInterrupt(params), Some(id)) => self.turn_interrupt(asker, id, &params)?,
            (Call::Unsupported(method), _) => return Err(Refusal::unsupported(&method)),
            (_, None) => return Err(Refusal::malformed("missing field `threadId`")),
        }
        Ok(())
    }

    fn initialize(&mut self, asker: Asker<'_>, params: &InitializeParams) {
        let hall = &mut self.hall;
        let originator = hall.connections.introduce(asker.connection, params);
        let (settings, client) = (&hall.settings, &params.client_info);
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
        hall.reply(asker, Ok(result));
        hall.tell_one(asker.connection, "remoteControl/status/changed", &status);
    }

    fn diagnostics(&mut self, asker: Asker<'_>, shelf: &Shelf) {
        let resident = match shelf {
            Shelf::Memory { resident_bytes } => Some(resident_bytes),
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
                gauge("app.server_requests.pending", self.hall.approvals.len()),
                gauge("core.threads.live", self.threads.len()),
                gauge("core.turns.active", running),
            ],
        });
        self.hall.reply(asker, Ok(result));
    }
}
