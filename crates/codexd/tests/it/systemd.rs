//! codexd under a real systemd user manager.

mod fixture;
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
