//! One thread: where it is loaded, who watches it, what runs in it, what was streamed so far.

use std::collections::VecDeque;
use std::rc::Rc;

use crate::hub::event::{BlockedOn, ClientId, Now, ServerId, Text};
use crate::hub::requests::refusal::Refusal;
use crate::hub::threads::lineage::Lineage;
use crate::hub::threads::loading::Demand;
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
pub enum Motion {
    /// It stays.
    Still,
    /// It was loaded already when its app-server was found; it is being subscribed.
    Finding,
    /// It is being looked at: may it leave?
    Checking(Check),
    /// It was asked to unload.
    Leaving,
    /// It was asked to unload and did not; it is being subscribed again where it is.
    Returning,
    /// It is being loaded in its new place.
    Arriving,
    /// It was asked to unload since nobody watches it.
    Releasing,
    /// Its app-server is gone; nobody has it.
    Lost,
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
    pub to_release: bool,
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
    pub gapped: bool,
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
    pub overgrown: bool,
}

/// One thread.
#[derive(Debug)]
pub struct Thread {
    pub id: ThreadId,
    pub server: ServerId,
    pub motion: Motion,
    pub audience: Audience,
    /// It is not on disk and never will be, or passes for such a one.
    pub ephemeral: bool,
    /// Nobody can join it any more, but a turn may run in it. When that has ended it is closed.
    pub deserted: bool,
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
    pub came_from: Option<ServerId>,
    pub materialised: bool,
    /// Its status as last told, raw.
    pub status: Box<str>,
    pub turns: Vec<Turn>,
    /// The turns that ended last: an answer may come after the end of what it began.
    pub ended: VecDeque<Box<str>>,
    pub items: Vec<OpenItem>,
    /// Until then it counts as busy: what follows a turn takes a moment to show.
    pub quiet_at: Now,
    /// Since when nobody watches it.
    pub unwatched_since: Option<Now>,
    /// When it is looked at next for that.
    pub unwatched_look_at: Now,
    /// Parameters of the last `thread/tokenUsage/updated` and `thread/goal/…`, raw.
    pub token_usage: Option<Box<str>>,
    pub goal: Option<Box<str>>,
    /// The goal was active and is paused by the gateway until the thread has moved.
    pub goal_held: bool,
    /// Until then what only repeats what is known is the echo of a resume of the gateway's own.
    pub hush_until: Now,
    /// That goal goes on by itself.
    pub goal_is_active: bool,
    /// A client has made its goal rest, which was not told yet.
    pub goal_rests: bool,
    /// Its user has interrupted its last turn: upstream lets an active goal rest then until somebody begins another.
    pub interrupted: bool,
    /// It is loaded for its goal's sake, and nobody was told of it.
    pub loads_unasked: bool,
    /// So many app-servers died in a row while it was being loaded, or right after.
    pub losses: u32,
    /// When it was loaded again after a loss.
    pub loaded_at: Option<Now>,
    /// Who resumed it last: what then repeats what is known is meant for that one.
    pub joiner: Option<ClientId>,
    /// What keeps it where it is, as last seen.
    pub blocked_on: BlockedOn,
    /// It stands in the queue of those to be moved.
    pub queued: bool,
    /// It is looked at again later: a timer runs.
    pub looked_at_again: bool,
    /// Its queue was left alone for a while: nothing of it begins by itself, and it is on disk.
    pub queue_rests: bool,
    /// A realtime session is open in it.
    pub realtime: bool,
    /// Its status as its new place has it, until the truth about its turn is known.
    pub status_now: Option<Box<str>>,
    /// Something of the turn that runs was missed: texts whose beginning was not seen are told when they are whole.
    pub gap: bool,
    /// What was told while the truth about its turn was not known yet.
    pub deferred: Vec<Text>,
    pub deferred_bytes: usize,
    /// How often it refused to load, and when it is tried again.
    pub tries: u32,
    /// Why an app-server refused to load it, in that one's words; `None` once it is loaded.
    pub refused: Option<Box<str>>,
    pub again_at: Now,
    /// A client waits for it to be loaded.
    pub demand: Option<Demand>,
    /// Fingerprints of the items of the running turn that were told whole: by id, and by text, since 0.169.0 gives an
    /// answer another id when it reads it from disk.
    pub told: Vec<u64>,
}

impl Thread {
    pub fn new(id: ThreadId, server: ServerId, audience: Audience) -> Self {
        Self {
            id,
            server,
            motion: Motion::Still,
            audience,
            ephemeral: false,
            deserted: false,
            is_child: false,
            lineage: Lineage::default(),
            path: None,
            cwd: None,
            model_provider: None,
            came_from: None,
            materialised: false,
            status: Box::from(r#"{"type":"idle"}"#),
            turns: Vec::new(),
            ended: VecDeque::new(),
            items: Vec::new(),
            quiet_at: Now::default(),
            unwatched_since: None,
            unwatched_look_at: Now::default(),
            token_usage: None,
            goal: None,
            goal_held: false,
            hush_until: Now::default(),
            goal_is_active: false,
            goal_rests: false,
            interrupted: false,
            loads_unasked: false,
            losses: 0,
            loaded_at: None,
            joiner: None,
            blocked_on: BlockedOn::Nothing,
            queued: false,
            looked_at_again: false,
            queue_rests: false,
            realtime: false,
            status_now: None,
            gap: false,
            deferred: Vec::new(),
            deferred_bytes: 0,
            tries: 0,
            refused: None,
            again_at: Now::default(),
            demand: None,
            told: Vec::new(),
        }
    }

    /// Whether a turn runs, or may be about to: a little longer than it is told, for a queued message or a goal begins
    /// the next.
    pub fn is_busy(&self, now: Now) -> bool {
        !self.turns.is_empty() || self.is_active() || now < self.quiet_at
    }

    /// An app-server refused to load it, but may later: in how many ms it is to be tried again. `None` where it is loaded for
    /// its goal's sake alone and no client waits for it: the goal is postponed.
    pub fn try_again_after(&mut self, refusal: Refusal) -> Option<u64> {
        self.tries += 1;
        let hasty = if refusal == Refusal::NotYet { HASTY_TRIES_MAX } else { 0 };
        if self.loads_unasked && self.tries > hasty && !self.is_watched() {
            return None;
        }
        Some(match refusal {
            Refusal::NotYet if self.tries <= HASTY_TRIES_MAX => AGAIN_AFTER_MS,
            Refusal::NotYet if self.tries <= LATE_TRIES_MAX => AGAIN_LATE_AFTER_MS,
            Refusal::NotYet => REFUSED_AGAIN_MAX_MS,
            _ => (AGAIN_LATE_AFTER_MS << (self.tries - 1).min(16)).min(REFUSED_AGAIN_MAX_MS),
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
        self.materialised = true;
        self.queue_rests = false;
        match self.turns.iter_mut().find(|turn| *turn.id == *id) {
            Some(turn) => {
                turn.raw = raw.into();
                turn.lost = false;
            }
            None => {
                self.interrupted = false;
                self.turns.push(Turn { id: id.into(), raw: raw.into(), lost: false, cut: false });
            }
        }
    }

    pub fn turn_ended(&mut self, id: &str) {
        self.turns.retain(|turn| *turn.id != *id);
        self.keep_background_terminals(id);
        self.gap &= !self.turns.is_empty();
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
