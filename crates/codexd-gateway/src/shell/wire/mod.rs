//! WebSocket as the gateway needs it (RFC 6455): text both ways, no extensions.
//!
//! Reading and writing are functions of bytes; the sockets are elsewhere. They are our own because one process holds
//! thousands of connections: what is read and written goes through two buffers that all share, so an idle connection has
//! none, and a message that a thousand viewers get is never copied per viewer but into the one buffer it is written from.
//! The handshake and the length fields of a header are the library's.

pub(crate) mod decode;
pub(crate) mod frame;
pub(crate) mod handshake;
