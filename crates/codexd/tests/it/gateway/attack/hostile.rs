//! Clients that attack, each in one way.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::super::chaos::Rng;
use super::pipe::Pipe;
use super::{ATTACK_PART, Field, traffic};

/// How little a step writes at the least of a flood.
const FLOOD_BYTES: usize = 64 << 10;
/// Messages that are larger than this are large.
const LARGE_BYTES: usize = 8 << 20;
/// So many connections hold a large message at once: the machine needs its memory, too.
const LARGE_AT_ONCE: usize = 4;
/// Larger than any message may be.
const BEYOND_ANY_MESSAGE: u64 = 64 * 1024 * 1024 + 1;
/// What one connection to the supervisor sends without a line break, at the most.
const UNFINISHED_LINE_BYTES: usize = 8 << 20;
/// The pause of a worker none of whose clients could do anything.
const PAUSE: Duration = Duration::from_millis(1);
/// How much nicer than the gateway the workers are: what is measured is the gateway, and not who gets the processor.
const NICENESS: i32 = 10;

/// A way to attack.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    /// Bytes at random in place of a handshake.
    Garbage,
    /// A handshake that never ends, byte by byte.
    SlowHandshake,
    /// A handshake whose head grows.
    EndlessHead,
    /// Frames that the RFC forbids.
    BadFrames,
    /// Messages that are malformed.
    Malformed,
    /// Malformed introductions.
    BadIntroductions,
    /// Answers to questions of others.
    UncalledAnswers,
    /// A connection that says nothing after its handshake, or after its introduction.
    Silence,
    /// A viewer that does not read.
    StalledViewer,
    /// Requests without end, whose answers it does not read.
    UnreadFlood,
    /// Requests without end, whose answers are read.
    Flood,
    /// Pings without end.
    Pings,
    /// Notifications without end.
    Notifications,
    /// Connections that come and go.
    Churn,
    /// Watches that are refused.
    RefusedWatches,
    /// The beginning of a large message.
    HalfAMessage,
    /// A large message.
    LargeMessage,
    /// A frame, or parts of a message, beyond any limit.
    Oversized,
    /// Large messages before the introduction.
    LargeBeforeIntroduction,
    /// A large request, and its client leaves.
    AbandonedRequest,
    /// A connection over TCP without a token that says nothing.
    SilentTcp,
    /// A connection over TCP with a wrong token, or with bytes at random.
    BadTcp,
    /// A connection to the supervisor that says nothing.
    SilentSupervisor,
    /// A line without an end to the supervisor.
    UnfinishedOrder,
    /// Lines to the supervisor that are no orders.
    BadOrders,
}

impl Kind {
    pub(super) const ALL: [Kind; 25] = [
        Kind::Garbage,
        Kind::SlowHandshake,
        Kind::EndlessHead,
        Kind::BadFrames,
        Kind::Malformed,
        Kind::BadIntroductions,
        Kind::UncalledAnswers,
        Kind::Silence,
        Kind::StalledViewer,
        Kind::UnreadFlood,
        Kind::Flood,
        Kind::Pings,
        Kind::Notifications,
        Kind::Churn,
        Kind::RefusedWatches,
        Kind::HalfAMessage,
        Kind::LargeMessage,
        Kind::Oversized,
        Kind::LargeBeforeIntroduction,
        Kind::AbandonedRequest,
        Kind::SilentTcp,
        Kind::BadTcp,
        Kind::SilentSupervisor,
        Kind::UnfinishedOrder,
        Kind::BadOrders,
    ];

    /// The kinds of the brief run without floods.
    pub(super) const BRIEF: [Kind; 17] = [
        Kind::Garbage,
        Kind::SlowHandshake,
        Kind::BadFrames,
        Kind::Malformed,
        Kind::BadIntroductions,
        Kind::UncalledAnswers,
        Kind::Silence,
        Kind::StalledViewer,
        Kind::Churn,
        Kind::HalfAMessage,
        Kind::Oversized,
        Kind::LargeBeforeIntroduction,
        Kind::SilentTcp,
        Kind::BadTcp,
        Kind::SilentSupervisor,
        Kind::UnfinishedOrder,
        Kind::BadOrders,
    ];

    /// The kinds of the brief run of floods. The others take part in a long run only, of a build with optimization: they keep the
    /// processor busy, and a debug build beside other tests delays the good clients by more than the bound.
    pub(super) const FLOODS: [Kind; 2] = [Kind::Flood, Kind::Pings];

