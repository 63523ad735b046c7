//! Bodies and tunnels between slow peers with little room: every byte arrives once and in order, and nothing hangs.

use std::io::{BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;

use fastrand::Rng;
use socket2::{Domain, SockRef, Socket, Type};

use crate::support::lb::Lb;
use crate::support::servers::{Recorder, Request, Server};
use crate::support::{DEADLINE, eventually};

const HOST: &str = "Host: a\r\nTE: trailers\r\nConnection: TE\r\n";
/// Sizes around those of buffers and pieces, and more than sockets hold.
const SIZES: [usize; 9] = [0, 1, 4095, 4097, 52_223, 52_225, 104_448, 200_000, 4_000_000];

/// One request and its response, as its path tells the server.
#[derive(Debug, Clone, Copy, Default)]
struct Plan {
    up: usize,
    down: usize,
    up_chunked: bool,
    down_chunked: bool,
    /// Whether the server begins its response before it has read the request.
    early: bool,
}

impl Plan {
    fn random(rng: &mut Rng) -> Self {
        let mut size = || SIZES[rng.usize(..SIZES.len())];
        let (up, down) = (size(), size());
        Self { up, down, up_chunked: rng.bool(), down_chunked: rng.bool(), early: rng.u8(..4) == 0 }
    }

    fn path(self) -> String {
        let [up_chunked, down_chunked, early] = [self.up_chunked, self.down_chunked, self.early].map(u8::from);
        format!("/exact/{}/{}/{up_chunked}/{down_chunked}/{early}", self.up, self.down)
    }

    fn of(path: &str) -> Option<Self> {
        let numbers: Vec<usize> = path.split('/').skip(2).map_while(|part| part.parse().ok()).collect();
        let [up, down, up_chunked, down_chunked, early] = numbers[..] else { return None };
        let [up_chunked, down_chunked, early] = [up_chunked, down_chunked, early].map(|flag| flag == 1);
        Some(Self { up, down, up_chunked, down_chunked, early })
    }

    fn request(self, rng: &mut Rng) -> Vec<u8> {
        let (path, length) = (self.path(), self.up);
        if self.up_chunked {
            let head = format!("POST {path} HTTP/1.1\r\n{HOST}Trailer: X-T\r\nTransfer-Encoding: chunked\r\n\r\n");
            [head.as_bytes(), &chunked(&content(self.up), rng)].concat()
        } else {
            let head = format!("POST {path} HTTP/1.1\r\n{HOST}Content-Length: {length}\r\n\r\n");
            [head.as_bytes(), &content(self.up)].concat()
        }
    }

    fn response(self, rng: &mut Rng) -> Vec<u8> {
        if self.down_chunked {
            let head = "HTTP/1.1 200 OK\r\nTrailer: X-T\r\nTransfer-Encoding: chunked\r\n\r\n";
            [head.as_bytes(), &chunked(&content(self.down), rng)].concat()
        } else {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", self.down);
            [head.as_bytes(), &content(self.down)].concat()
        }
    }
}

/// Bytes that differ from each other wherever a piece is lost, doubled or moved.
fn content(length: usize) -> Vec<u8> {
    let numbers = (0..length.div_ceil(4) as u32).flat_map(|number| number.wrapping_mul(0x9E37_79B1).to_be_bytes());
    numbers.take(length).collect()
}

/// `body` in chunks of odd sizes, with a trailer.
fn chunked(body: &[u8], rng: &mut Rng) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), body);
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at(rng.usize(1..70_000).min(rest.len()));
        out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
        rest = after;
    }
    out.extend_from_slice(format!("0\r\nX-T: {}\r\n\r\n", body.len()).as_bytes());
    out
}

/// Reads to the end in odd amounts, with pauses.
fn read_slowly(stream: &mut impl Read, rng: &mut Rng) -> Vec<u8> {
    let mut all = Vec::new();
    let mut piece = vec![0; 70_000];
    loop {
        let room = [1, 7, 1000, 4096, 70_000][rng.usize(..5)];
        let count = stream.read(&mut piece[..room]).expect("bytes or an end");
        if count == 0 {
            return all;
        }
        all.extend_from_slice(&piece[..count]);
        if rng.u8(..8) == 0 {
            thread::yield_now();
        }
    }
}

