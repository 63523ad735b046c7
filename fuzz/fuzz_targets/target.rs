//! Request targets: a method, a target and a `Host`, one per line. An accepted target is normalised, and parses the
//! same again as the server receives it.
#![no_main]

use http::{Method, Version};
use lb::http1::head::Headers;
use lb::http1::target::{RequestTarget, target};
use lb::http1::{host, path};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let mut lines = text.splitn(3, '\n');
    let (method, as_sent) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let Ok(method) = Method::from_bytes(method.as_bytes()) else { return };
    let headers = Headers::from_pairs(lines.next().map(|host| ("Host", host)));
    for version in [Version::HTTP_10, Version::HTTP_11] {
        let Ok(RequestTarget::Resource(resource)) = target(&method, as_sent.as_bytes(), version, &headers) else {
            continue;
        };
        assert_eq!(path::normalise(&resource.path).as_deref(), Ok(&*resource.path));
        assert!(resource.path.split('/').all(|segment| segment != ".." && segment != "."), "{}", resource.path);
        if !resource.host.is_empty() {
            assert_eq!(host::normalise(&resource.host).as_deref(), Ok(&*resource.host));
        }
        assert!(!resource.host.bytes().any(|byte| byte.is_ascii_uppercase() || byte <= b' '), "{}", resource.host);
        // The target for the server identifies the same resource.
        let headers =
            Headers::from_pairs([("Host", resource.authority)].into_iter().filter(|(_, host)| !host.is_empty()));
        for forwarded in [resource.as_sent(), resource.normalised()] {
            assert!(forwarded.bytes().all(|byte| byte.is_ascii_graphic()), "{forwarded}");
            match target(&method, forwarded.as_bytes(), version, &headers) {
                Ok(RequestTarget::Resource(reparsed)) => {
                    assert_eq!(
                        (&resource.path, &resource.host, resource.query),
                        (&reparsed.path, &reparsed.host, reparsed.query)
                    );
                }
                Ok(RequestTarget::Balancer) if method == Method::OPTIONS && forwarded == "*" => {}
                other => panic!("{forwarded}: {other:?}"),
            }
        }
        // Another reading exists only if there are dot segments.
        assert!(
            resource.with_dot_segments().is_none() || as_sent.contains("/.") || as_sent.contains("/%2"),
            "{as_sent}"
        );
    }
});
