//! One thread: the app-server that has it, its state, viewers, running turns and partial text.

use std::collections::VecDeque;
use std::rc::Rc;

use crate::hub::event::{BlockedOn, ClientId, Now, ServerId, Text, ThreadId};
use crate::hub::goals::thread_goal::ThreadGoal;
use crate::hub::refusal::Refusal;
use crate::hub::threads::lineage::Lineage;
use crate::hub::threads::profile::Profile;
use crate::hub::threads::state::{LoadDemand, Residency, ThreadState};
use crate::limits::{
    FAST_RETRIES_MAX, REFUSED_RETRY_MAX_MS, RETRY_AFTER_MS, SLOW_RETRIES_MAX, SLOW_RETRY_AFTER_MS,
    TURNS_REMEMBERED_MAX,
};

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

/// Which clients receive the notifications of a thread.
#[derive(Clone, Debug)]
pub enum Audience {
    /// The clients that started or resumed it.
    Viewers(Vec<Viewer>),
    /// Every client except `but`: the thread of a sub-agent. The clients in `joined` resumed it explicitly.
    Everyone { but: Vec<ClientId>, joined: Vec<Viewer> },
}

impl Audience {
    pub fn everyone() -> Self {
        Audience::Everyone { but: Vec::new(), joined: Vec::new() }
    }
}

/// A running turn.
#[derive(Clone, Debug)]
pub struct Turn {
    pub id: Box<str>,
    /// The turn as last reported, raw JSON.
    pub raw: Box<str>,
    /// The connection broke: whether the turn continues is unknown.
    pub lost: bool,
    /// Its app-server is gone.
    pub cut: bool,
}

/// An item that has started and not completed.
#[derive(Clone, Debug)]
pub struct OpenItem {
    pub id: Box<str>,
    pub turn: Box<str>,
    /// Its `item/started` notification.
    pub started: Text,
    /// Streamed text.
    pub streams: Vec<Stream>,
    /// Its turn has ended and it is still running: a background terminal.
    pub background: bool,
    /// Its app-server is gone.
    pub orphaned: bool,
    /// Some deltas were missed: the rest is sent in one piece when the item completes.
    pub has_gap: bool,
}

/// One stream of deltas of an item.
#[derive(Clone, Debug)]
pub struct Stream {
    /// Notification method, and the raw member that tells parallel streams of one item apart.
    pub method: Box<str>,
    pub part: Box<str>,
    pub text: String,
    /// The last delta notification: the template for one with the whole text.
    pub last: Text,
    /// The text exceeded its limit and was dropped; late viewers do not receive it.
    pub is_over_limit: bool,
}

/// One thread.
#[derive(Debug)]
pub struct Thread {
    pub id: ThreadId,
    pub server: ServerId,
    pub state: ThreadState,
    pub audience: Audience,
    pub residency: Residency,
    /// A sub-agent's thread: upstream subscribes every connection to it.
    pub is_child: bool,
    pub lineage: Lineage,
    /// Rollout path; `None` until reported.
    pub path: Option<String>,
    /// Working directory and model provider, which decide whether an app-server loads the thread; `None` until
    /// reported.
    pub cwd: Option<Box<str>>,
    pub model_provider: Option<Box<str>>,
    /// The app-server that it was unloaded from to migrate. That one is not retired until the thread is loaded
    /// somewhere, and loads it again if the successor refuses.
    pub unloaded_from: Option<ServerId>,
    /// Status as last sent to clients, raw JSON.
    pub status: Box<str>,
    pub turns: Vec<Turn>,
    /// Ids of the turns that ended last: a response may arrive after the end of the turn that it started.
    pub ended: VecDeque<Box<str>>,
    pub items: Vec<OpenItem>,
    /// Counts as busy until then: what follows a turn takes a moment to show.
    pub busy_until: Now,
    /// When the last viewer left; `None` while the thread is watched.
    pub unwatched_since: Option<Now>,
    /// When the next unload check is due.
    pub unload_check_at: Now,
    /// Parameters of the last `thread/tokenUsage/updated`, raw JSON.
    pub token_usage: Option<Box<str>>,
    /// Until then a notification that repeats known state is the echo of the gateway's own resume.
    pub suppress_echo_until: Now,
    pub goal: ThreadGoal,
    /// Loaded in the background for its goal; clients were not notified.
    pub is_background_load: bool,
    /// Consecutive app-server crashes while the thread was loading, or right after.
    pub crash_count: u32,
    /// When it was recovered; `None` if it was not.
    pub recovered_at: Option<Now>,
    /// The client that resumed it last: it receives echoes.
    pub last_subscriber: Option<ClientId>,
    /// What blocks its migration, as last seen.
    pub blocked_on: BlockedOn,
    /// [`Timer::CheckAgain`](crate::hub::Timer) is set.
    pub has_check_timer: bool,
    /// Its message queue has not moved for a while: nothing starts by itself, and it is on disk.
    pub is_queue_paused: bool,
    pub has_realtime_session: bool,
    /// Part of the running turn was missed: deltas of items whose start was not seen are withheld until the item
    /// completes.
    pub has_gap: bool,
    /// Consecutive refused loads.
    pub load_attempts: u32,
    /// Error message of the last refused load; `None` once it is loaded.
    pub load_refusal: Option<Box<str>>,
    pub retry_at: Now,
    /// A client is waiting for it to be loaded.
    pub demand: Option<LoadDemand>,
    /// Fingerprints of the completed items of the running turn that clients received: of the id and of the text,
    /// because 0.169.0 assigns other ids when it reads items from disk.
    pub delivered: Vec<u64>,
}