/// A client with little room.
fn connect(address: SocketAddr, rng: &mut Rng) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size([4096, 8192, 30_000][rng.usize(..3)]).expect("a size");
    socket.set_send_buffer_size([4096, 8192, 30_000][rng.usize(..3)]).expect("a size");
    socket.connect(&address.into()).expect("a connection");
    let stream: TcpStream = socket.into();
    stream.set_read_timeout(Some(2 * DEADLINE)).expect("a timeout");
    stream
}

/// Does what the paths of requests say, and records each request.
fn planned(mut stream: BufReader<TcpStream>, recorder: &Recorder) {
    SockRef::from(stream.get_ref()).set_send_buffer_size(8192).expect("a size");
    while let Some(mut request) = Request::read_head(&mut stream) {
        let mut rng = Rng::new();
        if request.path().starts_with("/tunnel") {
            let (_, sizes) = request.path().split_at("/tunnel/".len());
            let down = sizes.parse().expect("a size");
            let mut out = stream.get_ref().try_clone().expect("a stream");
            out.write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
                .expect("sent");
            let sender = thread::spawn(move || {
                out.write_all(&content(down)).expect("sent");
                out.shutdown(Shutdown::Write).expect("a connection");
            });
            request.body = read_slowly(&mut stream, &mut rng);
            sender.join().expect("sent");
            recorder.add(&request);
            return;
        }
        let Some(plan) = Plan::of(request.path()) else { return };
        let (response, mut out) = (plan.response(&mut rng), stream.get_ref().try_clone().expect("a stream"));
        let early = plan.early.then(|| {
            let response = response.clone();
            thread::spawn(move || out.write_all(&response))
        });
        if request.read_body(&mut stream).is_none() {
            return;
        }
        recorder.add(&request);
        let sent = match early {
            Some(sending) => sending.join().expect("no panic"),
            None => stream.get_mut().write_all(&response),
        };
        if sent.is_err() {
            return;
        }
    }
}

/// The body and the trailers of the first response in `bytes`, which are removed, and whether it is the last.
fn next_response(bytes: &mut &[u8]) -> (Vec<u8>, String, bool) {
    let mut line = || {
        let end = bytes.windows(2).position(|pair| pair == b"\r\n").expect("a line");
        let line = String::from_utf8_lossy(&bytes[..end]).into_owned();
        *bytes = &bytes[end + 2..];
        line
    };
    assert_eq!(line(), "HTTP/1.1 200 OK");
    let head: Vec<String> = std::iter::from_fn(|| Some(line()).filter(|line| !line.is_empty())).collect();
    let closes = head.iter().any(|line| line.eq_ignore_ascii_case("connection: close"));
    let length = head.iter().find_map(|line| line.strip_prefix("Content-Length: "));
    if let Some(length) = length {
        let (body, rest) = bytes.split_at(length.parse().expect("a length"));
        *bytes = rest;
        return (body.to_vec(), String::new(), closes);
    }
    let mut body = Vec::new();
    loop {
        let end = bytes.windows(2).position(|pair| pair == b"\r\n").expect("a size");
        let size = usize::from_str_radix(&String::from_utf8_lossy(&bytes[..end]), 16).expect("a size");
        *bytes = &bytes[end + 2..];
        if size == 0 {
            break;
        }
        body.extend_from_slice(&bytes[..size]);
        assert_eq!(&bytes[size..size + 2], b"\r\n");
        *bytes = &bytes[size + 2..];
    }
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("the end of the trailers");
    let trailers = String::from_utf8_lossy(&bytes[..end]).into_owned();
    *bytes = &bytes[end + 4..];
    (body, trailers, closes)
}

