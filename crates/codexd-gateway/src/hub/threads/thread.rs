//! One thread: where it is loaded, who watches it, what runs in it, what was streamed so far.

use std::collections::VecDeque;
use std::rc::Rc;

use crate::hub::event::{BlockedOn, ClientId, Now, ServerId, Text};
use crate::hub::requests::refusal::Refusal;
use crate::hub::threads::lineage::Lineage;
use crate::hub::threads::loading::LoadDemand;
use crate::limits::{
    AGAIN_AFTER_MS, AGAIN_LATE_AFTER_MS, HASTY_TRIES_MAX, LATE_TRIES_MAX, REFUSED_AGAIN_MAX_MS,
    TURNS_REMEMBERED,
};

/// The id of a thread.
pub type ThreadId = Rc<str>;

/// A client that watches a thread.
#[derive(Clone, Debug)]
pub struct Viewer {
    pub client: ClientId,
    pub experimental: bool,
    pub human_approval: bool,
    pub opted_out: Option<Rc<[Box<str>]>>,
}

impl Viewer {
    pub fn wants(&self, notification: &str) -> bool {
        self.opted_out.as_ref().is_none_or(|names| !names.iter().any(|name| **name == *notification))
    }
}

/// Who is told what happens in a thread.
#[derive(Clone, Debug)]
pub enum Audience {
    /// Those who started or resumed it.
    Viewers(Vec<Viewer>),
    /// Every client but these: the thread of a sub-agent. Some have joined it by themselves.
    Everyone { but: Vec<ClientId>, joined: Vec<Viewer> },
}

impl Audience {
    /// Every client.
    pub fn everyone() -> Self {
        Audience::Everyone { but: Vec::new(), joined: Vec::new() }
    }
}

/// Where a thread is on its way from one app-server to another.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ThreadState {
    /// It stays.
    Attached,
    /// It was loaded already when its app-server was found; it is being subscribed.
    Attaching,
    /// It is being looked at: may it leave?
    Checking(Check),
    /// It was asked to unload.
    Unloading,
    /// It was asked to unload and did not; it is being subscribed again where it is.
    RollingBack,
    /// It is being loaded in its new place.
    Loading,
    /// It was asked to unload since nobody watches it.
    Evicting,
    /// Its app-server is gone; nobody has it.
    Orphaned,
    /// It is being loaded in the successor of a lost one.
    Recovering,
}

/// What a look at a thread has found so far.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Check {
    /// So many answers are outstanding.
    pub outstanding: u32,
    pub blocked_on: Option<BlockedOn>,
    pub goal_is_active: bool,
    /// To unload it because nobody watches it, not to move it.
    pub to_evict: bool,
}

/// A turn that runs.
#[derive(Clone, Debug)]
pub struct Turn {
    pub id: Box<str>,
    /// The turn as upstream last told it, raw.
    pub raw: Box<str>,
    /// The link that told it broke: how it goes on is not known.
    pub lost: bool,
    /// Its app-server is gone.
    pub cut: bool,
}

/// An item that has begun and not ended.
#[derive(Clone, Debug)]
pub struct OpenItem {
    pub id: Box<str>,
    pub turn: Box<str>,
    /// The notification that began it.
    pub started: Text,
    /// What was streamed into it.
    pub streams: Vec<Stream>,
    /// Its turn has ended and it runs on: a background terminal.
    pub background: bool,
    /// The app-server that ran it is gone.
    pub orphaned: bool,
    /// Something of it was missed: what comes now is told in one piece at its end.
    pub has_gap: bool,
}

/// One stream of text into an item.
#[derive(Clone, Debug)]
pub struct Stream {
    /// The notification that carries it, and what tells it from others of the item, raw.
    pub method: Box<str>,
    pub part: Box<str>,
    /// All text so far.
    pub text: String,
    /// The last notification, as the mould of one that carries the whole text.
    pub last: Text,
    /// It grew too large to be kept; a joiner gets none of it.
    pub is_over_limit: bool,
}

