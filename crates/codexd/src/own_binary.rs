//! The binary of codexd itself.

use std::path::PathBuf;

use codexd_core::contract::{ErrorCode, Failure};

/// The path of the binary of codexd.
///
/// # Errors
/// If the kernel does not report it.
pub fn own_binary() -> Result<PathBuf, Failure> {
    std::env::current_exe().map_err(|error| {
        Failure::new(ErrorCode::Internal, format!("failed to find the binary of codexd: {error}"))
    })
}
