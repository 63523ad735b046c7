//! The Prometheus page of a server: any text has at most one value, and it is in a line of the text.
#![no_main]

use lb::control::health::memory::resident_bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|page: &[u8]| {
    let page = String::from_utf8_lossy(page);
    let whole = resident_bytes(&page);
    assert_eq!(whole, page.lines().find_map(resident_bytes));
    if whole.is_some() {
        assert!(page.contains("process_resident_memory_bytes"));
    }
});
