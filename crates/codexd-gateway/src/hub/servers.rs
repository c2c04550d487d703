//! The app-servers underneath and the links to them.

use std::rc::Rc;

use super::call::Errand;
use super::event::{Action, Link, ServerId, Text};
use super::{Hub, text};

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
    /// The thread whose tokens were told last: the limits that follow belong to it.
    pub counted: Option<Rc<str>>,
}

/// As whom the shared links introduce themselves: the first real client, since its name becomes that of the process.
#[derive(Clone, Debug)]
pub struct Persona {
    /// `clientInfo`, raw.
    pub client_info: Box<str>,
}

impl Persona {
    /// The shared link may do whatever any client may; what each client may is checked here.
    fn introduction(&self) -> Text {
        let info = &self.client_info;
        format!(
            r#"{{"id":0,"method":"initialize","params":{{"clientInfo":{info},"capabilities":{{"experimentalApi":true,"requiredHumanApproval":true}}}}}}"#
        )
        .into()
    }
}

impl Hub {
    pub(super) fn servers_changed(&mut self, current: Option<ServerId>, outgoing: &[ServerId]) {
        let is_gone = |id: &ServerId| current != Some(*id) && !outgoing.contains(id);
        let gone: Vec<ServerId> = self.servers.keys().copied().filter(is_gone).collect();
        for id in gone {
            self.server_gone(id);
        }
        for id in current.iter().chain(outgoing) {
            let known = self.servers.contains_key(id);
            let server = self.servers.entry(*id).or_default();
            server.outgoing = current != Some(*id);
            if !known {
                self.out.push(Action::Greet(*id));
            }
        }
        self.current = current;
        if self.serving.is_some_and(|serving| !self.servers.contains_key(&serving)) {
            self.serving = None;
        }
        self.connect_where_needed();
        self.see_whether_all_have_left();
        self.pump();
    }

    /// The host says that an app-server is gone; its links may not have noticed yet.
    fn server_gone(&mut self, id: ServerId) {
        let clients = self.clients.values();
        let own = clients
            .filter(|client| client.old_owns.contains(&id) || client.own.is_some_and(|own| own.server == id));
        let mut links: Vec<Link> = own.map(|client| Link::Own(client.id, id)).collect();
        links.sort_unstable();
        let was_open = self.servers.get(&id).is_some_and(|server| server.shared != LinkState::Down);
        links.extend(was_open.then_some(Link::Shared(id)));
        for link in links {
            self.link_lost(link);
            self.out.push(Action::Close(link));
        }
        self.servers.remove(&id);
    }

    pub(super) fn drains(&mut self, id: ServerId) {
        if let Some(server) = self.servers.get_mut(&id) {
            server.draining = true;
        }
    }

    pub(super) fn greeted(&mut self, id: ServerId, result: Text) {
        let Some(server) = self.servers.get_mut(&id) else { return };
        server.greeting = Some(result);
        self.connect_where_needed();
        self.welcome_waiting_clients();
        self.see_whether_all_have_left();
        self.pump();
    }

    /// The first real client gives the shared links their name.
    pub(super) fn take_persona(&mut self, client_info: &str) {
        if self.persona.is_none() {
            self.persona = Some(Persona { client_info: client_info.into() });
            self.connect_where_needed();
        }
    }

    /// Opens the shared link of every app-server that answers: also of an outgoing one that this gateway found there.
    pub(super) fn connect_where_needed(&mut self) {
        let Some(persona) = &self.persona else { return };
        let introduction = persona.introduction();
        for (id, server) in &mut self.servers {
            if server.greeting.is_some() && server.shared == LinkState::Down && !server.retired {
                server.shared = LinkState::Opening;
                self.out.push(Action::Connect(Link::Shared(*id), introduction.clone()));
            }
        }
    }

    pub(super) fn link_up(&mut self, link: Link, result: &Text) {
        match link {
            Link::Shared(id) => self.shared_up(id, result),
            Link::Own(client, server) => self.own_up(client, server, result),
        }
        self.pump();
    }

    fn shared_up(&mut self, id: ServerId, result: &Text) {
        let Some(server) = self.servers.get_mut(&id) else { return };
        server.shared = LinkState::Up;
        server.shared_greeting = Some(result.clone());
        // What it has already: this gateway is not its first, or it resumed threads by itself.
        self.errand(Link::Shared(id), Errand::LoadedList(id), "thread/loaded/list", &serde_json::json!({}));
        if self.current == Some(id) {
            self.serving = Some(id);
            self.begin_handover(id);
        } else if self.serving.is_none() {
            // The current one does not answer yet; this one still does.
            self.serving = Some(id);
        }
        self.recover(id);
        self.welcome_waiting_clients();
    }

    pub(super) fn link_refused(&mut self, link: Link, error: &Text) {
        match link {
            Link::Shared(id) => {
                // The name of the first client is not to its taste: the next one gives another.
                if let Some(server) = self.servers.get_mut(&id) {
                    server.shared = LinkState::Down;
                }
                self.persona = None;
            }
            Link::Own(client, _) => self.own_refused(client, error),
        }
        self.pump();
    }

    pub(super) fn is_up(&self, id: ServerId) -> bool {
        self.servers.get(&id).is_some_and(|server| server.shared == LinkState::Up)
    }

    /// The answer to a client's `initialize`: upstream's own, with the client's name where upstream puts it.
    pub(super) fn hello(&self, name: &str, version: &str, as_first: bool) -> Option<Text> {
        let server = self.servers.get(&self.serving.or(self.current)?)?;
        let greeting = if as_first { server.greeting.as_ref() } else { server.shared_greeting.as_ref() }?;
        let Some(agent) = text::member(greeting, "userAgent") else { return Some(greeting.clone()) };
        let told = text::string(greeting, "userAgent")?;
        let head = told.rfind(" (").filter(|_| told.ends_with(')')).map_or(&*told, |at| &told[..at]);
        let own = serde_json::Value::from(format!("{head} ({name}; {version})")).to_string();
        Some(text::splice(greeting, agent.get(), &own))
    }
}
