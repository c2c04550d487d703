//! What runs the programs of a home. There is one service manager so far: the keeper, ours.

pub mod keeper;
