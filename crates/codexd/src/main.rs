//! codexd.
fn main() {}
