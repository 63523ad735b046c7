//! The Prometheus page of a server: any text, and at most one figure.
#![no_main]

use lb::health::memory::resident_bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|page: &str| {
    let _ = resident_bytes(page);
});
