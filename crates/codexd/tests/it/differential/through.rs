//! The gateway beside no gateway: the same scripts directly and through it, in front of the same server. The transcripts
//! are equal but for what the gateway is there for.
//!
//! Left out as whole scenes, each with a test of its own below `gateway`:
//! - a turn joined in the middle: the gateway tells the text so far, a server does not;
//! - an approval by an unsubscribed client: only clients that were asked may answer;
//! - servers that leave, die or are not alone: the clients stay, which is the point;
//! - threads that are unloaded: the gateway lets go of them after a minute, as a server does unless told otherwise.
//!
//! Single lines may differ as [`KNOWN`] says. In front of 0.131.0 everybody asks for the experimental interface: what was
//! experimental then and is free since, the gateway lets through for all.

use codexd_testkit::{Server, Version, codex, skip};

use super::stage::Stage;
use super::{accounts, approvals, play, play_on, threads, turns};

/// Lines that only one of the two may have, and why.
const KNOWN: [(&str, &str); 8] = [
    (r#""code":-32700"#, "what is no JSON is answered, where a server is silent"),
    ("< answer to initialized: error ", "what is JSON but no message is answered, with null for an id"),
    ("< answer to what was never asked: error ", "so is what has an id that can be none"),
    (r#""message":"Not initialized""#, "an uninitialized client gets this error before any other check"),
    ("missing field `threadId`", "the same"),
    ("unknown variant `no/such/method`", "the same"),
    (
        "< thread/readState/changed ",
        "0.169.0 sends it to experimental subscribers; 0.171.0 and the gateway to every experimental connection",
    ),
    ("< item/commandExecution/outputDelta ", "luck: what a quick command says may come with its end alone"),
];

/// The first client of a server names it. The real one takes no notice of the probe of a daemon, which the
/// embedded one is not told apart from a client.
const PROBE: &str = "codex_app_server_daemon";
/// Who is first at a server of a stage.
const FIRST: &str = "testkit";
/// So much of a line is shown.
const SHOWN: usize = 400;

/// Plays a script to a server and to the gateway in front of the same, and fails with the first line that differs.
async fn unchanged<F>(server: Server, script: F) -> anyhow::Result<()>
where
    F: AsyncFn(&mut Stage) -> anyhow::Result<()>,
{
    let direct = play(server, &script).await?;
    let stage = Stage::open_through(server).await?;
    let mut through = play_on(stage, &script).await.map_err(|error| error.context("through the gateway"))?;
    through.iter_mut().for_each(|line| *line = line.replace(PROBE, FIRST));
    differs(&direct, &through)
}

/// Fails with the first line in which a transcript from a server and one from the gateway before it differ.
pub(super) fn differs(direct: &[String], through: &[String]) -> anyhow::Result<()> {
    anyhow::ensure!(!direct.is_empty(), "the script saw nothing");
    let Some((at, beside)) = first_difference(direct, through) else { return Ok(()) };
    anyhow::bail!("direct:\n{}through the gateway:\n{}", shown(direct, at), shown(through, beside))
}

/// Where the transcripts differ first in what may not differ.
fn first_difference(direct: &[String], through: &[String]) -> Option<(usize, usize)> {
    let known = |line: &String| KNOWN.iter().any(|(part, _reason)| line.contains(part));
    let (mut left, mut right) = (0, 0);
    loop {
        match (direct.get(left), through.get(right)) {
            (None, None) => return None,
            (Some(one), Some(other)) if one == other => (left, right) = (left + 1, right + 1),
            (Some(one), _) if known(one) => left += 1,
            (_, Some(other)) if known(other) => right += 1,
            _ => return Some((left, right)),
        }
    }
}

/// What stands around a line.
fn shown(lines: &[String], at: usize) -> String {
    const AROUND: usize = 3;
    let lines = lines.iter().enumerate().skip(at.saturating_sub(AROUND)).take(2 * AROUND);
    lines
        .map(|(number, line)| format!("{number} {}\n", line.chars().take(SHOWN).collect::<String>()))
        .collect()
}

macro_rules! scenes {
    ($($name:ident: $script:path;)+) => {
        $(mod $name {
            use super::*;

            in_front_of! {
                the_newest_server: Server::Real(Version::V0_171_0), $script;
                the_one_before: Server::Real(Version::V0_169_0), $script;
                the_one_of_old: Server::Real(Version::V0_131_0), $script;
                the_embedded_server: Server::Embedded, $script;
            }
        })+
    };
}

/// What 0.131.0 does otherwise, or at moments of its own: it tells the end of a quick command when the turn may be over; a
/// second start is a turn of its own; and it begins a turn without input, of which it tells later that it failed.
macro_rules! scenes_of_today {
    ($($name:ident: $script:path;)+) => {
        $(mod $name {
            use super::*;

            in_front_of! {
                the_newest_server: Server::Real(Version::V0_171_0), $script;
                the_one_before: Server::Real(Version::V0_169_0), $script;
                the_embedded_server: Server::Embedded, $script;
            }
        })+
    };
}

/// What the embedded server does not know.
macro_rules! real_scenes {
    ($($name:ident: $script:path;)+) => {
        $(mod $name {
            use super::*;

            in_front_of! {
                the_newest_server: Server::Real(Version::V0_171_0), $script;
                the_one_before: Server::Real(Version::V0_169_0), $script;
                the_one_of_old: Server::Real(Version::V0_131_0), $script;
            }
        })+
    };
}

macro_rules! in_front_of {
    ($($name:ident: $server:expr, $script:path;)+) => {
        $(#[tokio::test]
        async fn $name() -> anyhow::Result<()> {
            if let (Server::Real(_), Err(reason)) = ($server, codex::platform()) {
                skip!("{reason}");
            }
            unchanged($server, $script).await
        })+
    };
}

scenes! {
    uninitialized_clients_and_malformed_requests_are_refused_as_before: threads::refusals;
    invalid_messages_disturb_no_client: threads::noise;
    a_first_turn_has_notifications_and_history_as_before: turns::first_turn;
    a_second_subscriber_gets_the_same_as_before: turns::second_subscriber;
    an_interrupted_turn_ends_as_before: turns::interrupted;
    a_steered_turn_continues_as_before: turns::steered;
    failing_turns_fail_as_before: turns::failing;
    a_declined_command_is_left_as_before: approvals::declined;
    a_canceled_command_ends_the_turn_as_before: approvals::cancelled;
    a_malformed_answer_fails_the_command_as_before: approvals::malformed;
    an_interrupt_resolves_the_server_request_as_before: approvals::interrupted;
    a_session_wide_approval_is_remembered_as_before: approvals::remembered;
    an_ephemeral_thread_stays_private_as_before: threads::ephemeral;
    notifications_that_a_client_opted_out_of_are_not_sent_as_before: threads::opted_out;
}

scenes_of_today! {
    commands_have_notifications_as_before: turns::commands;
    a_second_start_steers_as_before: turns::started_twice;
    names_and_the_archive_have_notifications_as_before: threads::named_and_archived;
}

real_scenes! {
    a_fork_has_notifications_as_before: threads::forked;
    a_conversation_by_voice_is_refused_as_before: accounts::realtime;
}

mod devices_are_refused_as_before {
    use super::*;

    // 0.131.0 needs no account to enable remote control, and looks for the other end at once.
    in_front_of! {
        the_newest_server: Server::Real(Version::V0_171_0), accounts::devices;
        the_one_before: Server::Real(Version::V0_169_0), accounts::devices;
    }
}
