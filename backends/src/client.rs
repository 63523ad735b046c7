//! A minimal HTTP client: one request, one status.

use std::error::Error;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{Empty, Full};
use hyper::body::Body;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// For one exchange, including the connection.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Checks `/health` of the demo server that listens at `address`; if that is unspecified, such as `0.0.0.0`, at the
/// loopback address.
///
/// # Errors
/// If the server cannot be reached, does not respond within two seconds, or responds with another status than 200.
pub async fn healthcheck(address: SocketAddr) -> io::Result<()> {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let unhealthy = |reason| io::Error::other(format!("{address} is not healthy: {reason}"));
    let request = Request::get("/health").body(Empty::new()).map_err(io::Error::other)?;
    match send(&ip.to_string(), address.port(), request).await {
        Ok(StatusCode::OK) => Ok(()),
        Ok(status) => Err(unhealthy(format!("the status of /health is {status}"))),
        Err(error) => Err(unhealthy(error.to_string())),
    }
}

/// Posts JSON and returns the status.
///
/// # Errors
/// If there is no response within two seconds.
pub(crate) async fn post(
    host: &str,
    port: u16,
    path: &str,
    json: Vec<u8>,
) -> Result<StatusCode, Box<dyn Error + Send + Sync>> {
    let request = Request::post(path)
        .header(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))
        .body(Full::from(json))?;
    send(host, port, request).await
}

/// Sends a request on a new connection. The response's body is not read.
async fn send<B>(host: &str, port: u16, mut request: Request<B>) -> Result<StatusCode, Box<dyn Error + Send + Sync>>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    let authority = match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    };
    request.headers_mut().insert(header::HOST, HeaderValue::try_from(authority)?);
    let exchange = async {
        let stream = TcpStream::connect((host, port)).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Ends once the sender and the response are dropped.
        tokio::spawn(connection);
        Ok(sender.send_request(request).await?.status())
    };
    timeout(TIMEOUT, exchange)
        .await
        .unwrap_or_else(|_| Err(format!("no response within {} s", TIMEOUT.as_secs()).into()))
}
