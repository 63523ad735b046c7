//! One HTTP request to a collector.

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use http::uri::Scheme;
use http::{HeaderValue, Request, Response, Uri, header};
use percent_encoding::percent_decode_str;

use crate::http_client::HttpConnection;
use crate::http1::base64::base64;

/// For one batch, while the next spans wait in the queue.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);
/// The longest response that is read, in bytes; it contains no more than an error message.
const RESPONSE_MAX: usize = 64 * 1024;

/// Parses a collector's address.
///
/// # Errors
/// Why [`post`] could not send to it.
pub(super) fn endpoint(url: &str) -> Result<Uri, String> {
    let uri: Uri = url.parse().map_err(|error| format!("not a URL: {error}"))?;
    match (uri.scheme(), uri.host()) {
        (Some(scheme), Some(_)) if *scheme == Scheme::HTTP => Ok(uri),
        _ => Err("expected a URL that begins with http://".to_owned()),
    }
}

/// Sends `request`, whose URI is an [`endpoint`], on a connection of its own; the URI's user part as Basic credentials
/// (RFC 7617). The response may have any status.
///
/// # Errors
/// When there is no complete response within `timeout`.
pub(super) async fn post(
    mut request: Request<Bytes>,
    timeout: Duration,
) -> Result<Response<Bytes>, Box<dyn Error + Send + Sync>> {
    let uri = std::mem::take(request.uri_mut());
    let user = uri.authority().and_then(|authority| authority.as_str().rsplit_once('@')).map(|(user, _)| user);
    if let Some(user) = user.filter(|user| !user.is_empty()) {
        let mut value =
            HeaderValue::try_from(format!("Basic {}", base64(&percent_decode_str(user).collect::<Vec<u8>>())))?;
        value.set_sensitive(true);
        request.headers_mut().insert(header::AUTHORIZATION, value);
    }
    let host = uri.host().ok_or("the URL has no host")?;
    let port = uri.port_u16().unwrap_or(80);
    if let Some(path) = uri.path_and_query() {
        *request.uri_mut() = path.clone().into();
    }
    request.headers_mut().insert(header::HOST, HeaderValue::try_from(format!("{host}:{port}"))?);
    let connection = HttpConnection::open((host.trim_matches(['[', ']']), port), timeout).await?;
    Ok(connection.send(request, Some(RESPONSE_MAX)).await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[test]
    fn only_plain_http_is_an_endpoint() {
        for (url, usable) in [
            ("http://127.0.0.1:9411/api/v2/spans", true),
            ("http://zipkin/api/v2/spans", true),
            ("http://[::1]:9411", true),
            ("https://zipkin/api/v2/spans", false),
            ("zipkin:9411", false),
            ("/api/v2/spans", false),
            ("http://", false),
            ("", false),
        ] {
            assert_eq!(endpoint(url).is_ok(), usable, "{url}");
        }
    }

    #[tokio::test]
    async fn a_silent_collector_is_given_up_at_the_timeout() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/", listener.local_addr().expect("an address"));
        let request = Request::post(url).body(Bytes::new()).expect("a request");
        let error = post(request, Duration::from_millis(20)).await.expect_err("there is no response");
        assert_eq!(error.to_string(), "no response within 20ms");
    }
}
