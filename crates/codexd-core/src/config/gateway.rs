//! Whether the app-server is behind the gateway, and how the gateway listens.

use std::net::SocketAddr;

const SCHEME: &str = "ws://";

/// Which clients decide what a sub-agent asks: approvals, input, tool calls.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum SubagentApprovals {
    /// Those that watch the thread of the sub-agent or one that it descends from.
    #[default]
    Viewers,
    /// Every client that is connected, as without a gateway.
    All,
}

impl SubagentApprovals {
    /// The words for them in the configuration.
    pub const WORDS: &[&str] = &["viewers", "all"];

    /// The word for it in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            SubagentApprovals::Viewers => "viewers",
            SubagentApprovals::All => "all",
        }
    }

    /// Reads the word.
    pub fn from_word(word: &str) -> Option<SubagentApprovals> {
        [SubagentApprovals::Viewers, SubagentApprovals::All].into_iter().find(|known| known.as_str() == word)
    }
}

/// The gateway that is wanted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Gateway {
    /// None: the app-server makes the control socket itself.
    Off,
    /// One that owns the control socket.
    On {
        /// Where it also listens for WebSocket clients over TCP.
        listen: Option<SocketAddr>,
        /// Which clients decide what a sub-agent asks.
        subagent_approvals: SubagentApprovals,
    },
}

impl Default for Gateway {
    fn default() -> Self {
        Gateway::On { listen: None, subagent_approvals: SubagentApprovals::default() }
    }
}

impl Gateway {
    /// Whether there is to be one.
    pub fn is_on(self) -> bool {
        matches!(self, Gateway::On { .. })
    }

    /// Where it listens over TCP, if anywhere.
    pub fn listen(self) -> Option<SocketAddr> {
        match self {
            Gateway::On { listen, .. } => listen,
            Gateway::Off => None,
        }
    }

    /// Which clients decide what a sub-agent asks.
    pub fn subagent_approvals(self) -> SubagentApprovals {
        match self {
            Gateway::On { subagent_approvals, .. } => subagent_approvals,
            Gateway::Off => SubagentApprovals::All,
        }
    }
}

/// The address of a URL such as `ws://127.0.0.1:4500`.
pub fn address(url: &str) -> Option<SocketAddr> {
    url.strip_prefix(SCHEME)?.trim_end_matches('/').parse().ok()
}

/// Whether the gateway may listen there.
pub fn may_listen(address: SocketAddr, allow_non_loopback: bool) -> bool {
    allow_non_loopback || address.ip().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::address;

    #[test]
    fn an_address_is_an_ip_address_and_a_port() {
        assert_eq!(address("ws://127.0.0.1:4500"), Some(([127, 0, 0, 1], 4500).into()));
        assert!(address("ws://[::1]:1/").is_some());
        for other in ["127.0.0.1:1", "ws://localhost:1", "wss://127.0.0.1:1", "ws://127.0.0.1", ""] {
            assert_eq!(address(other), None, "{other}");
        }
    }
}
