//! `codexd version`: the installed and the running version. Takes no lock and changes nothing.

use codexd_core::contract::{ErrorCode, Failure, LifecycleStatus};
use codexd_core::lifecycle::{ListenerSeen, Refusal};
use codexd_host::elsewhere;

use super::lifecycle::{self, Reply};
use crate::context::Context;
use crate::drive::Outcome;
use crate::failures;
use crate::observe::{self, ListenerReport, OwnServer};

/// Runs the command.
///
/// # Errors
/// [`ErrorCode::NotAnswering`] when no app-server answers.
pub fn run(context: &Context) -> Result<Reply, Failure> {
    let config = context.config_as_found().config;
    let socket = context.home.control_socket();
    let answers =
        |(_, listening): &(_, ListenerReport)| matches!(listening.seen, ListenerSeen::Answering { .. });
    let (record, listening) = observe::observe_stable(&context.home, answers, || {
        let record = observe::server(&context.home).ok();
        let ours =
            record.as_ref().map(|record| OwnServer::of(record.process.as_ref(), record.codexd.as_ref()));
        let listening = observe::listener(&context.home, ours.unwrap_or_default());
        (record, listening)
    });
    match listening.seen {
        ListenerSeen::Answering { ours, .. } => {
            let outcome = Outcome {
                status: LifecycleStatus::Running,
                backend: (ours || is_managed_elsewhere(context)).then(|| context.backend()),
                pid: None,
                answer: listening.answer,
                behind_gateway: false,
                handover: None,
                embedded: ours
                    && record.and_then(|record| record.codexd).is_some_and(|record| record.embedded),
            };
            Ok(lifecycle::reply(context, &config, &outcome))
        }
        ListenerSeen::OtherUser { uid } => Err(failures::refusal(Refusal::OtherUser(uid), &socket)),
        seen => {
            let what = match seen {
                ListenerSeen::Nothing => {
                    "the socket does not exist; no app-server has been started in this home"
                }
                ListenerSeen::Stale => "no process listens on the socket",
                ListenerSeen::NotASocket => "the path exists but is not a socket",
                _ => "a process listens on the socket but does not answer",
            };
            Err(Failure::new(
                ErrorCode::NotAnswering,
                format!("no app-server answers on {}: {what}", socket.display()),
            )
            .hint("start one with `codexd start`; `codexd status` shows details")
            .with("socketPath", socket.to_string_lossy().into_owned()))
        }
    }
}

/// Whether a supervisor of codexd serves the home from another pid namespace or host.
fn is_managed_elsewhere(context: &Context) -> bool {
    elsewhere::find(&context.home).is_some_and(|found| found.has_supervisor)
}
