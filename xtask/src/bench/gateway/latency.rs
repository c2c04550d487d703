//! How long a lone small request takes, whichever way it goes.
//!
//! What a switch between processes costs changes from one second to the next with what the machine does besides. So the ways
//! take turns every few requests, and what is compared was measured in the same moments.

use std::time::Instant;

use codexd_testkit::wire::Wire;
use serde_json::json;

use super::super::samples::Samples;
use super::stage::Stage;

/// A way has its turn for so many requests.
const TURN: usize = 200;
/// The first ones open connections and fill caches.
const WARM: usize = 100;

/// The times of one way, in microseconds.
#[derive(Debug, Default)]
pub struct Times {
    /// Requests that go through the hub.
    pub hub: Samples,
    /// Requests on the client's own connection.
    pub own: Samples,
}

/// Measures at least so many requests of each kind on every way, in whole turns.
///
/// # Errors
/// One fails.
pub fn measure(ways: &[&Stage], calls: usize) -> anyhow::Result<Vec<Times>> {
    let mut clients = Vec::new();
    for stage in ways {
        let mut wire = stage.client()?;
        let thread = stage.thread(&mut wire)?;
        clients.push(Client {
            wire,
            about: json!({"threadId": thread}).to_string(),
            times: Times::default(),
        });
    }
    for client in &mut clients {
        client.ask_about_thread(WARM)?;
        client.ask_for_loaded(WARM)?;
        client.times = Times::default();
    }
    let turns = calls.div_ceil(TURN);
    for ask in [Client::ask_about_thread, Client::ask_for_loaded] {
        for turn in 0..turns {
            let first = turn % clients.len();
            clients.rotate_left(first);
            clients.iter_mut().try_for_each(|client| ask(client, TURN))?;
            clients.rotate_right(first);
        }
    }
    Ok(clients.into_iter().map(|client| client.times).collect())
}

struct Client {
    wire: Wire,
    about: String,
    times: Times,
}

impl Client {
    fn ask_about_thread(&mut self, calls: usize) -> anyhow::Result<()> {
        ask(&mut self.wire, "thread/goal/get", &self.about, calls, &mut self.times.hub)
    }

    fn ask_for_loaded(&mut self, calls: usize) -> anyhow::Result<()> {
        ask(&mut self.wire, "thread/loaded/list", "{}", calls, &mut self.times.own)
    }
}

fn ask(wire: &mut Wire, method: &str, params: &str, calls: usize, times: &mut Samples) -> anyhow::Result<()> {
    for _ in 0..calls {
        let started = Instant::now();
        wire.round_trip(method, params)?;
        times.push(started.elapsed().as_secs_f64() * 1e6);
    }
    Ok(())
}
