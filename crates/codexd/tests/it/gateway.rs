//! The gateway in front of the real server and of the embedded one, as `codexd start` brings it up: what every client may
//! rely on, whatever the others do and whatever becomes of the server.

mod attack;
mod busy;
mod chaos;
mod clients;
mod edge;
mod fixture;
mod goals;
mod healing;
mod login;
mod loss;
mod migration;
mod refused;
mod replace;
mod replies;
mod search;
mod server_requests;
mod sharing;
mod subagents;
mod thread_settings;
mod tui;
mod unwatched;

use codexd_testkit::{Server, Version};

/// Every server that the gateway stands in front of.
const SERVERS: [Server; 2] = [Server::Real(Version::NEWEST), Server::Embedded];

/// Makes a test on each server of every script.
macro_rules! on_each_server {
    ($($name:ident: $script:ident;)+) => {
        $(mod $name {
            #[tokio::test]
            async fn on_the_real_server() -> anyhow::Result<()> {
                if let Err(reason) = codexd_testkit::codex::platform() {
                    codexd_testkit::skip!("{reason}");
                }
                super::$script(crate::gateway::SERVERS[0]).await
            }

            #[tokio::test]
            async fn on_the_embedded_server() -> anyhow::Result<()> {
                super::$script(crate::gateway::SERVERS[1]).await
            }
        })+
    };
}
use on_each_server;

/// Makes a test of a script that only the real server can play.
macro_rules! on_the_real_server {
    ($($name:ident: $script:ident;)+) => {
        $(#[tokio::test]
        async fn $name() -> anyhow::Result<()> {
            if let Err(reason) = codexd_testkit::codex::platform() {
                codexd_testkit::skip!("{reason}");
            }
            $script(crate::gateway::fixture::GatewayFixture::open(crate::gateway::SERVERS[0]).await?).await
        })+
    };
}
use on_the_real_server;
