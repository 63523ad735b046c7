//! The `lb` command, seen from outside: real processes, real sockets, real files, real signals.

mod balance;
mod support;
