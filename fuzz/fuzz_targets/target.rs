//! A method, a target and a `Host`, each in a line. An accepted target is in normal form, and stays so when forwarded.
#![no_main]

use http::{Method, Version};
use lb::http1::head::Headers;
use lb::http1::target::{Asked, target};
use lb::http1::{host, path};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let mut lines = text.splitn(3, '\n');
    let (method, asked) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let Ok(method) = Method::from_bytes(method.as_bytes()) else { return };
    let headers = Headers::of(lines.next().map(|host| ("Host", host)));
    for version in [Version::HTTP_10, Version::HTTP_11] {
        let Ok(Asked::Resource(found)) = target(&method, asked.as_bytes(), version, &headers) else { continue };
        assert_eq!(path::normalise(&found.path).as_deref(), Ok(&*found.path));
        assert!(found.path.split('/').all(|segment| segment != ".." && segment != "."), "{}", found.path);
        if !found.host.is_empty() {
            assert_eq!(host::normalise(&found.host).as_deref(), Ok(&*found.host));
        }
        assert!(!found.host.bytes().any(|byte| byte.is_ascii_uppercase() || byte <= b' '), "{}", found.host);
        // The forwarded target is read as the same resource.
        let forwarded = found.path_and_query().into_owned();
        assert!(forwarded.bytes().all(|byte| byte.is_ascii_graphic()), "{forwarded}");
        let headers = Headers::of([("Host", found.authority)].into_iter().filter(|(_, host)| !host.is_empty()));
        match target(&method, forwarded.as_bytes(), version, &headers) {
            Ok(Asked::Resource(again)) => {
                assert_eq!((&found.path, &found.host, found.query), (&again.path, &again.host, again.query));
            }
            other => panic!("{forwarded}: {other:?}"),
        }
    }
});
