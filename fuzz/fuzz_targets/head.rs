//! Heads: whatever comes, what is accepted reads the same when it is written again.
#![no_main]

use lb::proxy::head::{AnswerHead, Limits, RequestHead};
use libfuzzer_sys::fuzz_target;

const LIMITS: Limits = Limits { bytes: 8192, fields: 100 };

fuzz_target!(|bytes: &[u8]| {
    let mut head = RequestHead::default();
    if let Ok(Some(length)) = head.parse(bytes, LIMITS) {
        assert!(length <= bytes.len());
        let mut text = [head.method.as_str().as_bytes(), b" ", head.target(), b" HTTP/1.1\r\n"].concat();
        head.fields.write(&mut text);
        text.extend_from_slice(b"\r\n");
        let mut again = RequestHead::default();
        let limits = Limits { bytes: usize::MAX, ..LIMITS };
        assert_eq!(again.parse(&text, limits), Ok(Some(text.len())));
        assert!(head.fields.iter().eq(again.fields.iter()));
    }
    let mut head = AnswerHead::default();
    if let Ok(Some(_)) = head.parse(bytes, LIMITS) {
        let mut text = Vec::new();
        head.write(&mut text);
        text.extend_from_slice(b"\r\n");
        let mut again = AnswerHead::default();
        let limits = Limits { bytes: usize::MAX, ..LIMITS };
        assert_eq!(again.parse(&text, limits), Ok(Some(text.len())));
        assert_eq!(head.status, again.status);
        assert!(head.fields.iter().eq(again.fields.iter()));
    }
});
