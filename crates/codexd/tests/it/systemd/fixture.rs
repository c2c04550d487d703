//! Homes whose units are installed in a user manager.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use codexd_core::contract::Backend;
use codexd_host::service::backend;
use codexd_host::service::systemd::{UnitNames, UnitSettings};
use codexd_testkit::systemd::CODEXD;
use codexd_testkit::{Client, Home, Layout, MockModel, Place, Server, UserManager, limits, run, until};
use serde_json::{Value, json};

/// How long something that happens by itself may take on a busy machine.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// A home.
pub struct ServiceHome {
    pub home: Home,
    pub names: UnitNames,
    pub model: MockModel,
}

impl ServiceHome {
    /// A home whose Codex is `server`, of the user of `manager`, without services.
    pub fn without_services(manager: &UserManager, server: Server) -> anyhow::Result<Self> {
        let model = MockModel::start()?;
        let home = Home::with_model(&model)?;
        let codex = home.managed_codex(Layout::Standalone);
        match server {
            Server::Real(version) => {
                home.install(Layout::Standalone, &manager.codex(version)?)?;
            }
            Server::Embedded => {
                let fake = format!(
                    "#!/bin/sh\ncase $1 in\n--version) echo 'codex-cli 9.9.9'; exit 0 ;;\nfeatures) exit 0 ;;\nesac\nshift\nexec {CODEXD} embedded-app-server \"$@\"\n"
                );
                fs::create_dir_all(codex.parent().context("a folder")?)?;
                fs::write(&codex, fake)?;
                fs::set_permissions(&codex, fs::Permissions::from_mode(0o755))?;
            }
        }
        let names = UnitNames::of(&codexd_host::Home::new(home.path().canonicalize()?));
        manager.own(&home)?;
        Ok(Self { home, names, model })
    }

    /// The same with its services installed, and not started.
    pub fn install(manager: &UserManager, server: Server) -> anyhow::Result<Self> {
        let service = Self::without_services(manager, server)?;
        let home = &service.home;
        let host_home = codexd_host::Home::new(home.path().canonicalize()?);
        backend::record(&host_home, Some(Backend::Systemd))?;
        let settings = UnitSettings {
            home: host_home,
            names: service.names.clone(),
            codexd: CODEXD.into(),
            environment: vec![
                ("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".to_owned()),
                ("HOME".to_owned(), home.profile().display().to_string()),
                ("LANG".to_owned(), "C.UTF-8".to_owned()),
            ],
            gateway: true,
            stop_grace_seconds: 60,
            app_server_limits: Vec::new(),
        };
        let units = manager.user_home().join(".config/systemd/user");
        fs::create_dir_all(&units)?;
        for file in settings.render()? {
            fs::write(units.join(&file.name), &file.text)?;
        }
        manager.own(home)?;
        manager.own_user_home()?;
        manager.systemctl(&["daemon-reload"])?;
        Ok(service)
    }

    /// The unit files of the home that are on disk, and the links to them.
    pub fn installed_files(&self, manager: &UserManager) -> anyhow::Result<Vec<PathBuf>> {
        let folder = manager.user_home().join(".config/systemd/user");
        let mut found = Vec::new();
        // The folders of links are one level down.
        for entry in entries(&folder)? {
            if entry.is_dir() {
                found.extend(entries(&entry)?);
            } else {
                found.push(entry);
            }
        }
        found.retain(|path| path.to_string_lossy().contains(self.names.hash()));
        Ok(found)
    }

    /// The paths of the unit files.
    pub fn unit_files(&self, manager: &UserManager) -> anyhow::Result<Vec<String>> {
        let units = manager.user_home().join(".config/systemd/user");
        let names = fs::read_dir(units)?.map(|entry| Ok(entry?.path().display().to_string()));
        let names: anyhow::Result<Vec<String>> = names.collect();
        Ok(names?.into_iter().filter(|path| path.contains(self.names.hash())).collect())
    }

    /// Runs a command of codexd as the user; gives its answer.
    pub fn json(&self, manager: &UserManager, arguments: &[&str]) -> anyhow::Result<Value> {
        let run = run::run(manager.codexd(&self.home, arguments), limits::RUN)?;
        let events = || fs::read_to_string(self.home.state("events.jsonl")).unwrap_or_default();
        run.success_json()
            .with_context(|| format!("codexd {}; the events:\n{}", arguments.join(" "), events()))
    }

