//! A home with a server and the gateway in front of it.

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, ensure};
use codexd_testkit::client::Recording;
use codexd_testkit::{
    Client, Codexd, Fake, Home, Layout, MockModel, Place, Process, Schema, Server, Version, codex, limits,
    until,
};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::sharing::QUESTION;

/// How long something that happens by itself may take on a busy machine.
pub(super) const TIMEOUT: Duration = Duration::from_secs(30);

/// A home in which `codexd start` has been run.
#[derive(Debug)]
pub(super) struct GatewayFixture {
    pub(super) home: Home,
    pub(super) model: MockModel,
    /// What commands have in their environment besides.
    variables: Vec<(&'static str, &'static str)>,
    /// Whose schema every message to a client has to fit, and what went to them.
    version: Option<Version>,
    recordings: Mutex<Vec<Recording>>,
}

impl GatewayFixture {
    fn of(home: Home, model: MockModel, variables: &[(&'static str, &'static str)]) -> GatewayFixture {
        GatewayFixture {
            home,
            model,
            variables: variables.to_vec(),
            version: None,
            recordings: Mutex::default(),
        }
    }
}

impl GatewayFixture {
    /// A fresh home with a model, the server, and the gateway in front of it.
    pub(super) async fn open(server: Server) -> anyhow::Result<GatewayFixture> {
        GatewayFixture::open_with(server, &[]).await
    }

    /// The same with more in the environment of whatever is started.
    pub(super) async fn open_with(
        server: Server,
        variables: &[(&'static str, &'static str)],
    ) -> anyhow::Result<GatewayFixture> {
        let model = MockModel::start()?;
        let home = Home::with_model(&model)?;
        GatewayFixture::of(home, model, variables).start(server).await
    }

    /// The same without the gateway: clients meet the server itself.
    pub(super) async fn without_gateway(server: Server) -> anyhow::Result<GatewayFixture> {
        let model = MockModel::start()?;
        let home = Home::with_model(&model)?;
        home.write("app-server-daemon/settings.json", json!({"gateway": false}).to_string())?;
        GatewayFixture::of(home, model, &[]).start(server).await
    }

    /// The same with the gateway, and whatever `prepare` does to the home before the start.
    pub(super) async fn configured(
        server: Server,
        prepare: impl FnOnce(&Home, &MockModel) -> anyhow::Result<()>,
    ) -> anyhow::Result<GatewayFixture> {
        let model = MockModel::start()?;
        let home = Home::new()?;
        prepare(&home, &model)?;
        GatewayFixture::of(home, model, &[]).start(server).await
    }

    async fn start(mut self, server: Server) -> anyhow::Result<GatewayFixture> {
        let mut start = vec!["start"];
        match server {
            Server::Real(version) => {
                self.version = Some(version);
                self.home.install(Layout::Standalone, &codex::binary(version)?)?;
            }
            Server::Embedded => start.push("--embedded"),
        }
        self.command(&start).await?;
        Ok(self)
    }

    /// The same with a fake Codex, which becomes the embedded server in its own way.
    pub(super) async fn with_fake(fake: &Fake) -> anyhow::Result<GatewayFixture> {
        let model = MockModel::start()?;
        let home = Home::with_model(&model)?;
        let fixture = GatewayFixture::of(home, model, &[]);
        fake.install(&fixture.home, Layout::Standalone)?;
        fixture.command(&["start"]).await?;
        Ok(fixture)
    }

    /// Where clients connect.
    pub(super) fn place(&self) -> Place {
        Place::Socket(self.socket())
    }

    /// The control socket.
    pub(super) fn socket(&self) -> PathBuf {
        self.home.control_socket()
    }

    /// The folder in which threads work.
    pub(super) fn work(&self) -> PathBuf {
        self.home.work()
    }

    /// A client with the experimental interface.
    pub(super) async fn client(&self, name: &str) -> anyhow::Result<Client> {
        self.client_with(name, json!({"experimentalApi": true})).await
    }

