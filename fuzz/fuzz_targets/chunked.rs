//! Chunked bodies: decoding at once and byte by byte gives the same result, from a client and from a server.
#![no_main]

use lb::http1::chunked::Decoder;
use lb::http1::framing::Sender;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    decode_in_pieces(Sender::Client, bytes);
    decode_in_pieces(Sender::Server, bytes);
    // A body that follows the grammar means the same from either.
    let (mut from_client, mut from_server) = (Vec::new(), Vec::new());
    if let Ok(decoded) = Decoder::new(Sender::Client).decode(bytes, &mut from_client) {
        assert_eq!(Decoder::new(Sender::Server).decode(bytes, &mut from_server), Ok(decoded));
        assert_eq!(from_client, from_server);
    }
});

fn decode_in_pieces(sender: Sender, bytes: &[u8]) {
    let mut content = Vec::new();
    let at_once = Decoder::new(sender).decode(bytes, &mut content);
    let (mut decoder, mut content_of_pieces, mut consumed) = (Decoder::new(sender), Vec::new(), 0);
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
}
