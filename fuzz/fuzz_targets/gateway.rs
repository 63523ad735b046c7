//! The whole request path: turns of a client and a server. See `lb_fuzz::gateway`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|script: &[u8]| lb_fuzz::gateway::play(script));
