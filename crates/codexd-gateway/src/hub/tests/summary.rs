//! What is left in a hub when a history has ended.

use crate::hub::Hub;

/// What is left in a hub, in few words.
pub fn summary(hub: &Hub) -> String {
    let thread = |thread: &crate::hub::threads::thread::Thread| {
        let (id, server, state) = (&thread.id, thread.server, &thread.state);
        let (turns, status, alone) = (thread.turns.len(), &thread.status, thread.unwatched_since);
        format!(
            "{id} on {server:?}: {state:?}, {turns} turns, {status}, alone {alone:?}, {:?}",
            thread.blocked_on
        )
    };
    let threads: Vec<String> = hub.threads.values().map(thread).collect();
    let servers: Vec<String> = (hub.servers.iter())
        .map(|(id, server)| {
            format!("{id:?}: {:?} listed {} outgoing {}", server.shared, server.is_listed, server.is_outgoing)
        })
        .collect();
    let (current, serving, handover) = (hub.servers.current(), hub.servers.serving(), &hub.migration);
    format!(
        "now {:?}\nthreads {threads:#?}\nservers {servers:#?}\ncurrent {current:?} serving {serving:?}\n{handover:?}\n\
         calls {:?}\nasks {:?}\nqueue {:?} timers {:?}",
        hub.now, hub.pending, hub.server_requests, hub.queue, hub.timers
    )
}
