//! Responses: we read what hyper reads, and a head survives writing and parsing.
#![no_main]

use http::Method;
use lb::http1::head::{Limits, ResponseHead};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // The last byte selects the request's method.
    let Some((last, bytes)) = bytes.split_last() else { return };
    let method = [Method::GET, Method::HEAD, Method::POST][usize::from(*last) % 3].clone();
    lb_fuzz::answers_agree(&method, bytes);
    let mut head = ResponseHead::default();
    let Ok(Some(length)) = head.parse(bytes, Limits { bytes: 8192, headers: 100 }) else { return };
    assert!(length <= bytes.len().min(8192) && head.headers.len() <= 100);
    let mut text = Vec::new();
    head.write(&mut text);
    text.extend_from_slice(b"\r\n");
    let mut again = ResponseHead::default();
    assert_eq!(again.parse(&text, Limits { bytes: usize::MAX, headers: 100 }), Ok(Some(text.len())));
    assert_eq!(head.status, again.status);
    assert!(head.headers.iter().eq(again.headers.iter()));
});
