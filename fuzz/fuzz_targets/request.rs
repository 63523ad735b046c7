//! Requests: we read what hyper reads, and a head survives writing and parsing.
#![no_main]

use lb::http1::head::{Limits, RequestHead};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    lb_fuzz::requests_agree(bytes);
    let mut head = RequestHead::default();
    let Ok(Some(length)) = head.parse(bytes, Limits { bytes: 8192, headers: 100 }) else { return };
    assert!(length <= bytes.len().min(8192) && head.headers.len() <= 100);
    let mut text = [head.method.as_str().as_bytes(), b" ", head.target(), b" HTTP/1.1\r\n"].concat();
    head.headers.write(&mut text);
    text.extend_from_slice(b"\r\n");
    let mut again = RequestHead::default();
    assert_eq!(again.parse(&text, Limits { bytes: usize::MAX, headers: 100 }), Ok(Some(text.len())));
    assert_eq!((&head.method, head.target()), (&again.method, again.target()));
    assert!(head.headers.iter().eq(again.headers.iter()));
});
