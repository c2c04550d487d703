//! The contract with everybody who scripts `codex app-server daemon`: wherever a real daemon succeeds, codexd succeeds in the
//! same state with the same words, and leaves a server where it leaves one.
//!
//! Each test is one state of a home. For every command the state is created again three times, for the daemons of 0.131.0 and 0.171.0
//! and for codexd, all above the same app-server. Where a real daemon fails, codexd may do better, and nothing is asked.

use codexd_testkit::{Codexd, codex, skip};

mod compare;
mod contestant;
mod states;

use compare::compare;
use contestant::{Contestant, Outcome};
use states::State;

/// Where codexd departs on purpose or not yet: the state, the command, and what [`compare`] says. A line that is no longer true
/// fails the test, too.
const KNOWN: [(State, &str, &str); 0] = [];

/// Runs every command in a state and lists everything in which codexd departs from a real daemon.
fn departures(state: State) -> anyhow::Result<Vec<String>> {
    let mut departures = Vec::new();
    for command in state.commands() {
        let ours = Outcome::of(Contestant::Codexd, state, command)?;
        for theirs in state.upstream() {
            let theirs = Outcome::of(*theirs, state, command)?;
            departures.extend(compare(command, &ours, &theirs));
        }
        for (_, _, known) in KNOWN.iter().filter(|(known, of, _)| *known == state && of == command) {
            let before = departures.len();
            departures.retain(|departure| !departure.contains(known));
            if departures.len() == before {
                departures.push(format!("{command}: no departure {known:?} any more; take it off the list"));
            }
        }
    }
    Ok(departures)
}

macro_rules! same_contract {
    ($($name:ident: $state:expr;)+) => {
        $(
            #[test]
            fn $name() -> anyhow::Result<()> {
                if let Err(reason) = codex::platform() {
                    skip!("{reason}");
                }
                let found = departures($state)?;
                assert!(found.is_empty(), "codexd departs from the contract:\n{}", found.join("\n"));
                Ok(())
            }
        )+
    };
}

same_contract! {
    commands_keep_the_contract_without_a_codex: State::NoCodex;
    commands_keep_the_contract_when_nothing_runs: State::NothingRuns;
    commands_keep_the_contract_when_the_server_runs: State::Running;
    commands_keep_the_contract_when_an_unmanaged_server_runs: State::Unmanaged;
    commands_keep_the_contract_when_the_server_was_killed: State::ServerKilled;
    commands_keep_the_contract_when_the_server_never_listens: State::NotReady;
    commands_keep_the_contract_when_the_record_names_another_process: State::ForeignPid;
    commands_keep_the_contract_when_the_record_is_empty: State::EmptyRecord;
    commands_keep_the_contract_when_a_socket_is_left_over: State::SocketLeftOver;
    commands_keep_the_contract_when_the_settings_are_corrupt: State::CorruptSettings;
    commands_keep_the_contract_when_the_settings_of_a_running_server_are_corrupt: State::CorruptSettingsRunning;
    commands_keep_the_contract_when_remote_control_is_on: State::RemoteControlOn;
    commands_keep_the_contract_in_a_home_with_a_strange_name: State::StrangeName;
    commands_keep_the_contract_in_a_home_with_a_long_name: State::LongName;
}

#[test]
fn every_restart_answers_with_a_new_server() -> anyhow::Result<()> {
    if let Err(reason) = codex::platform() {
        skip!("{reason}");
    }
    let home = states::home_for(Contestant::Codexd, State::NothingRuns)?;
    let codexd = Codexd::new(&home)?;
    let mut pids = vec![codexd.json(&["start"])?["pid"].clone()];
    for round in 0..8 {
        let reply = codexd.json(&["restart"])?;
        assert!(reply["pid"].is_u64(), "round {round}: no pid in {reply}");
        assert!(!pids.contains(&reply["pid"]), "round {round}: the old server in {reply}");
        assert!(contestant::answers(&home), "round {round}: no server answers after {reply}");
        pids.push(reply["pid"].clone());
    }
    codexd.json(&["stop"])?;
    home.assert_no_process_left();
    Ok(())
}

/// codexd in the place of a daemon that is taken out while its server runs.
mod taking_over {
    use codexd_testkit::{Codexd, Version, codex, skip};

    use super::contestant::{Contestant, answers};
    use super::states::{State, home_for};

    #[test]
    fn a_server_that_a_real_daemon_started_is_managed_by_codexd() -> anyhow::Result<()> {
        if let Err(reason) = codex::platform() {
            skip!("{reason}");
        }
        for version in Version::ALL {
            let theirs = Contestant::Upstream(version);
            let home = home_for(theirs, State::NothingRuns)?;
            theirs.run(&home, "start")?.success_json()?;
            let codexd = Codexd::new(&home)?;
            let seen = codexd.json(&["version"])?;
            assert_eq!((&seen["status"], &seen["backend"]), (&"running".into(), &"pid".into()), "{version}");
            assert_eq!(codexd.json(&["start"])?["status"], "alreadyRunning", "{version}");
            assert_eq!(codexd.json(&["stop"])?["status"], "stopped", "{version}");
            assert!(!answers(&home), "{version}: the server still answers");
        }
        Ok(())
    }
}
