//! A Responses API on loopback, so that a real app-server runs turns without an account or a network.
//!
//! It has a thread and a runtime of its own: it answers also while a test blocks. How it answers is written in the
//! user's message (see [`Directives`]): `hello [[deltas=500 delay=0.002]]`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, Response, StatusCode};
use axum::routing::{get, post};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};

mod answer;
mod directives;
mod events;
mod log;

pub use directives::{Directives, Failure, Tool};
pub use log::{ModelEvent, ModelRequest};

use answer::Answer;
use log::Log;

/// A running mock model; it ends when this is dropped.
#[derive(Debug)]
pub struct MockModel {
    address: SocketAddr,
    log: Log,
    released: watch::Sender<Vec<String>>,
    _stop: oneshot::Sender<()>,
}

#[derive(Clone)]
struct Shared {
    count: Arc<AtomicUsize>,
    log: Log,
    released: watch::Receiver<Vec<String>>,
}

impl MockModel {
    /// Starts one on a free port.
    ///
    /// # Errors
    /// There is no loopback to listen on.
    pub fn start() -> anyhow::Result<MockModel> {
        let log = Log::new();
        let (released, receiver) = watch::channel(Vec::new());
        let (stop, stopped) = oneshot::channel();
        let shared = Shared { count: Arc::default(), log: log.clone(), released: receiver };
        let listener = std::net::TcpListener::bind("127.0.0.1:0").context("failed to listen on loopback")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        thread::Builder::new()
            .name("mock-model".to_owned())
            .spawn(move || serve(listener, shared, stopped))?;
        Ok(MockModel { address, log, released, _stop: stop })
    }

    /// The `base_url` of a model provider.
    pub fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Lets every answer with `[[hold=NAME]]` end, now and later.
    pub fn release(&self, name: &str) {
        self.released.send_modify(|names| names.push(name.to_owned()));
    }

    /// Everything that happened so far.
    pub fn events(&self) -> Vec<ModelEvent> {
        self.log.events()
    }

    /// The requests so far.
    pub fn requests(&self) -> Vec<ModelRequest> {
        requests(&self.events()).cloned().collect()
    }

    /// Waits for the first request whose user message contains `text`.
    ///
    /// # Errors
    /// None came in time.
    pub async fn wait_request(&self, text: &str, timeout: Duration) -> anyhow::Result<ModelRequest> {
        let what = format!("a request with {text:?}");
        let find = |events: &[ModelEvent]| {
            requests(events).find(|request| request.user_message.contains(text)).cloned()
        };
        self.wait_event(&what, timeout, find).await
    }

    /// Waits until `look` finds what it wants in everything that happened so far.
    ///
    /// # Errors
    /// It found nothing in time.
    pub async fn wait_event<T>(
        &self,
        what: &str,
        timeout: Duration,
        look: impl FnMut(&[ModelEvent]) -> Option<T>,
    ) -> anyhow::Result<T> {
        self.log.wait(timeout, what, look).await
    }
}

fn requests(events: &[ModelEvent]) -> impl Iterator<Item = &ModelRequest> {
    events.iter().filter_map(|event| match event {
        ModelEvent::Received(request) => Some(request),
        _ => None,
    })
}

fn serve(listener: std::net::TcpListener, shared: Shared, stopped: oneshot::Receiver<()>) {
    let routes = Router::new()
        .route("/v1/responses", post(responses))
        .route("/v1/models", get(models))
        .layer(DefaultBodyLimit::disable())
        .with_state(shared);
    crate::block_on(async {
        let listener = TcpListener::from_std(listener).expect("the listener is non-blocking");
        tokio::select! {
            served = axum::serve(listener, routes) => served.expect("serving never ends by itself"),
            _dropped = stopped => {}
        }
    });
}

async fn responses(State(shared): State<Shared>, headers: HeaderMap, body: String) -> Response<Body> {
    let Ok(body) = serde_json::from_str::<Value>(&body) else {
        let mut refused = Response::new(Body::from("the request is not JSON"));
        *refused.status_mut() = StatusCode::BAD_REQUEST;
        return refused;
    };
    let number = shared.count.fetch_add(1, Ordering::Relaxed) + 1;
    let (user_message, after_tool) = directives::last_user_message(&body);
    let directives = Directives::parse(&user_message);
    let text = |value: &axum::http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers = headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
    let request = ModelRequest { number, user_message, after_tool, headers, body: body.clone() };
    shared.log.add(ModelEvent::Received(request));
    Answer { number, body, directives, after_tool, released: shared.released, log: shared.log }
        .into_response()
}

async fn models() -> axum::Json<Value> {
    axum::Json(json!({"object": "list", "data": [{"id": "mock-model", "object": "model"}], "models": []}))
}

#[cfg(test)]
mod tests;