/// Sends a few requests at once and reads their responses slowly.
fn exchange(lb: SocketAddr, rng: &mut Rng) {
    let plans: Vec<Plan> = (0..rng.usize(1..4)).map(|_| Plan::random(rng)).collect();
    let mut stream = connect(lb, rng);
    let mut requests: Vec<u8> = plans.iter().flat_map(|plan| plan.request(rng)).collect();
    requests.extend_from_slice(
        format!("GET {} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", Plan::default().path()).as_bytes(),
    );
    let mut out = stream.try_clone().expect("a stream");
    let sending = thread::spawn(move || out.write_all(&requests));
    let all = read_slowly(&mut stream, rng);
    let mut rest = &all[..];
    let mut sent_all = true;
    for plan in &plans {
        let (body, trailers, closes) = next_response(&mut rest);
        assert!(body == content(plan.down), "{plan:?}: {} bytes", body.len());
        if plan.down_chunked {
            assert_eq!(trailers.to_lowercase(), format!("x-t: {}", plan.down), "{plan:?}");
        }
        if closes {
            // The response began before the request had been received.
            assert!(plan.early, "{plan:?}");
            sent_all = false;
            break;
        }
    }
    if sent_all {
        assert!(next_response(&mut rest).2 && rest.is_empty(), "{plans:?}: {} bytes too many", rest.len());
        sending.join().expect("no panic").expect("sent");
    }
}

#[test]
fn every_byte_of_a_body_arrives_once_and_in_order() {
    let server = Server::cramped(planned);
    let lb = Lb::in_front_of(&server, "");
    let (address, seed) = (lb.address(), fastrand::u64(..));
    let clients = (0..8).map(|client| {
        thread::spawn(move || {
            let mut rng = Rng::with_seed(seed ^ client);
            (0..4).for_each(|_| exchange(address, &mut rng));
        })
    });
    for client in clients.collect::<Vec<_>>() {
        assert!(client.join().is_ok(), "seed {seed}");
    }
    for request in server.requests() {
        let Some(plan) = Plan::of(request.path()) else { continue };
        assert!(request.body == content(plan.up), "{plan:?}: {} bytes", request.body.len());
        if plan.up_chunked {
            let trailer = format!("X-T: {}", plan.up);
            assert_eq!(request.values("trailer").last(), Some(&&*trailer), "{plan:?}");
        }
    }
}

#[test]
fn every_byte_of_a_tunnel_arrives_once_and_in_order_and_each_side_ends_alone() {
    let server = Server::cramped(planned);
    let lb = Lb::in_front_of(&server, "");
    let (address, seed) = (lb.address(), fastrand::u64(..));
    let clients = (0..6).map(|client| {
        thread::spawn(move || {
            let mut rng = Rng::with_seed(seed ^ client);
            let [up, down] = [0, 1].map(|_| SIZES[rng.usize(..SIZES.len())]);
            let mut stream = connect(address, &mut rng);
            let mut out = stream.try_clone().expect("a stream");
            let head = format!("GET /tunnel/{down} HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
            let sending = thread::spawn(move || {
                out.write_all(&[head.as_bytes(), &content(up)].concat()).expect("sent");
                out.shutdown(Shutdown::Write).expect("a connection");
            });
            let all = read_slowly(&mut stream, &mut rng);
            let head = all.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
            assert!(all.starts_with(b"HTTP/1.1 101 ") && all[head..] == content(down), "{down}: {} bytes", all.len());
            sending.join().expect("sent");
            up
        })
    });
    let mut sent: Vec<usize> = clients
        .collect::<Vec<_>>()
        .into_iter()
        .map(|client| client.join().unwrap_or_else(|_| panic!("seed {seed}")))
        .collect();
    // A client may have everything before the server has.
    let requests = eventually("all tunnels end", || Some(server.requests()).filter(|ended| ended.len() == sent.len()));
    let mut received: Vec<usize> = requests.iter().map(|request| request.body.len()).collect();
    sent.sort_unstable();
    received.sort_unstable();
    assert_eq!(received, sent);
    assert!(requests.iter().all(|request| request.body == content(request.body.len())));
}
