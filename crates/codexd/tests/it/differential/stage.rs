//! One home, one or more servers on it, and the clients of a script.

use std::ops::Deref;
use std::path::PathBuf;
use std::rc::Rc;

use codexd_testkit::home::Config;
use codexd_testkit::{
    AppServer, Client, Codexd, Home, Layout, MockModel, Normaliser, Place, RpcError, Server, Version, codex,
};
use serde_json::{Value, json};

use super::proxied::Tunnel;
use super::transcript;

/// Everything that a script has at hand.
#[derive(Debug)]
pub(super) struct Stage {
    kind: Server,
    /// The first server; a script may end it and put another here.
    pub(super) server: Option<AppServer>,
    actors: Vec<Actor>,
    /// What clients connect through, if there is anything.
    tunnel: Option<Tunnel>,
    /// Of whom the end does not count, from which message on.
    tails: Vec<(&'static str, &'static str)>,
    home: Home,
    _model: MockModel,
}

/// A client with a name, shared between the script and the stage that reads its record in the end.
#[derive(Clone, Debug)]
pub(super) struct Actor {
    pub(super) name: &'static str,
    /// It is a client of 0.131.0, which knows no goals.
    is_old: bool,
    client: Rc<Client>,
}

impl Deref for Actor {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Stage {
    /// A fresh home with a model and one server, which unloads threads without subscribers at once.
    pub(super) async fn open(kind: Server) -> anyhow::Result<Stage> {
        let model = MockModel::start()?;
        let home = Home::with_model(&model)?;
        let top_level = "thread_unload_delay_secs = 1".to_owned();
        home.configure(&Config { top_level, ..Config::for_model(&model) })?;
        let server = Some(AppServer::start(&home, kind).await?);
        Ok(Stage { kind, server, actors: Vec::new(), tunnel: None, tails: Vec::new(), home, _model: model })
    }

    /// The same with the gateway in front of the server.
    pub(super) async fn open_through(kind: Server) -> anyhow::Result<Stage> {
        let model = MockModel::start()?;
        let home = Home::with_model(&model)?;
        let mut start = vec!["start"];
        match kind {
            Server::Real(version) => drop(home.install(Layout::Standalone, &codex::binary(version)?)?),
            Server::Embedded => start.push("--embedded"),
        }
        Codexd::new(&home)?.json(&start)?;
        // The first client names the process, as at a server without a gateway.
        Client::connect(&home.control_socket().into(), "testkit").await?.close().await?;
        Ok(Stage {
            kind,
            server: None,
            actors: Vec::new(),
            tunnel: None,
            tails: Vec::new(),
            home,
            _model: model,
        })
    }

    /// The same with a `codex app-server proxy` between each client and what it connects to.
    pub(super) fn behind_proxies(mut self) -> anyhow::Result<Stage> {
        let Server::Real(version) = self.kind else { anyhow::bail!("only a real Codex has a proxy") };
        let mut proxy = self.home.command(codex::binary(version)?);
        proxy.args(["app-server", "proxy"]);
        // The gateway is found where a proxy looks by itself.
        if self.server.is_some() {
            proxy.arg("--sock").arg(self.home.bare_socket());
        }
        self.tunnel = Some(Tunnel::open(&self.home, proxy)?);
        Ok(self)
    }

    /// Where clients connect: to the server of the stage, else to the gateway.
    pub(super) fn place(&self) -> Place {
        if let Some(tunnel) = &self.tunnel {
            return tunnel.place().clone();
        }
        self.server
            .as_ref()
            .map_or_else(|| self.home.control_socket().into(), |server| server.place().clone())
    }

    /// The folder in which threads work.
    pub(super) fn work(&self) -> PathBuf {
        self.home.work()
    }

    /// Starts a server again, after the script has ended the first.
    pub(super) async fn restart(&mut self) -> anyhow::Result<()> {
        self.server = Some(AppServer::start(&self.home, self.kind).await?);
        Ok(())
    }

    /// One more server on the same home.
    pub(super) async fn second_server(&self) -> anyhow::Result<AppServer> {
        let socket = self.home.root().join("s2");
        let command = self.kind.command(&self.home, &format!("unix://{}", socket.display()), &[])?;
        AppServer::launch(command, &socket, &self.home.root().join("second.log")).await
    }

    /// A client that has introduced itself, with the usual capabilities.
    pub(super) async fn enter(&mut self, name: &'static str) -> anyhow::Result<Actor> {
        self.enter_with(name, self.capabilities()).await
    }

