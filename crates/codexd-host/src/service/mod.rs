//! What runs the programs of a home. There is one service manager so far: the supervisor, ours.

pub mod supervisor;
