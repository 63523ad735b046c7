//! PROXY headers: a header is found at every split or at none, and one that is written is read back.
#![no_main]

use lb::config::ProxyHeaderVersion;
use lb::proxy_protocol::{HeaderSubject, MAX_LENGTH, Start, read, write};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let whole = read(bytes);
    // What is decided does not change with more bytes.
    for end in 0..bytes.len().min(256) {
        match read(&bytes[..end]) {
            Ok(Start::Partial) => {}
            decided => assert_eq!(decided, whole),
        }
    }
    match whole {
        Ok(Start::Header(length, header)) => {
            assert!(length <= bytes.len() && length <= MAX_LENGTH);
            assert_eq!(read(&bytes[..length]), Ok(Start::Header(length, header.clone())));
            let Some(forwarding) = header.forwarded else { return };
            for version in [ProxyHeaderVersion::V1, ProxyHeaderVersion::V2] {
                let written = write(version, HeaderSubject::Client(forwarding));
                let Ok(Start::Header(length, again)) = read(&written) else { panic!("{written:?}") };
                assert_eq!(length, written.len());
                let again = again.forwarded.expect("addresses");
                for (was, is) in [(forwarding.source, again.source), (forwarding.destination, again.destination)] {
                    assert_eq!((was.ip().to_canonical(), was.port()), (is.ip().to_canonical(), is.port()));
                }
            }
        }
        Ok(Start::Partial) => assert!(bytes.len() < MAX_LENGTH),
        Ok(Start::Other) | Err(_) => {}
    }
});
