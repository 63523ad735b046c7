//! Responses: hyper reads them the same, and a head that is written and parsed again is equal.
#![no_main]

use http::Method;
use lb::http1::head::{HeadLimits, ResponseHead};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // The last byte chooses the method of the request.
    let Some((last, bytes)) = bytes.split_last() else { return };
    let method = [Method::GET, Method::HEAD, Method::POST][usize::from(*last) % 3].clone();
    lb_fuzz::responses_agree(&method, bytes);
    let mut head = ResponseHead::default();
    let Ok(Some(length)) = head.parse(bytes, HeadLimits { bytes: 8192, headers: 100 }) else { return };
    assert!(length <= bytes.len().min(8192) && head.headers.len() <= 100);
    let mut text = Vec::new();
    head.write(&mut text);
    text.extend_from_slice(b"\r\n");
    let mut reparsed = ResponseHead::default();
    assert_eq!(reparsed.parse(&text, HeadLimits { bytes: usize::MAX, headers: 100 }), Ok(Some(text.len())));
    assert_eq!((head.status, head.reason()), (reparsed.status, reparsed.reason()));
    // The text has neither control characters nor folds, whatever the server sent.
    let lines = text.split(|byte| *byte == b'\n').all(|line| {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        line.iter().all(|byte| *byte == b'\t' || *byte >= b' ' && *byte != 0x7f) && !line.starts_with(b" ")
    });
    assert!(lines, "{}", text.escape_ascii());
    assert!(head.headers.iter().eq(reparsed.headers.iter()));
});
