//! Servers that do as they are told, good or bad; each connection is served by a function on a thread of its own.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::DEADLINE;

/// A running server. Refuses connections after [`Server::stop`], or once it is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    stopped: AtomicBool,
    healthy: AtomicBool,
    connections: AtomicUsize,
    requests: Mutex<Vec<Request>>,
    /// By the number of the connection.
    open: Mutex<HashMap<usize, TcpStream>>,
}

/// A request as it came.
#[derive(Debug, Clone, Default)]
pub(crate) struct Request {
    /// `GET /path HTTP/1.1`
    pub(crate) line: String,
    /// Names as they came.
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Its head, byte by byte.
    pub(crate) head: Vec<u8>,
}

impl Request {
    /// The values of a field, in whatever case.
    pub(crate) fn values(&self, name: &str) -> Vec<&str> {
        let known = self.fields.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
        known.map(|(_, value)| value.as_str()).collect()
    }

    pub(crate) fn path(&self) -> &str {
        self.line.split(' ').nth(1).unwrap_or("")
    }

    /// Reads one; none at the end of the connection. A body needs a `Content-Length` or to be chunked.
    pub(crate) fn read(stream: &mut BufReader<TcpStream>) -> Option<Self> {
        let mut request = Self::read_head(stream)?;
        request.read_body(stream)?;
        Some(request)
    }

    /// Reads the head of one.
    pub(crate) fn read_head(stream: &mut BufReader<TcpStream>) -> Option<Self> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if stream.read_until(b'\n', &mut head).ok()? == 0 {
                return None;
            }
        }
        let text = String::from_utf8_lossy(&head).into_owned();
        let mut lines = text.lines();
        let line = lines.next()?.to_owned();
        let fields = lines.filter_map(|line| line.split_once(':'));
        let fields = fields.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect();
        Some(Self { line, fields, body: Vec::new(), head })
    }

    /// Reads the body that belongs to a head; none if it is cut short.
    pub(crate) fn read_body(&mut self, stream: &mut BufReader<TcpStream>) -> Option<()> {
        if self.values("transfer-encoding") == ["chunked"] {
            loop {
                let size = usize::from_str_radix(&line(stream)?, 16).ok()?;
                let mut chunk = vec![0; size];
                stream.read_exact(&mut chunk).ok()?;
                if size == 0 {
                    // Trailers belong to what came.
                    while let line = line(stream)?
                        && !line.is_empty()
                    {
                        self.fields.push(("trailer".to_owned(), line));
                    }
                    return Some(());
                }
                line(stream)?;
                self.body.extend(chunk);
            }
        }
        let length = self.values("content-length").first().map_or(Some(0), |length| length.parse().ok())?;
        self.body.resize(length, 0);
        stream.read_exact(&mut self.body).ok()
    }

    /// Whether nobody can read its head otherwise: every line ends with CRLF and has no other
    /// control character, there is one `Host`, and at most one field says how long the body is.
    pub(crate) fn is_canonical(&self) -> bool {
        let lines = String::from_utf8_lossy(&self.head).replace("\r\n", "");
        let framing = self.values("content-length").len() + self.values("transfer-encoding").len();
        !lines.contains(|c: char| c.is_ascii_control()) && self.values("host").len() == 1 && framing <= 1
    }
}

impl Server {
    /// Serves every connection by `serve`, which is given the server to note requests with.
    pub(crate) fn scripted(serve: impl Fn(BufReader<TcpStream>, &Note) + Send + Sync + 'static) -> Self {
        Self::on("127.0.0.1:0".parse().expect("an address"), serve)
    }

