//! Opens a connection to an app-server: connect, WebSocket handshake, `initialize`.

use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use codexd_protocol::unix::SocketAddress;
use codexd_protocol::{Message, RequestId};
use serde_json::json;
use tokio::net::UnixStream;

use super::connection::{Peer, Ready, WsConnection};
use super::control_listener::is_allowed_user;
use super::shell_context::ShellContext;
use super::stream::Stream;
use crate::hub::Text;
use crate::limits::{HTTP_HEAD_BYTES_MAX, PROBE_FIRST_WAIT_MS, UPSTREAM_BYTES_MAX};
use codexd_protocol::websocket::handshake;

/// The name of upstream's own daemon. The app-server does not take it as the client name of the process (observed on 0.131.0
/// and 0.169.0).
const PROBE_NAME: &str = "codex_app_server_daemon";

/// The response to `initialize`.
#[derive(Debug)]
pub(crate) enum Answer {
    Result(Text),
    /// The error object.
    Refusal(Text),
}

/// The `initialize` request of a readiness probe.
pub(crate) fn readiness_probe() -> Text {
    json!({"id": 0, "method": "initialize", "params": {
        "clientInfo": {"name": PROBE_NAME, "title": null, "version": env!("CARGO_PKG_VERSION")}}})
    .to_string()
    .into()
}

/// Opens a connection and sends `initialize`, whose id is 0. Also returns the other messages that arrived, in order. It has no
/// time limit.
pub(crate) async fn open(
    shell: &Rc<ShellContext>,
    socket: &Path,
    initialize: Text,
) -> io::Result<(Rc<WsConnection>, Answer, Vec<Text>)> {
    let stream = Stream::unix(connect(socket).await?)?;
    let rest = handshake(&stream).await?;
    let connection = WsConnection::new(stream, Peer::AppServer, Rc::clone(&shell.write_queue));
    connection.push(initialize).map_err(|_| io::ErrorKind::OutOfMemory)?;
    let mut received = Received::default();
    let mut read = connection.take(&rest, |text| received.take(text)).map(drop);
    loop {
        if let Some(answer) = received.answer.take() {
            return Ok((connection, answer, received.others));
        }
        if read.is_err()
            || received.bytes > UPSTREAM_BYTES_MAX
            || connection.ready(|| true).await == Ready::Ended
        {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut buffer = shell.read_buffer.borrow_mut();
        read = connection.read(&mut buffer, |text| received.take(text)).map(drop);
    }
}

#[derive(Debug, Default)]
struct Received {
    answer: Option<Answer>,
    others: Vec<Text>,
    bytes: usize,
}

impl Received {
    fn take(&mut self, text: Text) {
        if self.answer.is_none() {
            self.answer = answer(&text);
            if self.answer.is_some() {
                return;
            }
        }
        self.bytes += text.len();
        self.others.push(text);
    }
}

/// The response to the request with id 0, if the message is it.
fn answer(text: &str) -> Option<Answer> {
    let Ok(message @ Message::Response { outcome, .. }) = codexd_protocol::parse(text) else { return None };
    if message.request_id() != Some(RequestId::Integer(0)) {
        return None;
    }
    Some(match outcome {
        Ok(result) => Answer::Result(result.get().into()),
        Err(error) => Answer::Refusal(error.get().into()),
    })
}

/// The path may be longer than a socket address. Retries while the listener's backlog is full.
async fn connect(socket: &Path) -> io::Result<UnixStream> {
    let address = SocketAddress::new(socket)?;
    loop {
        match UnixStream::connect(address.as_path()).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                tokio::time::sleep(Duration::from_millis(PROBE_FIRST_WAIT_MS)).await;
            }
            Ok(stream) => {
                let uid = stream.peer_cred()?.uid();
                if !is_allowed_user(uid) {
                    let message = format!("{} belongs to uid {uid}", socket.display());
                    return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
                }
                return Ok(stream);
            }
            failed => return failed,
        }
    }
}

/// Returns the bytes that followed the response to the upgrade.
async fn handshake(stream: &Stream) -> io::Result<Vec<u8>> {
    let (request, key) = handshake::ask();
    stream.write_all(&request).await?;
    let mut head = Vec::new();
    loop {
        match handshake::parse_answer(&head, &key).map_err(io::Error::other)? {
            Some(length) => return Ok(head.split_off(length)),
            None if head.len() >= HTTP_HEAD_BYTES_MAX => return Err(io::ErrorKind::InvalidData.into()),
            None => stream.read_more(&mut head).await?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::connect;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_server_socket_on_which_another_user_listens_is_not_used() -> std::io::Result<()> {
        if !rustix::process::geteuid().is_root() {
            codexd_testkit::skip!("only root can listen as another user");
        }
        let folder = tempfile::tempdir()?;
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777))?;
        let path = folder.path().join("s");
        let bind = || {
            let other = rustix::process::Uid::from_raw(65_534);
            // The system call changes this thread alone.
            rustix::thread::set_thread_res_uid(other, other, other)?;
            codexd_protocol::unix::bind(&path)
        };
        let listener = std::thread::scope(|scope| scope.spawn(bind).join().expect("no panic"))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let error = runtime.block_on(connect(&path)).expect_err("another user's");
        assert_eq!(error.to_string(), format!("{} belongs to uid 65534", path.display()));
        drop(listener);
        std::fs::remove_file(&path)?;
        let _own = codexd_protocol::unix::bind(&path)?;
        runtime.block_on(connect(&path)).map(drop)
    }
}
