//! Chunked bodies: decoding at once and byte by byte give the same result.
#![no_main]

use lb::http1::chunked::Decoder;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut whole = Vec::new();
    let at_once = Decoder::default().decode(bytes, &mut whole);
    let (mut decoder, mut pieces, mut consumed) = (Decoder::default(), Vec::new(), 0);
    let mut failed = None;
    for byte in bytes {
        match decoder.decode(std::slice::from_ref(byte), &mut pieces) {
            Ok(step) => {
                consumed += step.consumed;
                if step.done {
                    break;
                }
            }
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    match at_once {
        Ok(step) => {
            assert_eq!((failed, consumed, decoder.is_done()), (None, step.consumed, step.done));
            assert_eq!(whole, pieces);
        }
        Err(error) => assert_eq!(failed, Some(error)),
    }
});