    /// The same, at an address of the test's choice.
    pub(crate) fn on(address: SocketAddr, serve: impl Fn(BufReader<TcpStream>, &Note) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(address).expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared { healthy: true.into(), ..Shared::default() });
        let (serve, note) = (Arc::new(serve), Note(Arc::clone(&shared)));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if note.0.stopped.load(SeqCst) {
                    return;
                }
                stream.set_nodelay(true).expect("a socket");
                stream.set_read_timeout(Some(3 * DEADLINE)).expect("a socket");
                let number = note.0.connections.fetch_add(1, SeqCst);
                note.0.open.lock().expect("streams").extend(stream.try_clone().map(|stream| (number, stream)));
                let (serve, note) = (Arc::clone(&serve), Note(Arc::clone(&note.0)));
                std::thread::spawn(move || {
                    serve(BufReader::new(stream), &note);
                    // The last handle: this closes it.
                    note.0.open.lock().expect("streams").remove(&number);
                });
            }
        });
        Self { address, shared }
    }

    /// Answers every request with its name; `/health` as [`Server::set_healthy`] says.
    pub(crate) fn named(name: &'static str) -> Self {
        Self::scripted(move |stream, note| answer_by(name, stream, note))
    }

    /// Answers every request with these bytes.
    pub(crate) fn saying(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        Self::scripted(move |mut stream, note| {
            while note.next(&mut stream).is_some() {
                answer(&mut stream, &bytes);
            }
        })
    }

    /// The same, but `/slow` is answered only once the gate is open.
    pub(crate) fn gated(name: &'static str, gate: &Gate) -> Self {
        let gate = gate.clone();
        Self::scripted(move |mut stream, note| {
            while let Some(request) = note.next(&mut stream) {
                if request.path() == "/slow" {
                    gate.pass();
                }
                answer_named(name, &mut stream);
            }
        })
    }

    /// Its table in the default pool.
    pub(crate) fn table(&self, name: &str) -> String {
        format!("[[server]]\nname = \"{name}\"\naddress = \"{}\"\n", self.address)
    }

    /// Says whether `/health` is to be answered with 200 or 503.
    pub(crate) fn set_healthy(&self, healthy: bool) {
        self.shared.healthy.store(healthy, SeqCst);
    }

    /// Accepts no more, and ends all connections.
    pub(crate) fn stop(&self) {
        self.shared.stopped.store(true, SeqCst);
        // Wakes it, so that it lets go of the port.
        drop(TcpStream::connect(self.address));
        for stream in self.shared.open.lock().expect("streams").values() {
            // It may have ended.
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }

    /// Connections so far.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(SeqCst)
    }

    /// The requests so far, without those of health checks.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().expect("requests").clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Where a scripted server notes what it saw.
#[derive(Debug)]
pub(crate) struct Note(Arc<Shared>);

impl Note {
    /// Reads and notes the next request; a health check is answered and not noted.
    pub(crate) fn next(&self, stream: &mut BufReader<TcpStream>) -> Option<Request> {
        loop {
            let request = Request::read(stream)?;
            if request.path() != "/health" {
                self.seen(&request);
                return Some(request);
            }
            let status = if self.0.healthy.load(SeqCst) { "200 OK" } else { "503 Service Unavailable" };
            answer(stream, format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n"));
        }
    }

    /// Notes a request that was read without [`Note::next`].
    pub(crate) fn seen(&self, request: &Request) {
        self.0.requests.lock().expect("requests").push(request.clone());
    }
}

/// Sends bytes as they are; a client that has left is no fault.
pub(crate) fn answer(stream: &mut BufReader<TcpStream>, bytes: impl AsRef<[u8]>) {
    let _ = stream.get_mut().write_all(bytes.as_ref());
}

/// Has a connection end, when its function returns, by a reset.
pub(crate) fn reset(stream: &TcpStream) {
    socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)).expect("a socket");
}

/// An address that refuses connections, for as long as this lives: bound, but not listened at.
#[derive(Debug)]
pub(crate) struct Refusing {
    pub(crate) address: SocketAddr,
    _socket: socket2::Socket,
}

impl Refusing {
    pub(crate) fn new() -> Self {
        let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        socket.bind(&any.into()).expect("a port");
        let address = socket.local_addr().expect("an address").as_socket().expect("of IP");
        Self { address, _socket: socket }
    }
}

/// A server that takes no connection and refuses none: its queue is full and nobody accepts.
pub(crate) fn hanging() -> (socket2::Socket, Vec<socket2::Socket>, SocketAddr) {
    let Refusing { address, _socket: socket } = Refusing::new();
    socket.listen(0).expect("a listener");
    // With so many in a queue for one, a further one gets no answer.
    let waiting = (0..4).map(|_| {
        let client = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        client.set_nonblocking(true).expect("a socket");
        // It is not to wait for what does not come.
        let _ = client.connect(&address.into());
        client
    });
    let waiting = waiting.collect();
    (socket, waiting, address)
}

fn answer_by(name: &str, mut stream: BufReader<TcpStream>, note: &Note) {
    while note.next(&mut stream).is_some() {
        answer_named(name, &mut stream);
    }
}

fn answer_named(name: &str, stream: &mut BufReader<TcpStream>) {
    let length = name.len();
    answer(stream, format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{name}"));
}

fn line(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let mut line = String::new();
    let read = stream.read_line(&mut line).ok()?;
    (read > 0).then(|| line.trim_end_matches(['\r', '\n']).to_owned())
}

/// Holds answers back until it is opened, once and for all.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub(crate) fn open(&self) {
        *self.0.0.lock().expect("a gate") = true;
        self.0.1.notify_all();
    }

    pub(crate) fn pass(&self) {
        let shut = self.0.0.lock().expect("a gate");
        // A test that fails leaves it shut: then this ends with the test's process.
        drop(self.0.1.wait_while(shut, |open| !*open).expect("a gate"));
    }
}