    /// None; but 0.131.0 is asked for the experimental interface, to which much belonged that is free since: the gateway lets
    /// it through.
    pub(super) fn capabilities(&self) -> Value {
        if self.is_old() { json!({"experimentalApi": true}) } else { json!({}) }
    }

    fn is_old(&self) -> bool {
        self.kind == Server::Real(Version::V0_131_0)
    }

    /// A client with capabilities. The first asks about something else than a thread at once, as every real one does: the
    /// gateway opens it a connection of its own then.
    pub(super) async fn enter_with(
        &mut self,
        name: &'static str,
        capabilities: Value,
    ) -> anyhow::Result<Actor> {
        let is_first = self.actors.is_empty();
        let actor = self.uninitialized(name).await?;
        actor.initialize(name, capabilities).await?;
        actor.wait_method("remoteControl/status/changed").await?;
        if is_first {
            actor.ask("thread/list", json!({})).await?.ok();
        }
        Ok(actor)
    }

    /// A client that has not introduced itself.
    pub(super) async fn uninitialized(&mut self, name: &'static str) -> anyhow::Result<Actor> {
        let client = Client::dial(&self.place()).await?;
        Ok(self.watch(name, client))
    }

    /// Compares what this client receives, too.
    pub(super) fn watch(&mut self, name: &'static str, client: Client) -> Actor {
        let actor = Actor { name, is_old: self.is_old(), client: Rc::new(client) };
        self.actors.push(actor.clone());
        actor
    }

    /// Leaves out what `name` received from the last `method` on: how much of it arrives is luck.
    pub(super) fn forget_tail(&mut self, name: &'static str, method: &'static str) {
        self.tails.push((name, method));
    }

    /// What the clients received, one after the other, in comparable words.
    pub(super) async fn close(mut self) -> anyhow::Result<Vec<String>> {
        let mut normal = Normaliser::for_home(&self.home);
        let dated = !self.is_old();
        let mut lines = Vec::new();
        for Actor { name, client, .. } in &self.actors {
            let mut record = client.transcript();
            for (_, method) in self.tails.iter().filter(|(whose, _)| whose == name) {
                let last = record.iter().rposition(|entry| entry.message["method"] == *method);
                record.truncate(last.unwrap_or(record.len()));
            }
            lines.extend(transcript::lines(name, dated, &record, &mut normal));
        }
        self.actors.clear();
        if let Some(tunnel) = self.tunnel.take() {
            tokio::task::spawn_blocking(|| tunnel.close()).await??;
        }
        Ok(lines)
    }
}

impl Actor {
    /// A request whose answer, good or bad, is compared.
    pub(super) async fn ask(&self, method: &str, params: Value) -> anyhow::Result<Result<Value, RpcError>> {
        self.request(method, params).await
    }

    /// Starts a thread in the folder of the stage, and waits until it was announced.
    pub(super) async fn thread(&self, stage: &Stage) -> anyhow::Result<String> {
        let thread = self.start_thread(&stage.work()).await?;
        self.wait("its announcement", |message| {
            message["method"] == "thread/started" && message["params"]["thread"]["id"] == thread.as_str()
        })
        .await?;
        Ok(thread)
    }

    /// Starts a turn and waits until the model speaks.
    pub(super) async fn speaking_turn(&self, thread: &str, text: &str) -> anyhow::Result<String> {
        let turn = self.start_turn(thread, text).await?;
        self.wait("the first piece of the answer", |message| {
            message["method"] == "item/agentMessage/delta" && message["params"]["turnId"] == turn.as_str()
        })
        .await?;
        Ok(turn)
    }

    /// Subscribes without history, and waits for the last message that comes with it, if any does.
    pub(super) async fn join(&self, thread: &str) -> anyhow::Result<()> {
        self.forget();
        self.call("thread/resume", json!({"threadId": thread, "excludeTurns": true})).await?;
        if self.is_old { Ok(()) } else { self.joined().await }
    }

    /// Waits for the last message that comes with a resume with history.
    pub(super) async fn joined(&self) -> anyhow::Result<()> {
        let last = if self.is_old { "thread/tokenUsage/updated" } else { "thread/goal/cleared" };
        self.wait_method(last).await?;
        Ok(())
    }

    /// Waits for a status of a thread.
    pub(super) async fn wait_status(&self, status: &str) -> anyhow::Result<()> {
        let what = format!("status {status}");
        self.wait(&what, |message| {
            message["method"] == "thread/status/changed" && message["params"]["status"]["type"] == status
        })
        .await?;
        Ok(())
    }
}
