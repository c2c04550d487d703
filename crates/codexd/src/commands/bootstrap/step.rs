//! The steps of `bootstrap`, in their order.

use codexd_core::contract::Backend;

/// One step.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// The setting of remote control.
    WriteSetting,
    /// A server that binds the control socket itself is replaced by one behind the gateway, before systemd binds that socket.
    PutBehindGateway,
    /// The unit files.
    WriteUnits,
    /// systemd reads them.
    ReloadManager,
    /// The supervisor that a command has started leaves, or one without its socket; its server goes on.
    LeaveSupervisor,
    /// `backend.json`.
    RecordBackend,
    /// The links that start the units at boot.
    EnableUnits,
    /// These links are removed.
    DisableUnits,
    /// The supervisor that systemd runs leaves; its server goes on.
    StopUnits,
    /// The supervisor of the new backend adopts the server, or starts one.
    Serve,
    /// The gateway runs in the new backend.
    MoveGateway,
    /// The server runs in the new backend, with the setting of remote control.
    MoveServer,
    /// The unit files are removed.
    RemoveUnits,
}

/// The steps to a backend.
pub fn steps(backend: Backend) -> &'static [Step] {
    use Step::{
        DisableUnits, EnableUnits, LeaveSupervisor, MoveGateway, MoveServer, PutBehindGateway, RecordBackend,
        ReloadManager, RemoveUnits, Serve, StopUnits, WriteSetting, WriteUnits,
    };
    match backend {
        Backend::Systemd => &[
            WriteSetting,
            PutBehindGateway,
            WriteUnits,
            ReloadManager,
            LeaveSupervisor,
            RecordBackend,
            EnableUnits,
            Serve,
            MoveGateway,
            MoveServer,
        ],
        // The record comes before the units stop: it keeps the stop of a unit from being a stop of the server.
        Backend::Pid => &[
            WriteSetting,
            DisableUnits,
            RecordBackend,
            StopUnits,
            Serve,
            MoveGateway,
            MoveServer,
            RemoveUnits,
        ],
    }
}
