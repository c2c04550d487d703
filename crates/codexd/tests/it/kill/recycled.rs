//! A pid record that names a live process which is not the server: no command signals it.

use std::process::{Child, Command, Stdio};

use anyhow::{Context, ensure};
use codexd_testkit::Process;

use super::test_home::TestHome;

/// A process that has nothing to do with any of this. It ends with the test.
struct Innocent {
    child: Child,
    process: Process,
}

impl Innocent {
    fn new() -> anyhow::Result<Innocent> {
        let child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        let process = Process::of(child.id()).context("cat ended at once")?;
        Ok(Innocent { child, process })
    }

    /// When it was started, as `ps` prints it in the time zone of the tests.
    fn started(&self) -> anyhow::Result<String> {
        let said = Command::new("ps").args(["-o", "lstart=", "-p", &self.child.id().to_string()]).output()?;
        Ok(String::from_utf8(said.stdout)?.trim().to_owned())
    }
}

impl Drop for Innocent {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Every form of a record that names the innocent process, and none that is right.
fn records(innocent: &Innocent) -> anyhow::Result<Vec<(&'static str, String)>> {
    let (pid, ticks) = (innocent.process.pid, innocent.process.start_ticks);
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let identity = |boot: &str, ticks: u64| {
        format!(r#"{{"pid":{pid},"processIdentity":{{"bootId":"{}","startTicks":{ticks}}}}}"#, boot.trim())
    };
    let mut records = vec![
        ("another start", identity(&boot, ticks + 1)),
        ("another boot", identity("11111111-2222-3333-4444-555555555555", ticks)),
        (
            "an old record of another time",
            format!(r#"{{"pid":{pid},"processStartTime":"Fri Nov 20 03:21:40 2009"}}"#),
        ),
        ("a number alone", format!(r#"{{"pid":{pid}}}"#)),
    ];
    // Without `ps` here, an old record of the very second cannot be told.
    if let Ok(started) = innocent.started() {
        records.push((
            "an old record of its second",
            format!(r#"{{"pid":{pid},"processStartTime":"{started}"}}"#),
        ));
    }
    Ok(records)
}

#[test]
fn a_process_that_a_record_names_wrongly_is_never_signalled() -> anyhow::Result<()> {
    let mut innocent = Innocent::new()?;
    for (what, record) in records(&innocent)? {
        let commands = ["stop", "start", "restart", "enable-remote-control", "reload"];
        let files = ["server.json", "app-server.pid"];
        for (command, file) in commands.iter().flat_map(|command| files.map(|file| (*command, file))) {
            let test_home = TestHome::new()?;
            test_home.home.write(&format!("app-server-daemon/{file}"), &record)?;
            let answer = test_home.run(&[command]).with_context(|| format!("{command} with {what}"))?;
            ensure!(innocent.child.try_wait()?.is_none(), "{command} with {what} ended it: {answer}");
            if answer["pid"].is_number() {
                let server = test_home.assert_served()?;
                ensure!(server.pid != innocent.process.pid, "{command} with {what}: {answer}");
            }
            test_home.assert_stops()?;
        }
    }
    ensure!(innocent.process.is_alive(), "it is gone");
    Ok(())
}

/// The supervisor is known by more than a number, too.
#[test]
fn a_process_that_the_supervisors_state_names_wrongly_is_never_signalled() -> anyhow::Result<()> {
    let mut innocent = Innocent::new()?;
    let test_home = TestHome::new()?;
    test_home.run(&["start"])?;
    let supervisor = test_home.supervisor()?;
    super::supervisor::kill(&supervisor)?;
    let state = std::fs::read_to_string(test_home.home.state("supervisor.json"))?;
    let other =
        state.replace(&format!("\"pid\":{}", supervisor.pid), &format!("\"pid\":{}", innocent.process.pid));
    ensure!(other != state, "{state}");
    test_home.home.write("app-server-daemon/supervisor.json", &other)?;
    test_home.run(&["restart"])?;
    test_home.assert_served()?;
    test_home.assert_stops()?;
    ensure!(innocent.child.try_wait()?.is_none(), "it was ended");
    Ok(())
}
