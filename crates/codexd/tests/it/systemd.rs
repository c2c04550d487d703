//! codexd under a real systemd user manager.

mod bootstrap;
mod conformance;
mod fixture;
mod host;
mod moves;
mod processes;
mod turns;
mod units;

/// Ends the test where there can be no user manager.
macro_rules! needs_user_manager {
    () => {
        if let Err(reason) = codexd_testkit::systemd::available() {
            codexd_testkit::skip!("{reason}");
        }
    };
}
pub(crate) use needs_user_manager;