    /// A client with these capabilities.
    pub(super) async fn client_with(&self, name: &str, capabilities: Value) -> anyhow::Result<Client> {
        let client = Client::dial(&self.place()).await?;
        self.recordings.lock().expect("no test panics here").push(client.recording());
        client.initialize(name, capabilities).await?;
        Ok(client)
    }

    /// A thread that has had a turn, so that everybody can join it.
    pub(super) async fn thread(&self, owner: &Client) -> anyhow::Result<String> {
        let thread = owner.start_thread(&self.work()).await?;
        let done = owner.turn(&thread, "[[deltas=1]]").await?;
        ensure!(done["params"]["turn"]["status"] == "completed", "{done}");
        Ok(thread)
    }

    /// Runs a command to its end without holding up the clients of the test; gives its answer.
    pub(super) async fn command(&self, command: &[&str]) -> anyhow::Result<Value> {
        let (ok, answer) = self.any_command(command).await?;
        if !ok {
            let events = std::fs::read_to_string(self.home.state("events.jsonl")).unwrap_or_default();
            anyhow::bail!("codexd {}: {answer}; the events:\n{events}", command.join(" "));
        }
        Ok(answer)
    }

    /// The same for a command that may fail; gives whether it succeeded, and its answer.
    pub(super) async fn any_command(&self, command: &[&str]) -> anyhow::Result<(bool, Value)> {
        let codexd = self
            .variables
            .iter()
            .fold(Codexd::new(&self.home)?, |codexd, (name, value)| codexd.env(name, value));
        let running = codexd.spawn(command)?;
        let run = tokio::task::spawn_blocking(move || running.finish(limits::RUN)).await??;
        ensure!(!run.output_leaked, "a process that it left behind holds its output: {run}");
        Ok((run.success(), run.json()?))
    }

    /// `codexd status`.
    pub(super) async fn status(&self) -> anyhow::Result<Value> {
        self.command(&["status"]).await
    }

    /// The current app-server.
    pub(super) async fn server(&self) -> anyhow::Result<Process> {
        let status = self.status().await?;
        let pid = status["pid"].as_u64().with_context(|| format!("no server in {status:#}"))?;
        Process::of(u32::try_from(pid)?).with_context(|| format!("the server {pid} is gone"))
    }

    /// The gateway.
    pub(super) fn gateway(&self) -> anyhow::Result<Process> {
        let mut gateways = self.home.processes();
        gateways.retain(|process| process.command.split(' ').nth(1) == Some("gateway"));
        ensure!(gateways.len() == 1, "not one gateway: {gateways:?} of {:?}", self.home.processes());
        Ok(gateways.remove(0))
    }

    /// Kills the current app-server with -9 and waits until it is gone; gives its pid.
    pub(super) async fn kill_server(&self) -> anyhow::Result<u32> {
        let server = self.server().await?;
        server.signal(Signal::KILL)?;
        gone(&server).await?;
        Ok(server.pid)
    }

    /// Waits until a server that was replaced has left.
    pub(super) async fn until_left(&self, old: &Process) -> anyhow::Result<()> {
        if let Err(error) = gone(old).await {
            return Err(error).context(format!("something keeps it: {:#}", self.status().await?));
        }
        Ok(())
    }

    /// Fails if a client was told something that does not fit the schema of the server's release, composed by the server or by the gateway.
    fn assert_readable(&self) -> anyhow::Result<()> {
        let Some(version) = self.version else { return Ok(()) };
        let schema = Schema::of(version)?.context("the release is in the cache, for it was started")?;
        for recording in self.recordings.lock().expect("no test panics here").iter() {
            let misfits = schema.misfits(&recording.entries());
            ensure!(misfits.is_empty(), "{} messages, the first:\n{}", misfits.len(), misfits[0]);
        }
        Ok(())
    }

    /// Ends everything as a user would, and looks whether anything is left.
    pub(super) async fn close(self) -> anyhow::Result<()> {
        self.assert_readable()?;
        self.close_unread().await
    }

