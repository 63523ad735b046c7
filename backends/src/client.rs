//! The little HTTP that this server asks of others: one request, one status.

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

/// An answer takes at most this long, the connection included.
const DEADLINE: Duration = Duration::from_secs(2);

/// Asks the demo server that listens at `address` for `/health`; an unspecified address, such as
/// `0.0.0.0`, is asked on the loopback.
///
/// # Errors
/// Says why the server is not healthy: it cannot be reached, does not answer within two seconds,
/// or answers with another status than 200.
pub async fn healthcheck(address: SocketAddr) -> io::Result<()> {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let because = |reason| io::Error::other(format!("{address} is not healthy: {reason}"));
    let request = Request::get("/health").body(Empty::new()).map_err(io::Error::other)?;
    match send(&ip.to_string(), address.port(), request).await {
        Ok(StatusCode::OK) => Ok(()),
        Ok(status) => Err(because(format!("/health answers {status}"))),
        Err(error) => Err(because(error.to_string())),
    }
}

/// Posts JSON and tells the status.
///
/// # Errors
/// When there is no answer within two seconds.
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

/// Sends one request on a connection of its own. The answer's body is not read.
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
        // Ends by itself once the sender and the answer are dropped.
        tokio::spawn(connection);
        Ok(sender.send_request(request).await?.status())
    };
    timeout(DEADLINE, exchange)
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {} s", DEADLINE.as_secs()).into()))
}
