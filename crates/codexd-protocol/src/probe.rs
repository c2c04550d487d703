//! A blocking `initialize`.
