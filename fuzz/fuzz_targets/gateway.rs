//! The whole request path: scripts of a client's and a server's turns, see `lb_fuzz::gateway`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|script: &[u8]| lb_fuzz::gateway::play(script));