    fn connect(self, field: &Field) -> io::Result<Pipe> {
        match self {
            Kind::SilentTcp | Kind::BadTcp => Pipe::tcp(&field.tcp),
            Kind::SilentSupervisor | Kind::UnfinishedOrder | Kind::BadOrders => {
                Pipe::unix(&field.supervisor_socket)
            }
            _ => Pipe::unix(&field.control_socket),
        }
    }

    /// What it begins with.
    fn begin(self, field: &Field, rng: &mut Rng) -> Vec<u8> {
        match self {
            Kind::Garbage | Kind::SlowHandshake | Kind::SilentTcp => Vec::new(),
            Kind::SilentSupervisor | Kind::UnfinishedOrder | Kind::BadOrders => Vec::new(),
            Kind::EndlessHead => b"GET /rpc HTTP/1.1\r\n".to_vec(),
            Kind::BadTcp if rng.one_in(2) => {
                b"GET /rpc HTTP/1.1\r\nhost: x\r\nauthorization: Bearer wrong\r\n\r\n".to_vec()
            }
            Kind::BadTcp => traffic::bytes(rng, 2_000),
            Kind::BadIntroductions | Kind::LargeBeforeIntroduction => traffic::HANDSHAKE.to_vec(),
            Kind::Silence if rng.one_in(2) => traffic::HANDSHAKE.to_vec(),
            Kind::StalledViewer => {
                let watched = field.watched.lock().expect("no worker panics here");
                let thread = &watched[rng.place(watched.len())];
                let join = format!(
                    r#"{{"id":1,"method":"thread/resume","params":{{"threadId":"{thread}","excludeTurns":true}}}}"#
                );
                [traffic::introduction(), traffic::text(join.as_bytes())].concat()
            }
            _ => traffic::introduction(),
        }
    }

