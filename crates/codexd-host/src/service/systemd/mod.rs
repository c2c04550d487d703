//! The systemd user manager as the service manager of a home.
//!
//! codexd speaks to it through `systemctl --user` and by unit files; [`notify`] is the other direction. Nothing here knows what the units
//! run: that is the supervisor's.

pub mod installed;
pub mod names;
pub mod notify;
pub mod systemctl;
pub mod units;

pub use names::UnitNames;
pub use notify::Notifier;
pub use systemctl::{ActiveState, SYSTEMCTL, Systemctl, SystemctlError};
pub use units::{UnitFile, UnitSettings, UnrenderableText};
