//! Requests to the ACME server: over TLS, with a limit on time and size, and with its wish for the next one noted.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use parking_lot::Mutex;
use rustls::{ClientConfig, RootCertStore};
use tokio::time::timeout;

use super::failure::Failure;
use crate::tls::client::parse_roots;
use crate::tls::provider;

/// How long a request may take, from connecting to the last byte.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The largest response; chains have a few KiB.
const MAX_BODY: usize = 1 << 20;

/// The time before which the ACME server wants no request, from `Retry-After` of a response that refuses one.
pub(super) type NotBefore = Arc<Mutex<Option<SystemTime>>>;

/// Sends requests to ACME servers. Cheap to clone; connections are shared.
#[derive(Clone)]
pub(super) struct AcmeClient {
    client: Client<HttpsConnector<HttpConnector>, BodyWrapper<Bytes>>,
    not_before: NotBefore,
}

impl AcmeClient {
    /// Trusts the authorities in `ca`, or else reads the system's; blocks.
    ///
    /// # Errors
    /// If the authorities cannot be used.
    pub(super) fn new(ca: Option<&[u8]>, not_before: NotBefore) -> Result<Self, Failure> {
        let tls = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| Failure::new(error.to_string()))?
            .with_root_certificates(roots(ca)?)
            .with_no_client_auth();
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_connect_timeout(Some(TIMEOUT / 3));
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_only().enable_http1();
        let client = Client::builder(TokioExecutor::new()).build(connector.wrap_connector(http));
        Ok(Self { client, not_before })
    }

    async fn send(self, request: Request<BodyWrapper<Bytes>>) -> Result<BytesResponse, Error> {
        let target = format!("{} {}", request.method(), request.uri());
        let exchange = async {
            let response = self.client.request(request).await.map_err(|error| Error::Other(Box::new(error)))?;
            self.note(&response);
            let (parts, body) = response.into_parts();
            let body = Limited::new(body, MAX_BODY).collect().await.map_err(Error::Other)?.to_bytes();
            Ok::<_, Error>(Response::from_parts(parts, Full::new(body)))
        };
        let response = match timeout(TIMEOUT, exchange).await {
            Ok(response) => response?,
            Err(_) => return Err(Error::Other(format!("no response to {target} within {TIMEOUT:?}").into())),
        };
        if is_foreign(&response) {
            return Err(Error::Other(format!("the response to {target} has status {}", response.status()).into()));
        }
        Ok(response.into())
    }

    /// Notes when the server wants the next request. With success, `Retry-After` only says when to poll again.
    fn note(&self, response: &Response<Incoming>) {
        let (status, value) = (response.status(), response.headers().get(RETRY_AFTER));
        if !(status.is_client_error() || status.is_server_error()) {
            return;
        }
        let wish = value.and_then(|value| retry_after(value.to_str().ok()?, SystemTime::now()));
        if let Some(wish) = wish {
            *self.not_before.lock() = Some(wish);
        }
    }
}

/// Whether this is an error that no ACME server sends, but for example a proxy in front of it.
fn is_foreign(response: &Response<Full<Bytes>>) -> bool {
    let kind = response.headers().get(CONTENT_TYPE).map(|kind| kind.as_bytes().to_ascii_lowercase());
    let is_json = kind.is_some_and(|kind| kind.windows(4).any(|word| word == b"json"));
    (response.status().is_client_error() || response.status().is_server_error()) && !is_json
}

/// The time that a `Retry-After` names: a number of seconds or a date.
fn retry_after(value: &str, now: SystemTime) -> Option<SystemTime> {
    match value.trim().parse::<u32>() {
        Ok(seconds) => now.checked_add(Duration::from_secs(seconds.into())),
        Err(_) => httpdate::parse_http_date(value.trim()).ok(),
    }
}

impl HttpClient for AcmeClient {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        Box::pin(self.clone().send(request))
    }
}

/// The authorities in `ca`, else the system's, else the built-in ones.
fn roots(ca: Option<&[u8]>) -> Result<Arc<RootCertStore>, Failure> {
    if let Some(ca) = ca {
        let roots = parse_roots(ca).map_err(|reason| Failure::new(format!("`acme.ca`: {}", reason.message)))?;
        return Ok(Arc::clone(roots.store()));
    }
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    Ok(Arc::new(roots))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_a_number_of_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_000);
        let after = |seconds| Some(now + Duration::from_secs(seconds));
        assert_eq!(retry_after("120", now), after(120));
        assert_eq!(retry_after(" 0 ", now), after(0));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:37 GMT", now), after(777));
        for value in ["", "-1", "soon", "99999999999999999999"] {
            assert_eq!(retry_after(value, now), None, "{value}");
        }
    }
}
