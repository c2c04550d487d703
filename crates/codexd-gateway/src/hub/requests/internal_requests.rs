//! Responses to the gateway's own requests, and attaching to threads that were loaded before this gateway started.

use serde_json::value::RawValue;

use crate::hub::Hub;
use crate::hub::event::{BlockedOn, Connection};
use crate::hub::requests::pending::InternalRequest;
use crate::hub::threads::state::ThreadState;

impl Hub {
    pub(in crate::hub) fn on_internal_response(
        &mut self,
        connection: Connection,
        request: InternalRequest,
        outcome: Result<&RawValue, &RawValue>,
    ) {
        let result = outcome.ok().map(RawValue::get);
        let outcome = outcome.map(RawValue::get).map_err(RawValue::get);
        if let (
            InternalRequest::Load(thread)
            | InternalRequest::RollBack(thread)
            | InternalRequest::Recover(thread)
            | InternalRequest::Attach(thread),
            Some(result),
        ) = (&request, result)
        {
            let is_found = matches!(request, InternalRequest::Attach(_));
            self.on_settings_restored(thread, connection.server(), is_found, result);
        }
        match request {
            InternalRequest::LoadedList(server) => self.on_loaded_list(server, outcome),
            InternalRequest::UnloadDelay => self.on_unload_delay(connection.server(), outcome),
            InternalRequest::ReadThread(thread) => self.on_thread_read(&thread, result),
            InternalRequest::CheckQueue(thread) => self.on_list_checked(&thread, outcome, BlockedOn::Queue),
            InternalRequest::CheckTerminals(thread) => {
                self.on_list_checked(&thread, outcome, BlockedOn::BackgroundTerminals);
            }
            InternalRequest::CheckGoal(thread) => self.on_goal_checked(&thread, outcome),
            InternalRequest::PauseGoal(thread) => self.on_goal_paused(&thread, result.is_some()),
            InternalRequest::ReadSuspendedGoal(thread) => self.on_suspended_goal_read(&thread, outcome),
            InternalRequest::ResumeGoal(thread) => self.on_goal_resumed(&thread, outcome),
            InternalRequest::Unload(thread) => self.on_unload_response(&thread, result),
            InternalRequest::RollBack(thread) => self.on_rollback_response(&thread, outcome),
            InternalRequest::CheckConfig(profile) => {
                self.on_config_read(connection.server(), &profile, outcome);
            }
            InternalRequest::TrialLoad(profile) => {
                self.on_trial_started(connection.server(), &profile, outcome);
            }
            InternalRequest::Load(thread) => self.on_loaded_in_successor(&thread, outcome),
            InternalRequest::Evict(thread) => self.on_evicted(&thread, result),
            InternalRequest::Recover(thread) => self.on_recovered(&thread, outcome),
            InternalRequest::LastTurns(thread) => self.on_last_turns(&thread, outcome),
            InternalRequest::RunningTurn(thread) => self.on_running_turn(&thread, result),
            InternalRequest::ProcessState(part) => {
                self.on_process_state_read(connection.server(), part, outcome);
            }
            InternalRequest::RestoreEnvironments(thread) => {
                self.on_environments_restored(&thread, result.is_some());
            }
            InternalRequest::Attach(thread) => self.on_attached(connection.server(), &thread, outcome),
            InternalRequest::Lineage { thread, of } => {
                if thread == of {
                    self.on_subagent_read(&thread, connection.server(), result);
                }
                self.on_lineage(&thread, &of, outcome);
            }
            InternalRequest::IgnoreResponse => {}
        }
    }

    /// The connection broke before an internal request was answered.
    pub(in crate::hub) fn on_internal_request_lost(&mut self, request: &InternalRequest) {
        let Some(id) = request.thread().cloned() else { return };
        if let InternalRequest::Lineage { .. } = request {
            // Repeated on the app-server that has the thread by then.
            return self
                .threads
                .get_mut(&id)
                .into_iter()
                .for_each(|thread| thread.lineage.on_response_lost());
        }
        // It counts among the threads of the lost app-server.
        if let Some(thread) = self.threads.get_mut(&id).filter(|thread| thread.state != ThreadState::Attached)
        {
            thread.state = ThreadState::Orphaned;
        }
        // Whether it took effect is unknown: the goal stays suspended until it is known to be active.
        if let InternalRequest::ReadSuspendedGoal(_) | InternalRequest::ResumeGoal(_) = request {
            self.on_thread_request_done(&id);
        }
        self.changes.thread_state_changed();
    }
}
