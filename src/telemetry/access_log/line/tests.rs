//! Tests of both formats.

use std::time::UNIX_EPOCH;

use super::*;

fn text(entry: &AccessLogEntry<'_>) -> String {
    let mut out = Vec::new();
    entry.write_text(&mut TimestampCache::default(), &mut out);
    String::from_utf8(out).expect("ASCII")
}

fn json(entry: &AccessLogEntry<'_>) -> serde_json::Value {
    let mut out = Vec::new();
    entry.write_json(&mut TimestampCache::default(), &mut out);
    assert!(out.is_ascii() && out.iter().filter(|byte| byte.is_ascii_control()).count() == 1, "{out:?}");
    serde_json::from_slice(&out).expect("JSON")
}

fn at(millis: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(millis)
}

#[test]
fn a_successful_request_has_every_value() {
    let entry = AccessLogEntry::example(at(1_795_309_323_456));
    assert_eq!(
        text(&entry),
        "2026-11-22T01:02:03.456Z 127.0.0.1 \"GET /path?q=1 HTTP/1.1\" 200 13B 0.001200s host=example.com \
         route=*/ pool=default server=server1 tries=1 request_id=7f000001 \
         trace_id=463ac35c9f6413ad48485a3953bb6124 client_port=5123 user_agent=curl/8.5.0 generation=3\n"
    );
    assert_eq!(
        json(&entry),
        serde_json::json!({
            "time": "2026-11-22T01:02:03.456Z", "client": "127.0.0.1", "client_port": 5123, "method": "GET", "path": "/path?q=1",
            "protocol": "HTTP/1.1", "status": 200, "bytes": 13, "seconds": 0.0012, "host": "example.com",
            "route": "*/", "pool": "default", "server": "server1", "tries": 1, "request_id": "7f000001",
            "trace_id": "463ac35c9f6413ad48485a3953bb6124", "generation": 3,
            "user_agent": "curl/8.5.0",
        })
    );
}

#[test]
fn the_status_of_a_grpc_call_is_a_number() {
    let entry = AccessLogEntry { grpc_status: Some(14), rule: Some("tired"), ..AccessLogEntry::example(at(0)) };
    assert!(text(&entry).contains(" rule=tired grpc_status=14 tries=1 "), "{}", text(&entry));
    assert_eq!(json(&entry)["grpc_status"], 14);
}

#[test]
fn absent_values_are_omitted() {
    let entry = AccessLogEntry {
        client: "2001:db8::1".parse::<IpAddr>().expect("an address").into(),
        client_port: None,
        user_agent: None,
        host: None,
        route: None,
        pool: None,
        server: None,
        trace_id: None,
        request_id: b"",
        version: Version::HTTP_10,
        error: Some("no server"),
        rule: Some("tired"),
        elapsed: Duration::new(75, 999_999_999),
        ..AccessLogEntry::example(UNIX_EPOCH)
    };
    assert_eq!(
        text(&entry),
        "1970-01-01T00:00:00.000Z 2001:db8::1 \"GET /path?q=1 HTTP/1.0\" 200 13B 75.999999s \
         error=\"no server\" rule=tired tries=1 request_id=\"\" generation=3\n"
    );
    let json = json(&entry);
    let reason = (json["error"].as_str(), json["rule"].as_str());
    assert_eq!((json.get("server"), reason), (None, (Some("no server"), Some("tired"))));
}

#[test]
fn whatever_a_client_sends_stays_on_one_line() {
    let cases: &[(&[u8], &str, &str)] = &[
        (b"\" 200 0B\" x=\"", r#"\" 200 0B\" x=\""#, "\" 200 0B\" x=\""),
        (b"a\\", r"a\\", "a\\"),
        (b"a\r\nb\tc\0\x1b[31m\x7f", r"a\x0d\x0ab\x09c\x00\x1b[31m\x7f", "a\r\nb\tc\0\u{1b}[31m\u{7f}"),
        ("ä\u{202e}\u{2028}😀".as_bytes(), r"\xc3\xa4\xe2\x80\xae\xe2\x80\xa8\xf0\x9f\x98\x80", "ä\u{202e}\u{2028}😀"),
        (b"a\xff\xc3", r"a\xff\xc3", "a\u{fffd}\u{fffd}"),
    ];
    for (sent, in_text, in_json) in cases {
        let lossy = String::from_utf8_lossy(sent);
        let entry = AccessLogEntry { host: Some(sent), path: &lossy, ..AccessLogEntry::example(UNIX_EPOCH) };
        let line = text(&entry);
        assert!(line.contains(&format!("s host=\"{in_text}\" route=")), "{line}");
        assert_eq!(line.find('\n'), Some(line.len() - 1));
        assert!(line.is_ascii());
        let json = json(&entry);
        assert_eq!((json["host"].as_str(), json["path"].as_str()), (Some(*in_json), Some(*in_json)));
    }
}

#[test]
fn the_timestamp_follows_the_time() {
    let mut clock = TimestampCache::default();
    for (millis, expected) in [
        (951_782_399_999, "2000-02-28T23:59:59.999Z"),
        (951_782_400_000, "2000-02-29T00:00:00.000Z"),
        (951_782_400_001, "2000-02-29T00:00:00.001Z"),
        (951_782_399_999, "2000-02-28T23:59:59.999Z"),
    ] {
        let mut out = Vec::new();
        clock.write(at(millis), &mut out);
        assert_eq!(String::from_utf8_lossy(&out), expected);
    }
}

#[test]
fn chosen_headers_follow_in_both_formats() {
    let headers = [("Referer", Cow::from(&b"http://a/\"b\" c"[..])), ("X-Via", Cow::from(&b"1"[..]))];
    let entry = AccessLogEntry { headers: &headers, ..AccessLogEntry::example(UNIX_EPOCH) };
    let line = text(&entry);
    assert!(line.ends_with(" headers.referer=\"http://a/\\\"b\\\" c\" headers.x-via=1 generation=3\n"), "{line}");
    assert_eq!(json(&entry)["headers"], serde_json::json!({ "referer": "http://a/\"b\" c", "x-via": "1" }));
}

#[test]
fn the_combined_format_is_that_of_apache_and_nginx() {
    let combined = |entry: &AccessLogEntry<'_>| {
        let mut out = Vec::new();
        entry.write_combined(&mut ClfCache::default(), &mut out);
        String::from_utf8(out).expect("ASCII")
    };
    let example = AccessLogEntry { referer: Some(b"http://a/"), ..AccessLogEntry::example(at(1_795_309_323_456)) };
    assert_eq!(
        combined(&example),
        "127.0.0.1 - - [22/Nov/2026:01:02:03 +0000] \"GET /path?q=1 HTTP/1.1\" 200 13 \"http://a/\" \"curl/8.5.0\"\n"
    );
    let odd = AccessLogEntry { method: "-", path: "-", referer: None, user_agent: Some(b"\"\\\n\xff "), ..example };
    assert_eq!(
        combined(&odd),
        "127.0.0.1 - - [22/Nov/2026:01:02:03 +0000] \"-\" 200 13 \"-\" \"\\x22\\x5c\\x0a\\xff \"\n"
    );
}
