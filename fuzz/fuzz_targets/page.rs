//! The Prometheus page of a server: the value that is found in the page is found in one of its lines.
#![no_main]

use lb::control::health::memory::resident_bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|page: &[u8]| {
    let page = String::from_utf8_lossy(page);
    let value = resident_bytes(&page);
    assert_eq!(value, page.lines().find_map(resident_bytes));
    if value.is_some() {
        assert!(page.contains("process_resident_memory_bytes"));
    }
});