impl Thread {
    pub fn new(id: ThreadId, server: ServerId, audience: Audience) -> Self {
        Self {
            id,
            server,
            state: ThreadState::Attached,
            audience,
            residency: Residency::default(),
            is_child: false,
            lineage: Lineage::default(),
            path: None,
            cwd: None,
            model_provider: None,
            unloaded_from: None,
            status: Box::from(r#"{"type":"idle"}"#),
            turns: Vec::new(),
            ended: VecDeque::new(),
            items: Vec::new(),
            busy_until: Now::default(),
            unwatched_since: None,
            unload_check_at: Now::default(),
            token_usage: None,
            suppress_echo_until: Now::default(),
            goal: ThreadGoal::default(),
            is_background_load: false,
            crash_count: 0,
            recovered_at: None,
            last_subscriber: None,
            blocked_on: BlockedOn::Nothing,
            has_check_timer: false,
            is_queue_paused: false,
            has_realtime_session: false,
            has_gap: false,
            load_attempts: 0,
            load_refusal: None,
            retry_at: Now::default(),
            demand: None,
            delivered: Vec::new(),
        }
    }

    /// Whether a turn is running or may be about to start: a queued message or a goal starts the next one shortly
    /// after.
    pub fn is_busy(&self, now: Now) -> bool {
        !self.turns.is_empty() || self.is_active() || now < self.busy_until
    }

    /// Milliseconds until the next load attempt. `None` if the thread is loaded for its goal alone and no client
    /// waits: the goal is postponed.
    pub fn try_again_after(&mut self, refusal: Refusal) -> Option<u64> {
        self.load_attempts += 1;
        let hasty = if refusal == Refusal::RetrySoon { FAST_RETRIES_MAX } else { 0 };
        if self.is_background_load && self.load_attempts > hasty && !self.is_watched() {
            return None;
        }
        Some(match refusal {
            Refusal::RetrySoon if self.load_attempts <= FAST_RETRIES_MAX => RETRY_AFTER_MS,
            Refusal::RetrySoon if self.load_attempts <= SLOW_RETRIES_MAX => SLOW_RETRY_AFTER_MS,
            Refusal::RetrySoon => REFUSED_RETRY_MAX_MS,
            _ => (SLOW_RETRY_AFTER_MS << (self.load_attempts - 1).min(16)).min(REFUSED_RETRY_MAX_MS),
        })
    }

    /// Whether it ends with its app-server: it cannot be loaded again.
    pub fn is_ephemeral(&self) -> bool {
        !matches!(self.residency, Residency::Durable { .. })
    }

    pub fn is_unresumable(&self) -> bool {
        self.residency == Residency::Unresumable
    }

    pub fn is_recovering(&self) -> bool {
        matches!(self.state, ThreadState::Recovering { .. })
    }

    pub fn is_active(&self) -> bool {
        crate::hub::text::string(&self.status, "type").is_some_and(|kind| kind == "active")
    }

    /// Whether its last reported status is `notLoaded`.
    pub fn is_unloaded(&self) -> bool {
        crate::hub::text::string(&self.status, "type").is_some_and(|kind| kind == "notLoaded")
    }

    pub fn is_watched(&self) -> bool {
        match &self.audience {
            Audience::Viewers(viewers) => !viewers.is_empty(),
            Audience::Everyone { .. } => true,
        }
    }

    /// The clients that started, resumed or forked it.
    pub fn viewers(&self) -> &[Viewer] {
        match &self.audience {
            Audience::Viewers(viewers) => viewers,
            Audience::Everyone { joined, .. } => joined,
        }
    }

    /// Whether a client unsubscribed from this sub-agent's thread.
    pub fn has_left(&self, client: ClientId) -> bool {
        matches!(&self.audience, Audience::Everyone { but, .. } if but.contains(&client))
    }

    pub fn is_watched_by(&self, client: ClientId) -> bool {
        match &self.audience {
            Audience::Viewers(viewers) => viewers.iter().any(|viewer| viewer.client == client),
            Audience::Everyone { but, .. } => !but.contains(&client),
        }
    }

    /// Adds a viewer. Returns whether it is new.
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

    /// Removes a viewer. Returns whether it was one.
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
        self.residency.found_on_disk();
        self.is_queue_paused = false;
        match self.turns.iter_mut().find(|turn| *turn.id == *id) {
            Some(turn) => {
                turn.raw = raw.into();
                turn.lost = false;
            }
            None => {
                self.goal.turn_began();
                self.turns.push(Turn { id: id.into(), raw: raw.into(), lost: false, cut: false });
            }
        }
    }

    pub fn turn_ended(&mut self, id: &str) {
        self.turns.retain(|turn| *turn.id != *id);
        self.retain_background_terminals(id);
        self.has_gap &= !self.turns.is_empty();
        self.delivered.clear();
        self.ended.push_back(id.into());
        if self.ended.len() > TURNS_REMEMBERED_MAX {
            self.ended.pop_front();
        }
    }
}

impl Thread {
    /// Applies upstream's folder and provider of the thread.
    pub(in crate::hub) fn apply_profile(&mut self, raw: &str) {
        let reported = |member: &str| crate::hub::text::string(raw, member).map(Box::from);
        self.cwd = reported("cwd").or_else(|| self.cwd.take());
        self.model_provider = reported("modelProvider").or_else(|| self.model_provider.take());
    }

    pub fn profile(&self) -> Profile {
        Profile { cwd: self.cwd.clone(), provider: self.model_provider.clone() }
    }
}
