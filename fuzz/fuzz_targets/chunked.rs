//! Chunked bodies: decoding at once and byte by byte gives the same result.
#![no_main]

use lb::http1::chunked::Decoder;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut content = Vec::new();
    let at_once = Decoder::default().decode(bytes, &mut content);
    let (mut decoder, mut content_of_pieces, mut consumed) = (Decoder::default(), Vec::new(), 0);
    let mut error_in_pieces = None;
    for byte in bytes {
        match decoder.decode(std::slice::from_ref(byte), &mut content_of_pieces) {
            Ok(decoded) => {
                consumed += decoded.consumed;
                if decoded.done {
                    break;
                }
            }
            Err(error) => {
                error_in_pieces = Some(error);
                break;
            }
        }
    }
    match at_once {
        Ok(decoded) => {
            assert_eq!((error_in_pieces, consumed, decoder.is_done()), (None, decoded.consumed, decoded.done));
            assert_eq!(content, content_of_pieces);
        }
        Err(error) => assert_eq!(error_in_pieces, Some(error)),
    }
});
