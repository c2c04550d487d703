//! Black-box tests of the built binary.

#![allow(clippy::disallowed_methods)]

mod config;
mod contract;
mod diagnostics;
mod differential;
mod elsewhere;
mod former_names;
mod gateway;
mod gateway_lifecycle;
mod inside_a_turn;
mod install;
mod kill;
mod lifecycle;
mod lost_sockets;
mod ownership;
mod proxy;
mod run;
mod self_update;
mod service_files;
mod state;
mod stubborn;
mod supervisor_socket;
mod systemd;
mod upstream;
mod user_text;
mod wrapped;
