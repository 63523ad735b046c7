//! TLS sessions: whatever a client sends, and however it is split, our session does what rustls' buffered connection does.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|script: &[u8]| lb_fuzz::tls::sessions_agree(script));