/// One thread.
#[derive(Debug)]
pub struct Thread {
    pub id: ThreadId,
    pub server: ServerId,
    pub state: ThreadState,
    pub audience: Audience,
    /// It is not on disk and never will be, or passes for such a one.
    pub is_ephemeral: bool,
    /// Nobody can join it any more, but a turn may run in it. When that has ended it is closed.
    pub is_unresumable: bool,
    /// A sub-agent's: every connection was subscribed to it.
    pub is_child: bool,
    /// What it descends from.
    pub lineage: Lineage,
    /// Its file; `None` until somebody has told.
    pub path: Option<String>,
    /// Its folder and its provider: what decides whether an app-server loads it. `None` until an app-server has told.
    pub cwd: Option<Box<str>>,
    pub model_provider: Option<Box<str>>,
    /// The app-server that it was unloaded from to move it, until it is loaded again: that one stays until then, and loads it
    /// again if the new one refuses.
    pub unloaded_from: Option<ServerId>,
    pub is_on_disk: bool,
    /// Its status as last told, raw.
    pub status: Box<str>,
    pub turns: Vec<Turn>,
    /// The turns that ended last: an answer may come after the end of what it began.
    pub ended: VecDeque<Box<str>>,
    pub items: Vec<OpenItem>,
    /// Until then it counts as busy: what follows a turn takes a moment to show.
    pub busy_until: Now,
    /// Since when nobody watches it.
    pub unwatched_since: Option<Now>,
    /// When it is looked at next for that.
    pub unload_check_at: Now,
    /// Parameters of the last `thread/tokenUsage/updated` and `thread/goal/…`, raw.
    pub token_usage: Option<Box<str>>,
    pub goal: Option<Box<str>>,
    /// The goal was active and is paused by the gateway until the thread has moved.
    pub goal_is_suspended: bool,
    /// Until then what only repeats what is known is the echo of a resume of the gateway's own.
    pub suppress_echo_until: Now,
    /// That goal goes on by itself.
    pub goal_is_active: bool,
    /// A client has made its goal rest, which was not told yet.
    pub goal_is_pausing: bool,
    /// Its user has interrupted its last turn: upstream lets an active goal rest then until somebody begins another.
    pub is_interrupted: bool,
    /// It is loaded for its goal's sake, and nobody was told of it.
    pub is_background_load: bool,
    /// So many app-servers died in a row while it was being loaded, or right after.
    pub crash_count: u32,
    /// When it was loaded again after a loss.
    pub recovered_at: Option<Now>,
    /// Who resumed it last: what then repeats what is known is meant for that one.
    pub last_subscriber: Option<ClientId>,
    /// What keeps it where it is, as last seen.
    pub blocked_on: BlockedOn,
    /// It stands in the queue of those to be moved.
    pub is_queued: bool,
    /// It is looked at again later: a timer runs.
    pub has_check_timer: bool,
    /// Its queue was left alone for a while: nothing of it begins by itself, and it is on disk.
    pub is_queue_paused: bool,
    /// A realtime session is open in it.
    pub has_realtime_session: bool,
    /// Its status as its new place has it, until the truth about its turn is known.
    pub status_after_load: Option<Box<str>>,
    /// Something of the turn that runs was missed: texts whose beginning was not seen are told when they are whole.
    pub has_gap: bool,
    /// What was told while the truth about its turn was not known yet.
    pub deferred: Vec<Text>,
    pub deferred_bytes: usize,
    /// How often it refused to load, and when it is tried again.
    pub load_attempts: u32,
    /// Why an app-server refused to load it, in that one's words; `None` once it is loaded.
    pub load_refusal: Option<Box<str>>,
    pub retry_at: Now,
    /// A client waits for it to be loaded.
    pub demand: Option<LoadDemand>,
    /// Fingerprints of the items of the running turn that were told whole: by id, and by text, since 0.169.0 gives an
    /// answer another id when it reads it from disk.
    pub told: Vec<u64>,
}

