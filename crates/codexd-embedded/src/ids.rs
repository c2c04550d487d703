//! Newtypes for every id of the protocol, and the generator of new ids.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::{Builder, Uuid};

use crate::timestamp::Timestamp;

/// One client connection of this process.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct ConnectionId(pub u64);

/// The id of a server request; counted from 0 over the whole process, as upstream.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub(crate) struct ServerRequestId(pub i64);

/// A thread: a UUID, so in the order of creation.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(into = "String", try_from = "String")]
pub(crate) struct ThreadId(Uuid);

impl ThreadId {
    /// Reads what a client sent; the error is the part of upstream's sentence after "invalid thread id: ".
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        Uuid::parse_str(text).map(Self).map_err(|error| match text.len() {
            32 | 36 | 38 | 45 => error.to_string(),
            other => format!("invalid length: expected length 32 for simple format, found {other}"),
        })
    }

    /// Creation time in milliseconds since 1970: the first 48 bits of a version 7 UUID.
    pub(crate) fn created_millis(self) -> i64 {
        i64::try_from(self.0.as_u128() >> 80).expect("48 bits fit")
    }
}

impl fmt::Display for ThreadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A turn of a thread.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(into = "String", try_from = "String")]
pub(crate) struct TurnId(Uuid);

impl fmt::Display for TurnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<ThreadId> for String {
    fn from(id: ThreadId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for ThreadId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}

impl From<TurnId> for String {
    fn from(id: TurnId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for TurnId {
    type Error = uuid::Error;

    fn try_from(text: String) -> Result<Self, uuid::Error> {
        Uuid::try_parse(&text).map(Self)
    }
}

/// An item of a turn: a UUID for a user message, `msg_N` and `call_N` for the model's items.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub(crate) struct ItemId(pub String);

/// Generates ids from the time and a seed: different in every process, the same in every run of a test.
#[derive(Debug)]
pub(crate) struct IdGenerator {
    state: u64,
}

impl IdGenerator {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    pub(crate) fn thread(&mut self, now: Timestamp) -> ThreadId {
        ThreadId(self.uuid(now))
    }

    pub(crate) fn turn(&mut self, now: Timestamp) -> TurnId {
        TurnId(self.uuid(now))
    }

    pub(crate) fn item(&mut self, now: Timestamp) -> ItemId {
        ItemId(self.uuid(now).to_string())
    }

    /// The first number for model calls.
    pub(crate) fn first_call(&mut self) -> u64 {
        self.next() % 1_000_000_000 * 1_000_000
    }

    /// A process number like those that upstream gives to commands.
    pub(crate) fn process(&mut self) -> String {
        (10_000 + self.next() % 80_000).to_string()
    }

    fn uuid(&mut self, now: Timestamp) -> Uuid {
        let mut random = [0; 10];
        random[..8].copy_from_slice(&self.next().to_le_bytes());
        random[8..].copy_from_slice(&self.next().to_le_bytes()[..2]);
        Builder::from_unix_timestamp_millis(now.millis(), &random).into_uuid()
    }

    /// SplitMix64: every seed walks through all 2^64 values.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::{IdGenerator, ThreadId};
    use crate::timestamp::Timestamp;

    #[test]
    fn two_threads_of_one_millisecond_differ() {
        let mut id_generator = IdGenerator::new(1);
        let now = Timestamp::from_millis(1_795_000_000_000);
        assert_ne!(id_generator.thread(now), id_generator.thread(now));
    }

    #[test]
    fn a_thread_id_survives_the_wire() {
        let id = IdGenerator::new(7).thread(Timestamp::from_millis(1));
        assert_eq!(ThreadId::parse(&id.to_string()), Ok(id));
    }

    #[test]
    fn what_is_no_id_is_refused_in_upstreams_words() {
        assert_eq!(
            ThreadId::parse("bad"),
            Err("invalid length: expected length 32 for simple format, found 3".to_owned())
        );
    }
}
