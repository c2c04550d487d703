//! The app-servers underneath and the links to them.

use std::cmp::Reverse;
use std::rc::Rc;

use serde_json::json;

use crate::hub::clients::client::ClientInfo;
use crate::hub::event::{Action, ClientId, Connection, Now, Report, ServerId, Text};
use crate::hub::upstream::backoff::Backoff;
use crate::hub::{Hub, Timer, text};
use crate::limits::{FOUND_WITHIN_MS, INTRODUCE_FIRST_WAIT_MS, INTRODUCE_LAST_WAIT_MS};

/// How open a link is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum LinkState {
    #[default]
    Down,
    Opening,
    Up,
}

/// One process of the app-server.
#[derive(Debug, Default)]
pub struct Server {
    /// It is to leave when it holds nothing any more.
    pub outgoing: bool,
    /// What it answered to a first `initialize`.
    pub greeting: Option<Text>,
    pub shared: LinkState,
    /// What it answered to the shared link's `initialize`.
    pub shared_greeting: Option<Text>,
    /// It refuses to begin anything: it drains.
    pub draining: bool,
    /// It has been told to leave.
    pub retired: bool,
    /// It has told what it has loaded.
    pub listed: bool,
    /// Until then it is expected to answer for the first time, if it was there before this gateway.
    pub answers_until: Now,
    pub backoff: Backoff,
    /// It was told the settings that it cannot know.
    pub settings_made: bool,
    /// The thread whose tokens were told last: the limits that follow belong to it.
    pub counted: Option<Rc<str>>,
}

impl Server {
    /// It is about to tell what it has loaded. One that was there before this gateway may have threads already, so a moment
    /// is left for it to answer at all.
    pub fn is_being_listed(&self, now: Now) -> bool {
        let is_asked = self.shared != LinkState::Down || now < self.answers_until;
        is_asked && !self.listed && !self.retired
    }
}

/// As whom the shared links introduce themselves: the first real client, since its name becomes that of the process.
#[derive(Clone, Debug)]
pub struct Persona {
    /// `clientInfo`, raw.
    pub client_info: Box<str>,
    /// It attests requests to the model. Whether somebody does changes what upstream sends with them, so it is asked to
    /// only if the first client would have it.
    pub attests: bool,
}

impl Persona {
    /// From the parameters of an `initialize`; `None` where they name nobody. Nothing goes on but the three strings that every
    /// app-server reads: what else a client says may keep one from answering.
    pub fn of(params: &str) -> Option<Self> {
        let ClientInfo { name, title, version } = ClientInfo::of(params)?;
        let client_info = match title {
            Some(title) => json!({"name": name, "title": title, "version": version}),
            None => json!({"name": name, "version": version}),
        };
        let capabilities = text::member(params, "capabilities");
        let attests = capabilities.and_then(|all| text::member(all.get(), "requestAttestation"));
        let attests = attests.is_some_and(|attests| attests.get() == "true");
        Some(Self { client_info: client_info.to_string().into(), attests })
    }