    /// The same where clients were told what the schema has no place for.
    pub(super) async fn close_unread(self) -> anyhow::Result<()> {
        self.command(&["stop"]).await?;
        let left = || self.home.processes();
        // A supervisor that leaves gives back its lock first.
        let gone = until(TIMEOUT, "the last process to leave", || left().is_empty().then_some(()));
        gone.with_context(|| format!("processes left behind: {:#?}", left()))
    }
}

/// Waits for the end of a process while the clients go on reading.
pub(super) async fn gone(process: &Process) -> anyhow::Result<()> {
    let process = process.clone();
    tokio::task::spawn_blocking(move || process.wait_gone(TIMEOUT)).await?
}

/// A number that the environment may set.
pub(super) fn from_environment(name: &str, default: u64) -> anyhow::Result<u64> {
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name} is no number: {text}")),
        Err(_) => Ok(default),
    }
}

/// The text of one turn as its pieces came to this client.
pub(super) fn text_of_turn(client: &Client, turn: &str) -> String {
    let pieces = client.received().into_iter().filter(|message| {
        message["method"] == "item/agentMessage/delta" && message["params"]["turnId"] == turn
    });
    pieces.filter_map(|message| Some(message["params"]["delta"].as_str()?.to_owned())).collect()
}

/// What the mock model says for `[[deltas=N]]` with pieces of the usual size.
pub(super) fn said(deltas: usize) -> String {
    (0..deltas).map(|piece| format!("{:x<8}", format!("d{piece} "))).collect()
}

/// How often a client was told this about a turn.
pub(super) fn told(client: &Client, method: &str, turn: &str) -> Vec<Value> {
    let of_turn = |message: &Value| {
        message["method"] == method
            && (message["params"]["turnId"] == turn || message["params"]["turn"]["id"] == turn)
    };
    client.received().into_iter().filter(of_turn).collect()
}

/// Starts a turn and waits until the model speaks.
pub(super) async fn speaking_turn(client: &Client, thread: &str, text: &str) -> anyhow::Result<String> {
    let turn = client.start_turn(thread, text).await?;
    wait_pieces(client, &turn, 1).await?;
    Ok(turn)
}

/// Starts a turn that ends when the test lets it, on every server: a command waits for its approval before the model speaks.
/// Gives the turn and the question.
pub(super) async fn asking_turn(
    client: &Client,
    thread: &str,
    deltas: usize,
) -> anyhow::Result<(String, Value)> {
    let turn = client.start_turn(thread, &format!("[[shell=true;; escalate=1 deltas={deltas}]]")).await?;
    let asked = |message: &Value| message["method"] == QUESTION && message["params"]["threadId"] == thread;
    let question = client.wait("the question about its command", asked).await?;
    Ok((turn, question))
}

/// Waits until so many pieces of a turn have come.
pub(super) async fn wait_pieces(client: &Client, turn: &str, count: usize) -> anyhow::Result<()> {
    let mut seen = 0;
    client
        .wait(&format!("{count} pieces of the answer"), |message| {
            seen += usize::from(
                message["method"] == "item/agentMessage/delta" && message["params"]["turnId"] == turn,
            );
            seen >= count
        })
        .await?;
    Ok(())
}

/// Subscribes to a thread without its history.
pub(super) async fn join(client: &Client, thread: &str) -> anyhow::Result<Value> {
    client.call("thread/resume", json!({"threadId": thread, "excludeTurns": true})).await
}

/// Fails unless a turn ended once, complete, with all of its text, as this client saw it.
pub(super) fn assert_whole(client: &Client, turn: &str, deltas: usize) -> anyhow::Result<()> {
    let ends = told(client, "turn/completed", turn);
    ensure!(ends.len() == 1, "turn {turn} ended {} times: {ends:?}", ends.len());
    ensure!(ends[0]["params"]["turn"]["status"] == "completed", "{}", ends[0]);
    let (text, whole) = (text_of_turn(client, turn), said(deltas));
    ensure!(text == whole, "{} bytes of the text came, not {}: {text}", text.len(), whole.len());
    Ok(())
}