    /// `codexd status`, once it is so.
    pub fn status_when(
        &self,
        manager: &UserManager,
        what: &str,
        is_so: impl Fn(&Value) -> bool,
    ) -> anyhow::Result<Value> {
        let mut last = Value::Null;
        until(TIMEOUT, what, || {
            last = self.json(manager, &["status"]).ok()?;
            is_so(&last).then(|| last.clone())
        })
        .with_context(|| format!("{last:#}"))
    }

    /// `codexd status`, once the server answers and is not `before`.
    pub fn running_instead_of(&self, manager: &UserManager, before: u64) -> anyhow::Result<Value> {
        self.status_when(manager, "another server that answers", |status| {
            status["state"] == "running" && status["pid"].as_u64().is_some_and(|pid| pid != before)
        })
    }

    /// The pid of the server that answers.
    pub fn server(&self, manager: &UserManager) -> anyhow::Result<u64> {
        let status = self.status_when(manager, "a server", |status| status["state"] == "running")?;
        status["pid"].as_u64().context("a pid")
    }

    /// The main process of a unit, as it is called in the namespaces.
    pub fn main_pid(&self, manager: &UserManager, unit: &str) -> anyhow::Result<u64> {
        Ok(manager.property(unit, "MainPID")?.parse()?)
    }

    /// The unit of the app-server that answers.
    pub fn server_unit(&self, manager: &UserManager) -> anyhow::Result<String> {
        let pid = self.server(manager)?;
        let listed =
            manager.systemctl(&["list-units", "--plain", "--no-legend", "--full", "codex-app-server-*@*"])?;
        let units = listed.lines().filter_map(|line| line.split_ascii_whitespace().next());
        for unit in units.filter(|unit| self.names.instance_of(unit).is_some()) {
            if self.main_pid(manager, unit)? == pid {
                return Ok(unit.to_owned());
            }
        }
        anyhow::bail!("the server {pid} is in no unit: {listed}")
    }

    /// A client with a thread.
    pub async fn client_with_thread(&self) -> anyhow::Result<(Client, String)> {
        let client = self.client().await?;
        let thread = client.start_thread(&self.home.work()).await?;
        Ok((client, thread))
    }

    pub async fn client(&self) -> anyhow::Result<Client> {
        Client::connect(&Place::Socket(self.home.control_socket()), "systemd").await
    }

    /// The first turn of a thread, as the running server reads it, once it has ended; gives its status and what the agent has said.
    pub async fn ended_turn(&self, thread: &str) -> anyhow::Result<(String, String)> {
        let deadline = std::time::Instant::now() + TIMEOUT;
        loop {
            let read = async {
                let client = self.client().await?;
                client.call("thread/read", json!({"threadId": thread, "includeTurns": true})).await
            };
            let read = read.await;
            if let Ok(read) = &read {
                let turn = &read["thread"]["turns"][0];
                let status = turn["status"].as_str().unwrap_or("missing");
                if !matches!(status, "inProgress" | "missing") {
                    let items = turn["items"].as_array().cloned().unwrap_or_default();
                    let said = items.iter().filter(|item| item["type"] == "agentMessage");
                    let text = said.filter_map(|item| item["text"].as_str()).collect();
                    return Ok((status.to_owned(), text));
                }
            }
            ensure!(std::time::Instant::now() < deadline, "the turn does not end: {read:?}");
            tokio::time::sleep(limits::LOOK_EVERY).await;
        }
    }

    /// Fails unless nothing of the home runs and every unit is down.
    pub fn assert_nothing_left(&self, manager: &UserManager) -> anyhow::Result<()> {
        for unit in
            [self.names.supervisor(), self.names.socket(), self.names.gateway(), self.names.commands()]
        {
            until(TIMEOUT, &format!("{unit} to be down"), || {
                manager.property(&unit, "ActiveState").ok().filter(|state| state == "inactive")
            })?;
        }
        let instances = ["list-units", "--all", "--plain", "--no-legend", "codex-app-server-*@*"];
        let listed = manager.systemctl(&instances)?;
        ensure!(!listed.contains(self.names.hash()), "units are left: {listed}");
        let left = until(TIMEOUT, "the end of every process", || {
            let left = self.home.processes();
            left.is_empty().then_some(())
        });
        left.with_context(|| format!("{:#?}", self.home.processes()))?;
        ensure!(!Path::new(&self.home.control_socket()).exists(), "the control socket is left");
        Ok(())
    }
}

/// What is in a folder, if it exists.
fn entries(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect()
}

/// Sends a signal to a process of the user.
pub fn signal(manager: &UserManager, signal: &str, pid: u64) -> anyhow::Result<()> {
    let run = manager.run(&["kill", &format!("-{signal}"), &pid.to_string()])?;
    ensure!(run.success(), "kill -{signal} {pid}: {run}");
    Ok(())
}