    /// What [`Self::of`] makes the same of.
    fn kept(&self) -> Text {
        let Self { client_info, attests } = self;
        format!(r#"{{"clientInfo":{client_info},"capabilities":{{"requestAttestation":{attests}}}}}"#).into()
    }

    /// The shared link may do whatever any client may; what each client may is checked here.
    fn introduction(&self) -> Text {
        let info = &self.client_info;
        let attests = if self.attests { r#","requestAttestation":true"# } else { "" };
        format!(
            r#"{{"id":0,"method":"initialize","params":{{"clientInfo":{info},"capabilities":{{"experimentalApi":true,"requiredHumanApproval":true{attests}}}}}}}"#
        )
        .into()
    }
}

/// As whom an app-server is asked before any client has come.
fn nobody() -> Persona {
    let info = format!(r#"{{"name":"{}","version":"0"}}"#, crate::hub::clients::initialize::DAEMON);
    Persona { client_info: info.into(), attests: false }
}

impl Hub {
    pub(in crate::hub) fn servers_changed(&mut self, current: Option<ServerId>, outgoing: &[ServerId]) {
        let is_gone = |id: &ServerId| current != Some(*id) && !outgoing.contains(id);
        let mut gone: Vec<ServerId> = self.servers.keys().copied().filter(is_gone).collect();
        gone.sort_unstable();
        for id in gone {
            self.server_gone(id);
        }
        let was_there = !std::mem::replace(&mut self.has_begun, true);
        for id in current.iter().chain(outgoing) {
            let known = self.servers.contains_key(id);
            let server = self.servers.entry(*id).or_default();
            server.outgoing = current != Some(*id);
            if !known {
                if was_there {
                    server.answers_until = self.now + FOUND_WITHIN_MS;
                    // What waited for it does not wait any longer then.
                    self.timers.push(Reverse((self.now + FOUND_WITHIN_MS, Timer::Reconnect)));
                }
                self.out.push(Action::Probe(*id));
            }
        }
        self.current = current;
        self.report_expected_ends();
        if self.serving.is_some_and(|serving| !self.servers.contains_key(&serving)) {
            self.serving = None;
        }
        self.connect_where_needed();
        self.ensure_handover();
        self.recover_lost();
        self.load_goals();
        self.see_whether_all_have_left();
        self.pump();
    }

    /// The host says that an app-server is gone; its links may not have noticed yet.
    fn server_gone(&mut self, id: ServerId) {
        let own = self.clients.values().filter(|client| client.dedicated.leads_to(id));
        let mut links: Vec<Connection> = own.map(|client| Connection::Dedicated(client.id, id)).collect();
        links.sort_unstable();
        let Some(server) = self.servers.get_mut(&id) else { return };
        // There is nothing to ask of it any more, not even to leave.
        server.retired = true;
        let was_open = server.shared != LinkState::Down;
        // Nor is a connection to it to be opened again, while those that it had are given up one by one.
        self.serving = self.serving.filter(|serving| *serving != id);
        links.extend(was_open.then_some(Connection::Shared(id)));
        for link in links {
            self.link_lost(link);
            self.out.push(Action::Close(link));
        }
        self.postpone_what_is_lost_too_often(id);
        self.report_losses(id);
        self.servers.remove(&id);
    }

    pub(in crate::hub) fn drains(&mut self, id: ServerId) {
        if let Some(server) = self.servers.get_mut(&id) {
            server.draining = true;
        }
        self.report_expected_ends();
    }

    pub(in crate::hub) fn greeted(&mut self, id: ServerId, result: Text) {
        let Some(server) = self.servers.get_mut(&id) else { return };
        server.greeting = Some(result);
        self.connect_where_needed();
        self.welcome_waiting_clients();
        self.see_whether_all_have_left();
        self.pump();
    }

    /// The first real client gives the shared links their name.
    pub(in crate::hub) fn take_persona(&mut self, introduction: &str) {
        if self.persona.is_none() {
            self.persona = Persona::of(introduction);
            self.out
                .extend(self.persona.as_ref().map(|persona| Action::PersistClientIdentity(persona.kept())));
            self.connect_where_needed();
        }
    }

    /// As whom the gateway before this one introduced itself. An older one stored whatever the first client sent.
    pub(in crate::hub) fn persona_kept(&mut self, kept: &str) {
        self.persona = Persona::of(kept);
        if self.persona.is_none() {
            self.discarded_client_info("what was stored is no client information");
        }
    }

    fn discarded_client_info(&mut self, reason: &str) {
        self.out.push(Action::Report(Report::ClientInfoDiscarded { reason: reason.to_owned() }));
    }

    /// Nobody answered the `initialize` of a link in time. If no app-server has taken this client information before, that may be
    /// why.
    pub(in crate::hub) fn link_unanswered(&mut self, link: Connection) {
        let is_suspect =
            matches!(link, Connection::Shared(_)) && self.persona.is_some() && !self.persona_is_proven;
        if is_suspect {
            self.persona_refused("no app-server answered it");
        }
        self.link_lost(link);
    }

    /// The app-server rejects the name of the shared link. The next client that asks for something gives another; without
    /// one, those who only watch and goals that are at work are not to wait for it.
    fn persona_refused(&mut self, reason: &str) {
        if let Some(refused) = self.persona.take() {
            self.refused_persona = Some(refused);
            self.persona_is_proven = false;
            self.discarded_client_info(reason);
        }
        let wait = INTRODUCE_FIRST_WAIT_MS << self.refused_introductions.min(16);
        self.refused_introductions += 1;
        self.timer(wait.min(INTRODUCE_LAST_WAIT_MS), Timer::Introduce);
    }

    /// Gives the shared links a name again: that of a client that is connected and has not been refused; else the gateway's own.
    pub(in crate::hub) fn introduce_again(&mut self) {
        if self.persona.is_some() {
            return;
        }
        let refused = self.refused_persona.as_ref().map(|refused| refused.client_info.clone());
        let mut ready: Vec<_> = self.clients.values().filter(|client| client.is_ready()).collect();
        ready.sort_unstable_by_key(|client| client.id);
        let personas = ready.iter().filter_map(|client| Persona::of(client.introduction.as_ref()?));
        let others = personas.filter(|persona| Some(&persona.client_info) != refused.as_ref());
        let turn = usize::try_from(self.refused_introductions).unwrap_or_default();
        let others: Vec<Persona> = others.collect();
        let other = others.get(turn.checked_rem(others.len()).unwrap_or_default()).cloned();
        self.persona = Some(other.unwrap_or_else(nobody));
        self.out.extend(self.persona.as_ref().map(|persona| Action::PersistClientIdentity(persona.kept())));
        self.connect_where_needed();
    }

    /// Opens the shared link of every app-server that answers: also of an outgoing one that this gateway found there.
    pub(in crate::hub) fn connect_where_needed(&mut self) {
        let persona = self.persona.as_ref().map(Persona::introduction);
        for (id, server) in &mut self.servers {
            let is_open = server.shared != LinkState::Down;
            if server.greeting.is_none() || is_open || server.retired || !server.backoff.may_try(self.now) {
                continue;
            }
            let introduction = match &persona {
                Some(persona) => persona.clone(),
                // Also before anybody comes it has to be known what an outgoing one holds; this name is never its own.
                None if server.outgoing => nobody().introduction(),
                None => continue,
            };
            server.shared = LinkState::Opening;
            self.out.push(Action::Connect(Connection::Shared(*id), introduction));
        }
    }

    pub(in crate::hub) fn link_up(&mut self, link: Connection, result: &Text) {
        self.full_links.remove(&link);
        match link {
            Connection::Shared(id) => self.shared_up(id, result),
            Connection::Dedicated(client, server) => self.own_up(client, server, result),
        }
        self.pump();
    }

    fn shared_up(&mut self, id: ServerId, result: &Text) {
        let Some(server) = self.servers.get_mut(&id) else { return };
        (self.refused_introductions, self.refused_persona) = (0, None);
        self.persona_is_proven = true;
        server.shared = LinkState::Up;
        server.backoff.opened(self.now);
        server.shared_greeting = Some(result.clone());
        server.listed = false;
        let is_new = self.current == Some(id) && !std::mem::replace(&mut server.settings_made, true);
        if is_new {
            self.make_settings(id);
            self.ask_process_state(id);
        }
        if self.current == Some(id) {
            self.ask_for_unload_delay(id);
        }
        // What it has already: this gateway is not its first, or it resumed threads by itself.
        self.ask_what_is_loaded(id);
        if self.current == Some(id) || self.serving.is_none() {
            // While the current one does not answer yet, an outgoing one still does.
            self.serving = Some(id);
        }
        self.ensure_handover();
        // What clients wait for comes first.
        self.pump();
        self.recover_lost();
        self.welcome_waiting_clients();
    }

    pub(in crate::hub) fn link_refused(&mut self, link: Connection, error: &Text) {
        match link {
            Connection::Shared(id) => {
                // The name of the first client is not to its taste: the next one gives another.
                let Some(server) = self.servers.get_mut(&id) else { return };
                server.shared = LinkState::Down;
                if crate::hub::requests::refusal::is_passing(error) {
                    let wait = server.backoff.lost(self.now);
                    self.timer(wait, Timer::Reconnect);
                } else {
                    self.persona_refused(&crate::hub::requests::refusal::message_of(error));
                }
            }
            Connection::Dedicated(client, server) => self.own_refused(client, server, error),
        }
        self.pump();
    }

    /// Whether an app-server is about to tell which threads it has.
    pub(in crate::hub) fn is_listing(&self) -> bool {
        self.servers.values().any(|server| server.is_being_listed(self.now))
    }

    pub(in crate::hub) fn is_up(&self, id: ServerId) -> bool {
        self.servers.get(&id).is_some_and(|server| server.shared == LinkState::Up)
    }

    /// Whether it is up and begins what it is asked to.
    pub(in crate::hub) fn is_well(&self, id: ServerId) -> bool {
        self.is_up(id) && self.servers.get(&id).is_some_and(|server| !server.draining)
    }

    /// One that is no real client, but asks for more than an answer, gives the shared links its name if nobody else has.
    pub(in crate::hub) fn take_persona_of(&mut self, id: ClientId) {
        if self.persona.is_none()
            && let Some(client) = self.clients.get(&id).filter(|client| client.is_ready())
            && let Some(introduction) = client.introduction.clone()
        {
            self.take_persona(&introduction);
        }
    }

    /// The answer to a client's `initialize`: upstream's own, with the client's name where upstream puts it.
    pub(in crate::hub) fn hello(&self, name: &str, version: &str, as_first: bool) -> Option<Text> {
        let server = self.servers.get(&self.serving.or(self.current)?)?;
        let greeting = if as_first { server.greeting.as_ref() } else { server.shared_greeting.as_ref() }?;
        let Some(agent) = text::member(greeting, "userAgent") else { return Some(greeting.clone()) };
        let told = text::string(greeting, "userAgent")?;
        let head = told.rfind(" (").filter(|_| told.ends_with(')')).map_or(&*told, |at| &told[..at]);
        let own = serde_json::Value::from(format!("{head} ({name}; {version})")).to_string();
        Some(text::splice(greeting, agent.get(), &own))
    }
}
