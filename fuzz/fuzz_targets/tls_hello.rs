//! The first bytes of a TLS client: what is decided about them does not change with more bytes, and a hello is read as rustls
//! reads it.
#![no_main]

use lb::tls::hello::FirstBytes;
use libfuzzer_sys::fuzz_target;
use rustls::server::Acceptor;

fn is_refused(first: &FirstBytes) -> bool {
    matches!(first, FirstBytes::Invalid | FirstBytes::TooLarge)
}

fuzz_target!(|bytes: &[u8]| {
    let whole = FirstBytes::read(bytes);
    for end in 0..bytes.len() {
        match FirstBytes::read(&bytes[..end]) {
            FirstBytes::Incomplete => {}
            // A part of what is too large may be invalid besides.
            decided => assert!(
                decided == whole || is_refused(&decided) && is_refused(&whole),
                "at {end}: {decided:?}, {whole:?}"
            ),
        }
    }
    let mut acceptor = Acceptor::default();
    let mut rest = bytes;
    let accepted = loop {
        if rest.is_empty() || acceptor.read_tls(&mut rest).is_err() {
            return;
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => break accepted,
            // The session gets the same bytes, and will say so.
            Err(_) => return,
        }
    };
    let theirs = accepted.client_hello();
    // It could follow an empty record, of which we accept none.
    if bytes.windows(2).any(|length| length == [0, 0]) && whole == FirstBytes::Invalid {
        return;
    }
    let FirstBytes::Hello(ours) = whole else { panic!("{whole:?}; rustls accepts it") };
    let name = theirs.server_name().map(str::to_ascii_lowercase);
    assert_eq!(ours.server_name.as_deref(), name.as_deref().map(|name| name.strip_suffix('.').unwrap_or(name)));
    let protocols: Vec<&[u8]> = theirs.alpn().into_iter().flatten().collect();
    assert_eq!(ours.protocols().collect::<Vec<_>>(), protocols);
});
