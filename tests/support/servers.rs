//! Servers that behave or misbehave as a test wants. A thread for each connection runs the test's function.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use super::DEADLINE;

/// A running server. It refuses connections after [`Server::stop`], or once it is dropped.
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
    /// The open connections, by their numbers.
    open: Mutex<HashMap<usize, TcpStream>>,
}

/// A request as the server received it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Request {
    /// `GET /path HTTP/1.1`
    pub(crate) line: String,
    /// Names in the case in which they were sent.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// The bytes of the head.
    pub(crate) head: Vec<u8>,
}

impl Request {
    /// The values of all headers with that name, in any case.
    pub(crate) fn values(&self, name: &str) -> Vec<&str> {
        let headers = self.headers.iter().filter(|(header, _)| header.eq_ignore_ascii_case(name));
        headers.map(|(_, value)| value.as_str()).collect()
    }

    pub(crate) fn path(&self) -> &str {
        self.line.split(' ').nth(1).unwrap_or("")
    }

    /// Reads a request, or returns `None` at the end of the connection. A body has a `Content-Length` or is chunked.
    pub(crate) fn read(stream: &mut BufReader<TcpStream>) -> Option<Self> {
        let mut request = Self::read_head(stream)?;
        request.read_body(stream)?;
        Some(request)
    }

