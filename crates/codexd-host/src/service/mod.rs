//! The service manager that runs the processes of a home. So far there is one: codexd's own supervisor.

pub mod supervisor;
