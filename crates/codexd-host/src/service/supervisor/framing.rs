//! Lines on the supervisor's socket: orders with ids, replies and reports, read and written. [`super::wire`] has the orders and
//! reports themselves.

use serde::{Deserialize, Serialize};

use super::wire::{Order, Refusal, Report};

/// An order with its id.
#[derive(Debug, Serialize)]
pub struct NumberedOrder<'a> {
    /// Unique on the connection.
    pub id: u64,
    /// The order.
    #[serde(flatten)]
    pub order: &'a Order,
}

/// A received order.
#[derive(Debug)]
pub struct ReadOrder {
    /// The id; `None` from an older program.
    pub id: Option<u64>,
    /// The order, or why it cannot be read.
    pub order: Result<Box<Order>, String>,
}

/// A reply to an order.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Reply {
    /// The id of the order.
    pub re: u64,
    /// Its status.
    #[serde(flatten)]
    pub status: ReplyStatus,
}

/// The status of an order.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "status", rename_all = "camelCase")]
pub enum ReplyStatus {
    /// Being carried out: later reports are later than the order.
    Progress,
    /// Carried out, as far as possible at once.
    Ok,
    /// Cannot be carried out.
    Refused(Refusal),
}

/// A message of the supervisor.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Message {
    /// To this connection.
    Reply(Reply),
    /// To all connections, or to the gateway.
    Report(Report),
}

/// The line for a message.
///
/// # Errors
/// The value cannot be serialized: a path in it is not UTF-8.
pub fn line(value: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}

/// Reads a line that the supervisor received.
pub fn read_order(line: &[u8]) -> ReadOrder {
    #[derive(Deserialize)]
    struct Numbered {
        #[serde(default)]
        id: Option<u64>,
    }
    let id = serde_json::from_slice::<Numbered>(line).ok().and_then(|numbered| numbered.id);
    let order = serde_json::from_slice(line).map(Box::new);
    ReadOrder { id, order: order.map_err(|error| format!("the order cannot be read: {error}")) }
}

/// Reads a line of a supervisor; `None` if only a newer program knows the message.
pub fn read_message(line: &[u8]) -> Option<Message> {
    #[derive(Deserialize)]
    struct Head {
        #[serde(default)]
        re: Option<u64>,
    }
    let head: Head = serde_json::from_slice(line).ok()?;
    match head.re {
        Some(_) => serde_json::from_slice(line).ok().map(Message::Reply),
        None => serde_json::from_slice(line).ok().map(Message::Report),
    }
}