    /// Reads a request's head.
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
        let headers = lines.filter_map(|line| line.split_once(':'));
        let headers = headers.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect();
        Some(Self { line, headers, body: Vec::new(), head })
    }

    /// Reads the body that follows a head, or returns `None` if it is incomplete.
    pub(crate) fn read_body(&mut self, stream: &mut BufReader<TcpStream>) -> Option<()> {
        if self.values("transfer-encoding") == ["chunked"] {
            loop {
                let size = usize::from_str_radix(&line(stream)?, 16).ok()?;
                let mut chunk = vec![0; size];
                stream.read_exact(&mut chunk).ok()?;
                if size == 0 {
                    // Tests look for trailers among the headers, by the name `trailer`.
                    while let line = line(stream)?
                        && !line.is_empty()
                    {
                        self.headers.push(("trailer".to_owned(), line));
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

    /// Whether no parser can read the head in another way: every line ends with CRLF and has no other control
    /// character, there is one `Host`, and at most one header frames the body.
    pub(crate) fn is_canonical(&self) -> bool {
        let lines = String::from_utf8_lossy(&self.head).replace("\r\n", "");
        let framing = self.values("content-length").len() + self.values("transfer-encoding").len();
        !lines.contains(|c: char| c.is_ascii_control()) && self.values("host").len() == 1 && framing <= 1
    }
}

impl Server {
    /// Serves each connection with `serve`.
    pub(crate) fn scripted(serve: impl Fn(BufReader<TcpStream>, &Recorder) + Send + Sync + 'static) -> Self {
        Self::on("127.0.0.1:0".parse().expect("an address"), serve)
    }

    /// Like [`Server::scripted`], at a given address.
    pub(crate) fn on(
        address: SocketAddr,
        serve: impl Fn(BufReader<TcpStream>, &Recorder) + Send + Sync + 'static,
    ) -> Self {
        Self::accepting(TcpListener::bind(address).expect("a port"), serve)
    }

    /// Like [`Server::scripted`], with little room for bytes that have not been read.
    pub(crate) fn cramped(serve: impl Fn(BufReader<TcpStream>, &Recorder) + Send + Sync + 'static) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.set_recv_buffer_size(8192).expect("a size");
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a port");
        socket.listen(1024).expect("a port");
        Self::accepting(socket.into(), serve)
    }

    fn accepting(
        listener: TcpListener,
        serve: impl Fn(BufReader<TcpStream>, &Recorder) + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared { healthy: true.into(), ..Shared::default() });
        let (serve, recorder) = (Arc::new(serve), Recorder(Arc::clone(&shared)));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if recorder.0.stopped.load(SeqCst) {
                    return;
                }
                stream.set_nodelay(true).expect("a socket");
                stream.set_read_timeout(Some(3 * DEADLINE)).expect("a socket");
                let number = recorder.0.connections.fetch_add(1, SeqCst);
                recorder.0.open.lock().expect("streams").extend(stream.try_clone().map(|stream| (number, stream)));
                let (serve, recorder) = (Arc::clone(&serve), Recorder(Arc::clone(&recorder.0)));
                std::thread::spawn(move || {
                    serve(BufReader::new(stream), &recorder);
                    // The last handle: dropping it closes the connection.
                    recorder.0.open.lock().expect("streams").remove(&number);
                });
            }
        });
        Self { address, shared }
    }

    /// Responds with its name to every request but health checks, whose status is [`Server::set_healthy`]'s.
    pub(crate) fn named(name: &'static str) -> Self {
        Self::gated(name, &Gate::opened())
    }

    /// Responds with these bytes to every request.
    pub(crate) fn responding(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        Self::scripted(move |mut stream, recorder| {
            while recorder.next(&mut stream).is_some() {
                respond(&mut stream, &bytes);
            }
        })
    }

    /// Like [`Server::named`], but a request for `/slow` waits until the gate is open.
    pub(crate) fn gated(name: &'static str, gate: &Gate) -> Self {
        let gate = gate.clone();
        Self::scripted(move |mut stream, recorder| {
            while let Some(request) = recorder.next(&mut stream) {
                if request.path() == "/slow" {
                    gate.pass();
                }
                let length = name.len();
                respond(&mut stream, format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{name}"));
            }
        })
    }

    /// Its table for the default pool.
    pub(crate) fn table(&self, name: &str) -> String {
        format!("[[server]]\nname = \"{name}\"\naddress = \"{}\"\n", self.address)
    }

    /// Makes the response to health checks 200 or 503.
    pub(crate) fn set_healthy(&self, healthy: bool) {
        self.shared.healthy.store(healthy, SeqCst);
    }

    /// Stops accepting, and ends all connections.
    pub(crate) fn stop(&self) {
        self.shared.stopped.store(true, SeqCst);
        // Wakes the thread that accepts, so that it closes the port.
        drop(TcpStream::connect(self.address));
        for stream in self.shared.open.lock().expect("streams").values() {
            // The connection may have ended.
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }

    /// Connections accepted so far.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(SeqCst)
    }

    /// The requests so far, except health checks.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().expect("requests").clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The requests that a scripted server records.
#[derive(Debug)]
pub(crate) struct Recorder(Arc<Shared>);

impl Recorder {
    /// Reads and records the next request. Health checks get their response and are not recorded.
    pub(crate) fn next(&self, stream: &mut BufReader<TcpStream>) -> Option<Request> {
        loop {
            let request = Request::read(stream)?;
            if request.path() != "/health" {
                self.add(&request);
                return Some(request);
            }
            let status = if self.0.healthy.load(SeqCst) { "200 OK" } else { "503 Service Unavailable" };
            respond(stream, format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n"));
        }
    }

    /// Records a request that was read without [`Recorder::next`], and returns how many are recorded.
    pub(crate) fn add(&self, request: &Request) -> usize {
        let mut requests = self.0.requests.lock().expect("requests");
        requests.push(request.clone());
        requests.len()
    }
}

/// Sends any bytes. The client may have left.
pub(crate) fn respond(stream: &mut BufReader<TcpStream>, bytes: impl AsRef<[u8]>) {
    let _ = stream.get_mut().write_all(bytes.as_ref());
}

/// Makes the connection end with a reset once it is dropped.
pub(crate) fn reset(stream: &TcpStream) {
    socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)).expect("a socket");
}

/// An address that refuses connections: bound, so that nobody else gets it, but not listening.
#[derive(Debug)]
pub(crate) struct Refusing {
    pub(crate) address: SocketAddr,
    _socket: Socket,
}

impl Refusing {
    pub(crate) fn new() -> Self {
        let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.bind(&any.into()).expect("a port");
        let address = socket.local_addr().expect("an address").as_socket().expect("of IP");
        Self { address, _socket: socket }
    }
}

/// A server that neither accepts nor refuses connections: its queue is full.
pub(crate) fn hanging() -> (Socket, Vec<Socket>, SocketAddr) {
    let Refusing { address, _socket: socket } = Refusing::new();
    socket.listen(0).expect("a listener");
    // With these in a queue for one, the system ignores further ones.
    let waiting = (0..4).map(|_| {
        let client = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        client.set_nonblocking(true).expect("a socket");
        // Not blocking, it returns an error at once.
        let _ = client.connect(&address.into());
        client
    });
    let waiting = waiting.collect();
    (socket, waiting, address)
}

fn line(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let mut line = String::new();
    let read = stream.read_line(&mut line).ok()?;
    (read > 0).then(|| line.trim_end_matches(['\r', '\n']).to_owned())
}

/// Holds responses back until it is opened. It is never closed again.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub(crate) fn opened() -> Self {
        let gate = Self::default();
        gate.open();
        gate
    }

    pub(crate) fn open(&self) {
        *self.0.0.lock().expect("a gate") = true;
        self.0.1.notify_all();
    }

    pub(crate) fn pass(&self) {
        let shut = self.0.0.lock().expect("a gate");
        // A test that fails leaves it shut; this thread then ends with the process.
        drop(self.0.1.wait_while(shut, |open| !*open).expect("a gate"));
    }
}
