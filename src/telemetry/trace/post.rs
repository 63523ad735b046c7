//! One HTTP request to a collector, on whatever runtime asks for it.

use std::time::Duration;

use bytes::Bytes;
use http::uri::Scheme;
use http::{HeaderValue, Request, Response, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// For one batch. While it passes, spans wait in the queue.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);
/// What is read of an answer, in bytes: it is only ever a complaint.
const ANSWER_MAX: usize = 64 * 1024;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// A collector's address.
///
/// # Errors
/// In words, when it is not one that [`post`] can send to.
pub(super) fn endpoint(url: &str) -> Result<Uri, String> {
    let uri: Uri = url.parse().map_err(|error| format!("not a URL: {error}"))?;
    match (uri.scheme(), uri.host()) {
        (Some(scheme), Some(_)) if *scheme == Scheme::HTTP => Ok(uri),
        _ => Err("expected a URL that begins with http://".to_owned()),
    }
}

/// Sends `request`, whose URI is an [`endpoint`], on a connection of its own.
///
/// # Errors
/// When there is no complete answer within `timeout`, whatever its status.
pub(super) async fn post(request: Request<Bytes>, timeout: Duration) -> Result<Response<Bytes>, Error> {
    tokio::time::timeout(timeout, exchange(request)).await.map_err(|_| format!("no answer within {timeout:?}"))?
}

async fn exchange(mut request: Request<Bytes>) -> Result<Response<Bytes>, Error> {
    let uri = std::mem::take(request.uri_mut());
    let host = uri.host().ok_or("the URL has no host")?;
    let port = uri.port_u16().unwrap_or(80);
    let stream = TcpStream::connect((host.trim_matches(['[', ']']), port)).await?;

    if let Some(path) = uri.path_and_query() {
        *request.uri_mut() = path.clone().into();
    }
    request.headers_mut().insert(header::HOST, HeaderValue::try_from(format!("{host}:{port}"))?);

    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let answer = async move {
        let (head, body) = sender.send_request(request.map(Full::new)).await?.into_parts();
        let body = Limited::new(body, ANSWER_MAX).collect().await?.to_bytes();
        Ok(Response::from_parts(head, body))
    };
    // The connection ends with its sender, so both end.
    tokio::join!(answer, connection).0
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
    async fn a_silent_collector_is_left() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/", listener.local_addr().expect("an address"));
        let request = Request::post(url).body(Bytes::new()).expect("a request");
        let error = post(request, Duration::from_millis(20)).await.expect_err("there is no answer");
        assert_eq!(error.to_string(), "no answer within 20ms");
    }
}
