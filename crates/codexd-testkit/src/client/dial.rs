//! Opening a connection.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};

use anyhow::Context;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

/// Where an app-server listens.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Place {
    /// A Unix socket, its path of any length.
    Socket(PathBuf),
    /// A `ws://host:port/path`.
    Url(String),
}

impl From<&Path> for Place {
    fn from(path: &Path) -> Place {
        Place::Socket(path.to_owned())
    }
}

impl From<PathBuf> for Place {
    fn from(path: PathBuf) -> Place {
        Place::Socket(path)
    }
}

pub(super) async fn open(place: &Place, headers: &[(&str, &str)]) -> anyhow::Result<WebSocketStream<Stream>> {
    let (stream, url) = match place {
        Place::Socket(path) => (Stream::Unix(unix(path)?), "ws://localhost/"),
        Place::Url(url) => (Stream::Tcp(tcp(url).await?), url.as_str()),
    };
    let mut request = url.into_client_request().with_context(|| format!("{url} is not a ws:// url"))?;
    for (name, value) in headers {
        let name = HeaderName::try_from(*name).with_context(|| format!("{name} is not a header"))?;
        request.headers_mut().insert(name, HeaderValue::try_from(*value)?);
    }
    let limits = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
    let (connection, _response) = client_async_with_config(request, stream, Some(limits))
        .await
        .with_context(|| format!("the handshake with {place:?} failed"))?;
    Ok(connection)
}

fn unix(path: &Path) -> anyhow::Result<UnixStream> {
    let stream = codexd_protocol::unix::connect(path)
        .with_context(|| format!("failed to connect to {}", path.display()))?;
    stream.set_nonblocking(true)?;
    Ok(UnixStream::from_std(stream)?)
}

async fn tcp(url: &str) -> anyhow::Result<TcpStream> {
    let rest = url.strip_prefix("ws://").with_context(|| format!("{url} is not a ws:// url"))?;
    let host = rest.split_once('/').map_or(rest, |(host, _path)| host);
    let stream = TcpStream::connect(host).await.with_context(|| format!("failed to connect to {host}"))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The bytes below a WebSocket.
#[derive(Debug)]
pub(super) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        task: &mut TaskContext<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Stream::Unix(stream) => Pin::new(stream).poll_read(task, buffer),
            Stream::Tcp(stream) => Pin::new(stream).poll_read(task, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        task: &mut TaskContext<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Stream::Unix(stream) => Pin::new(stream).poll_write(task, bytes),
            Stream::Tcp(stream) => Pin::new(stream).poll_write(task, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Stream::Unix(stream) => Pin::new(stream).poll_flush(task),
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(task),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(task),
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(task),
        }
    }
}