    /// What it goes on with when everything before is written; `None` when it has nothing more to say.
    fn go_on(self, field: &Field, rng: &mut Rng, sent: usize) -> Option<Vec<u8>> {
        let flood = |one: &mut dyn FnMut() -> Vec<u8>| {
            let mut many = Vec::new();
            while many.len() < FLOOD_BYTES {
                many.extend(one());
            }
            Some(many)
        };
        match self {
            Kind::Garbage => Some(traffic::bytes(rng, 4_000)),
            Kind::SlowHandshake => {
                traffic::HANDSHAKE.get(sent..=sent).filter(|_| sent < 100).map(<[u8]>::to_vec)
            }
            Kind::EndlessHead => {
                Some(format!("x-{}: {}\r\n", rng.below(1 << 31), "x".repeat(400)).into_bytes())
            }
            Kind::BadFrames => Some(traffic::bad_frame(rng)),
            Kind::Malformed => Some(traffic::malformed(field, rng)),
            Kind::BadIntroductions => Some(traffic::bad_introduction(rng)),
            Kind::UncalledAnswers => Some(traffic::uncalled_answer(rng)),
            Kind::Silence | Kind::StalledViewer | Kind::SilentTcp | Kind::SilentSupervisor => None,
            Kind::Flood | Kind::UnreadFlood => flood(&mut || traffic::request(rng)),
            Kind::Pings => flood(&mut || traffic::frame(0x89, b"ping")),
            Kind::Notifications => flood(&mut || traffic::text(br#"{"method":"no/such/thing","params":{}}"#)),
            Kind::Churn | Kind::BadTcp => None,
            Kind::RefusedWatches => Some(traffic::refused_watch(rng)),
            Kind::HalfAMessage => Some(vec![b'x'; 1 + rng.place(4_000)]).filter(|_| sent < LARGE_BYTES),
            Kind::LargeMessage => {
                let length = 1 + rng.place(LARGE_BYTES);
                Some(traffic::large_request(rng, length))
            }
            Kind::Oversized if rng.one_in(2) => Some(traffic::header(0x81, BEYOND_ANY_MESSAGE)),
            Kind::Oversized => Some(traffic::frame(0x01, &vec![b'x'; 4 << 20])),
            Kind::LargeBeforeIntroduction => Some(traffic::large_request(rng, 4 << 20)),
            Kind::AbandonedRequest => (sent < 4 << 20).then(|| traffic::large_request(rng, 4 << 20)),
            Kind::UnfinishedOrder => Some(vec![b'{'; 64 << 10]).filter(|_| sent < UNFINISHED_LINE_BYTES),
            Kind::BadOrders => Some(bad_order(rng)),
        }
    }

    fn reads(self, rng: &mut Rng) -> bool {
        match self {
            Kind::StalledViewer | Kind::UnreadFlood => false,
            Kind::Malformed | Kind::Pings | Kind::BadOrders => rng.one_in(2),
            _ => true,
        }
    }

    /// Whether it holds much memory of the gateway.
    fn is_large(self) -> bool {
        matches!(
            self,
            Kind::HalfAMessage
                | Kind::LargeMessage
                | Kind::Oversized
                | Kind::LargeBeforeIntroduction
                | Kind::AbandonedRequest
        )
    }

    /// Steps until it leaves by itself.
    fn steps(self, rng: &mut Rng) -> u64 {
        match self {
            Kind::Churn => 1 + rng.below(3),
            Kind::Silence
            | Kind::SlowHandshake
            | Kind::StalledViewer
            | Kind::SilentTcp
            | Kind::SilentSupervisor => 500 + rng.below(2_000),
            _ => 1 + rng.below(400),
        }
    }
}

/// A line that orders nothing.
fn bad_order(rng: &mut Rng) -> Vec<u8> {
    let mut line = match rng.below(4) {
        0 => br#"{"order":"noSuchOrder"}"#.to_vec(),
        1 => br#"{"id":7,"order":{"noSuchOrder":{}}}"#.to_vec(),
        2 => b"\"\\ud800\"".to_vec(),
        _ => traffic::bytes(rng, 200),
    };
    line.push(b'\n');
    line
}

/// One hostile client.
struct Hostile {
    kind: Kind,
    pipe: Pipe,
    sent: usize,
    steps: u64,
}

impl Hostile {
    fn come(field: &Field, rng: &mut Rng) -> Option<Hostile> {
        let mut kind = field.kinds[rng.place(field.kinds.len())];
        if kind.is_large() && field.large.fetch_add(1, Ordering::SeqCst) >= LARGE_AT_ONCE {
            field.large.fetch_sub(1, Ordering::SeqCst);
            kind = *field.kinds.iter().find(|kind| !kind.is_large())?;
        }
        field.came.fetch_add(1, Ordering::Relaxed);
        let connected = kind.connect(field);
        if connected.is_err() && kind.is_large() {
            field.large.fetch_sub(1, Ordering::SeqCst);
        }
        // One that is refused comes again.
        let mut pipe = connected.ok()?;
        let begins_with = kind.begin(field, rng);
        match begins_with.strip_prefix(traffic::HANDSHAKE) {
            Some(rest) if field.is_direct => {
                pipe.shake_hands(traffic::HANDSHAKE).ok()?;
                pipe.push(rest);
            }
            _ => pipe.push(&begins_with),
        }
        if kind == Kind::HalfAMessage {
            pipe.push(&traffic::header(0x81, 16 << 20));
        }
        Some(Hostile { kind, pipe, sent: 0, steps: kind.steps(rng) })
    }

    /// Does a little; gives how many bytes went, or nothing when it has left or was thrown out.
    fn step(&mut self, field: &Field, rng: &mut Rng) -> Option<usize> {
        self.steps = self.steps.checked_sub(1)?;
        if self.pipe.is_empty()
            && let Some(more) = self.kind.go_on(field, rng, self.sent)
        {
            self.sent += more.len();
            self.pipe.push(&more);
        }
        let wrote = self.pipe.write().ok()?;
        let read = if self.kind.reads(rng) { self.pipe.read().ok()? } else { 0 };
        Some(wrote + read)
    }

    fn leave(self, field: &Field) {
        if self.kind.is_large() {
            field.large.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// The life of one worker: so many hostile clients at a time.
pub(super) fn work(field: &Field, share: usize, mut rng: Rng) -> anyhow::Result<()> {
    // Of this thread alone.
    rustix::process::setpriority_process(None, NICENESS)?;
    let mut clients: Vec<Hostile> = Vec::new();
    while field.part() == ATTACK_PART && !field.failed.load(Ordering::SeqCst) {
        if clients.len() < share {
            clients.extend(Hostile::come(field, &mut rng));
        }
        let mut moved = 0;
        let mut at = 0;
        while at < clients.len() {
            match clients[at].step(field, &mut rng) {
                Some(bytes) => {
                    moved += bytes;
                    at += 1;
                }
                None => clients.swap_remove(at).leave(field),
            }
        }
        if moved == 0 {
            codexd_testkit::wait::pause(PAUSE);
        }
    }
    Ok(())
}
