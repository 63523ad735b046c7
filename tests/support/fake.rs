//! A server that does as it is told, good or bad.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

/// How long a test waits for what must happen.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// What to do with a request.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// Answer with this status and an empty body.
    Status(u16),
    /// Answer 200 with this body, its length said beforehand.
    Page(String),
    /// The same, in chunks.
    Chunks(String),
    /// Send what is no HTTP.
    Garbage,
    /// Close without a word.
    Close,
    /// Say nothing, and keep the connection.
    Hang,
}

/// A running fake. Ends with the test's runtime.
#[derive(Debug)]
pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    connections: watch::Receiver<usize>,
    heads: Arc<Mutex<Vec<String>>>,
}

/// A port that refuses connections, and that nobody else can be given meanwhile.
#[derive(Debug)]
pub(crate) struct Refusing {
    pub(crate) address: SocketAddr,
    _socket: TcpSocket,
}

impl Fake {
    /// Listens on a free port; `reply` says what to do with the nth request (from 1), given its path.
    pub(crate) async fn start(reply: impl FnMut(usize, &str) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (seen, connections) = watch::channel(0);
        let heads = Arc::default();
        tokio::spawn(serve(listener, seen, Arc::clone(&heads), Arc::new(Mutex::new(reply))));
        Self { address, connections, heads }
    }

    /// Always the same answer.
    pub(crate) async fn always(reply: Reply) -> Self {
        Self::start(move |_, _| reply.clone()).await
    }

    /// Does not wait to be asked: says `words` to whoever connects, or, without any, hangs up.
    pub(crate) async fn blurting(words: &'static str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (seen, connections) = watch::channel(0);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                seen.send_modify(|connections| *connections += 1);
                if !words.is_empty() {
                    // The other side may have gone already.
                    let _ = stream.write_all(words.as_bytes()).await;
                    tokio::spawn(async move { while stream.read(&mut [0; 1024]).await.is_ok_and(|read| read > 0) {} });
                }
            }
        });
        Self { address, connections, heads: Arc::default() }
    }

    /// Connections until now.
    pub(crate) fn connections(&self) -> usize {
        *self.connections.borrow()
    }

    /// Waits for there to have been so many connections.
    pub(crate) async fn connected(&self, times: usize) {
        let mut connections = self.connections.clone();
        let enough = timeout(DEADLINE, connections.wait_for(|seen| *seen >= times)).await;
        enough.expect("so many connections in time").expect("the fake runs");
    }

    /// The requests until now, as they came.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Refusing {
    pub(crate) fn new() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a free port");
        Self { address: socket.local_addr().expect("an address"), _socket: socket }
    }
}

async fn serve<R: FnMut(usize, &str) -> Reply + Send + 'static>(
    listener: TcpListener,
    seen: watch::Sender<usize>,
    heads: Arc<Mutex<Vec<String>>>,
    reply: Arc<Mutex<R>>,
) {
    while let Ok((mut stream, _)) = listener.accept().await {
        seen.send_modify(|connections| *connections += 1);
        let (heads, reply) = (Arc::clone(&heads), Arc::clone(&reply));
        tokio::spawn(async move {
            let Some(head) = read_head(&mut stream).await else { return };
            let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
            let reply = {
                let mut heads = heads.lock().unwrap_or_else(PoisonError::into_inner);
                heads.push(head);
                let nth = heads.len();
                reply.lock().unwrap_or_else(PoisonError::into_inner)(nth, &path)
            };
            let answer = match &reply {
                Reply::Status(status) => format!("HTTP/1.1 {status} Told\r\ncontent-length: 0\r\n\r\n"),
                Reply::Page(page) => format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{page}", page.len()),
                Reply::Chunks(page) => {
                    let (a, b) = page.split_at(page.len() / 2);
                    let (c, d) = (a.len(), b.len());
                    format!(
                        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{c:x}\r\n{a}\r\n{d:x}\r\n{b}\r\n0\r\n\r\n"
                    )
                }
                Reply::Garbage => "SSH-2.0-OpenSSH_9.2\r\n".to_owned(),
                Reply::Close => return,
                Reply::Hang => String::new(),
            };
            // The other side may have gone already.
            let _ = stream.write_all(answer.as_bytes()).await;
            if matches!(reply, Reply::Hang) {
                let _ = stream.read(&mut [0]).await;
            }
        });
    }
}

async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    String::from_utf8(head).ok()
}