impl Thread {
    pub fn new(id: ThreadId, server: ServerId, audience: Audience) -> Self {
        Self {
            id,
            server,
            state: ThreadState::Attached,
            audience,
            is_ephemeral: false,
            is_unresumable: false,
            is_child: false,
            lineage: Lineage::default(),
            path: None,
            cwd: None,
            model_provider: None,
            unloaded_from: None,
            is_on_disk: false,
            status: Box::from(r#"{"type":"idle"}"#),
            turns: Vec::new(),
            ended: VecDeque::new(),
            items: Vec::new(),
            busy_until: Now::default(),
            unwatched_since: None,
            unload_check_at: Now::default(),
            token_usage: None,
            goal: None,
            goal_is_suspended: false,
            suppress_echo_until: Now::default(),
            goal_is_active: false,
            goal_is_pausing: false,
            is_interrupted: false,
            is_background_load: false,
            crash_count: 0,
            recovered_at: None,
            last_subscriber: None,
            blocked_on: BlockedOn::Nothing,
            is_queued: false,
            has_check_timer: false,
            is_queue_paused: false,
            has_realtime_session: false,
            status_after_load: None,
            has_gap: false,
            deferred: Vec::new(),
            deferred_bytes: 0,
            load_attempts: 0,
            load_refusal: None,
            retry_at: Now::default(),
            demand: None,
            told: Vec::new(),
        }
    }

    /// Whether a turn runs, or may be about to: a little longer than it is told, for a queued message or a goal begins
    /// the next.
    pub fn is_busy(&self, now: Now) -> bool {
        !self.turns.is_empty() || self.is_active() || now < self.busy_until
    }

    /// An app-server refused to load it, but may later: in how many ms it is to be tried again. `None` where it is loaded for
    /// its goal's sake alone and no client waits for it: the goal is postponed.
    pub fn try_again_after(&mut self, refusal: Refusal) -> Option<u64> {
        self.load_attempts += 1;
        let hasty = if refusal == Refusal::RetrySoon { HASTY_TRIES_MAX } else { 0 };
        if self.is_background_load && self.load_attempts > hasty && !self.is_watched() {
            return None;
        }
        Some(match refusal {
            Refusal::RetrySoon if self.load_attempts <= HASTY_TRIES_MAX => AGAIN_AFTER_MS,
            Refusal::RetrySoon if self.load_attempts <= LATE_TRIES_MAX => AGAIN_LATE_AFTER_MS,
            Refusal::RetrySoon => REFUSED_AGAIN_MAX_MS,
            _ => (AGAIN_LATE_AFTER_MS << (self.load_attempts - 1).min(16)).min(REFUSED_AGAIN_MAX_MS),
        })
    }

    pub fn is_active(&self) -> bool {
        crate::hub::text::string(&self.status, "type").is_some_and(|kind| kind == "active")
    }

    /// Whether it was told last that it is not loaded.
    pub fn is_unloaded(&self) -> bool {
        crate::hub::text::string(&self.status, "type").is_some_and(|kind| kind == "notLoaded")
    }

    pub fn is_watched(&self) -> bool {
        match &self.audience {
            Audience::Viewers(viewers) => !viewers.is_empty(),
            Audience::Everyone { .. } => true,
        }
    }

    /// The clients that have started, resumed or forked it.
    pub fn viewers(&self) -> &[Viewer] {
        match &self.audience {
            Audience::Viewers(viewers) => viewers,
            Audience::Everyone { joined, .. } => joined,
        }
    }

    /// Whether a client that upstream told about it has unsubscribed from it.
    pub fn has_left(&self, client: ClientId) -> bool {
        matches!(&self.audience, Audience::Everyone { but, .. } if but.contains(&client))
    }

    pub fn is_watched_by(&self, client: ClientId) -> bool {
        match &self.audience {
            Audience::Viewers(viewers) => viewers.iter().any(|viewer| viewer.client == client),
            Audience::Everyone { but, .. } => !but.contains(&client),
        }
    }

    /// Adds a viewer; answers whether it was none before.
    pub fn watch(&mut self, viewer: Viewer) -> bool {
        self.unwatched_since = None;
        match &mut self.audience {
            Audience::Viewers(viewers) => match viewers.iter().any(|known| known.client == viewer.client) {
                true => false,
                false => {
                    viewers.push(viewer);
                    true
                }
            },
            Audience::Everyone { but, joined } => {
                let before = but.len();
                joined.retain(|known| known.client != viewer.client);
                but.retain(|client| *client != viewer.client);
                joined.push(viewer);
                but.len() != before
            }
        }
    }

    /// Takes a viewer away; answers whether it was one.
    pub fn unwatch(&mut self, client: ClientId, now: Now) -> bool {
        let was = self.is_watched_by(client);
        match &mut self.audience {
            Audience::Viewers(viewers) => {
                viewers.retain(|viewer| viewer.client != client);
                if viewers.is_empty() && was {
                    self.unwatched_since = Some(now);
                }
            }
            Audience::Everyone { but, joined } if was => {
                joined.retain(|viewer| viewer.client != client);
                but.push(client);
            }
            Audience::Everyone { .. } => {}
        }
        was
    }

    pub fn turn_began(&mut self, id: &str, raw: &str) {
        if self.ended.iter().any(|ended| **ended == *id) {
            return;
        }
        self.is_on_disk = true;
        self.is_queue_paused = false;
        match self.turns.iter_mut().find(|turn| *turn.id == *id) {
            Some(turn) => {
                turn.raw = raw.into();
                turn.lost = false;
            }
            None => {
                self.is_interrupted = false;
                self.turns.push(Turn { id: id.into(), raw: raw.into(), lost: false, cut: false });
            }
        }
    }

    pub fn turn_ended(&mut self, id: &str) {
        self.turns.retain(|turn| *turn.id != *id);
        self.retain_background_terminals(id);
        self.has_gap &= !self.turns.is_empty();
        self.told.clear();
        self.ended.push_back(id.into());
        if self.ended.len() > TURNS_REMEMBERED {
            self.ended.pop_front();
        }
    }
}

/// A fingerprint of an id or a text.
pub fn fingerprint(text: &str) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}
