//! The embedded server beside the real one: the same script of clients, played to both, must give the same transcripts.
//!
//! Held beside Codex 0.169.0. What each client received is compared line by line, in order, after
//! [`transcript`] has taken out what names one run and the few things that only a real server has to say; that list is
//! short and has its reasons there. Types of parameters are compared with 0.171.0. 0.131.0 is not compared with it: the dialect of the embedded server is that of
//! 0.169.0 alone. The gateway is held before each of the four, in [`through`].

use codexd_testkit::transcript::difference;
use codexd_testkit::{Server, Version, codex, skip};

mod accounts;
mod approvals;
mod leaving;
mod proxied;
mod stage;
mod threads;
mod through;
pub(crate) mod transcript;
mod turns;

use stage::Stage;

/// Plays a script to one server; gives what every client received.
async fn play<F>(server: Server, script: F) -> anyhow::Result<Vec<String>>
where
    F: AsyncFn(&mut Stage) -> anyhow::Result<()>,
{
    let stage = Stage::open(server).await?;
    play_on(stage, script).await.map_err(|error| error.context(format!("on {server:?}")))
}

async fn play_on<F>(mut stage: Stage, script: F) -> anyhow::Result<Vec<String>>
where
    F: AsyncFn(&mut Stage) -> anyhow::Result<()>,
{
    let outcome = script(&mut stage).await;
    let lines = stage.close().await;
    outcome.and(lines)
}

/// Plays a script to both servers and fails with the first line in which they differ.
async fn same_transcripts<F>(script: F) -> anyhow::Result<()>
where
    F: AsyncFn(&mut Stage) -> anyhow::Result<()>,
{
    same_transcripts_as(Version::V0_169_0, script).await
}

/// The same for requests that are refused, which the newest release decides.
async fn same_refusals<F>(script: F) -> anyhow::Result<()>
where
    F: AsyncFn(&mut Stage) -> anyhow::Result<()>,
{
    same_transcripts_as(Version::V0_171_0, script).await
}

async fn same_transcripts_as<F>(version: Version, script: F) -> anyhow::Result<()>
where
    F: AsyncFn(&mut Stage) -> anyhow::Result<()>,
{
    let real = play(Server::Real(version), &script).await?;
    let ours = play(Server::Embedded, &script).await?;
    anyhow::ensure!(!real.is_empty(), "the script saw nothing");
    match difference(&real, &ours) {
        None => Ok(()),
        Some(difference) => anyhow::bail!("left is the real server, right is ours\n{difference}"),
    }
}

/// Makes a test of every script, played as the first word says.
macro_rules! scenes {
    ($play:ident; $($name:ident: $script:path;)+) => {
        $(
            #[tokio::test]
            async fn $name() -> anyhow::Result<()> {
                if let Err(reason) = codex::platform() {
                    skip!("{reason}");
                }
                $play($script).await
            }
        )+
    };
}
use scenes;

scenes! {
    same_transcripts;
    uninitialized_clients_and_malformed_requests_are_refused_alike: threads::refusals;
    invalid_messages_are_dropped_alike: threads::noise;
    a_first_turn_has_the_same_notifications_and_history: turns::first_turn;
    a_scripted_command_has_the_notifications_of_a_real_one: turns::commands;
    a_second_subscriber_sees_the_same: turns::second_subscriber;
    a_turn_is_joined_in_the_middle_alike: turns::joined_in_the_middle;
    an_interrupted_turn_ends_alike: turns::interrupted;
    a_steered_turn_continues_alike: turns::steered;
    a_second_start_steers_the_running_turn_alike: turns::started_twice;
    failing_turns_fail_alike: turns::failing;
    an_accepted_command_runs_alike: approvals::accepted;
    a_declined_command_is_left_alike: approvals::declined;
    a_canceled_command_ends_the_turn_alike: approvals::cancelled;
    a_malformed_answer_fails_the_command_alike: approvals::malformed;
    an_interrupt_resolves_the_server_request_alike: approvals::interrupted;
    a_session_wide_approval_is_remembered_alike: approvals::remembered;
    names_and_the_archive_have_the_same_notifications: threads::named_and_archived;
    a_thread_without_turns_is_lost_alike: threads::unmaterialized;
    an_ephemeral_thread_stays_private_alike: threads::ephemeral;
    notifications_that_a_client_opted_out_of_are_not_sent_alike: threads::opted_out;
    a_thread_without_subscribers_is_unloaded_alike: threads::unloaded;
    a_draining_server_refuses_alike_and_ends_its_turn: leaving::drained;
    a_second_signal_interrupts_alike: leaving::forced;
    a_killed_server_is_read_back_alike: leaving::killed;
    two_servers_on_one_home_refuse_each_other_alike: leaving::two_servers;
}

scenes! {
    same_refusals;
    members_of_the_wrong_type_are_refused_alike: threads::wrong_types;
}
