//! A plain HTTP/1.1 client that sends any bytes and hides nothing of the response.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::DEADLINE;

/// One connection.
#[derive(Debug)]
pub(crate) struct Client {
    stream: BufReader<TcpStream>,
}

/// A complete response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// Names in the case in which they were sent.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

/// A chunk of a body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Data(Vec<u8>),
    /// The last chunk, with the lines of its trailer section.
    End(Vec<String>),
}

/// GET on a new connection.
#[track_caller]
pub(crate) fn get(address: SocketAddr, path: &str) -> Response {
    Client::connect(address).get(path)
}

impl Client {
    #[track_caller]
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address).expect("a connection")
    }

    pub(crate) fn try_connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, DEADLINE)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    #[track_caller]
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.get_mut().write_all(bytes.as_ref()).expect("sent");
    }

    #[track_caller]
    pub(crate) fn get(&mut self, path: &str) -> Response {
        self.request(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
    }

    /// Sends any request and returns its response. For HEAD there is [`Client::try_head`].
    #[track_caller]
    pub(crate) fn request(&mut self, bytes: impl AsRef<[u8]>) -> Response {
        self.send(bytes);
        self.response()
    }

    /// The next response.
    #[track_caller]
    pub(crate) fn response(&mut self) -> Response {
        self.try_response().expect("a response")
    }

    pub(crate) fn try_response(&mut self) -> io::Result<Response> {
        let (status, headers) = self.try_head()?;
        let mut response = Response { status, headers, body: Vec::new() };
        if response.header("transfer-encoding") == Some("chunked") {
            loop {
                match self.chunk()? {
                    Piece::Data(data) => response.body.extend(data),
                    Piece::End(_) => return Ok(response),
                }
            }
        }
        match response.header("content-length").map(str::parse::<usize>) {
            Some(Ok(length)) => {
                response.body.resize(length, 0);
                self.stream.read_exact(&mut response.body)?;
            }
            Some(Err(error)) => return Err(io::Error::other(error)),
            None if response.status == 204 || response.status == 304 || response.status < 200 => {}
            None => drop(self.stream.read_to_end(&mut response.body)?),
        }
        Ok(response)
    }

    /// The head of the next response: its status and headers.
    pub(crate) fn try_head(&mut self) -> io::Result<(u16, Vec<(String, String)>)> {
        let first = self.line()?;
        let status = first.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| io::Error::other(format!("no status in {first:?}")))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok((status, headers));
            }
            let (name, value) = line.split_once(':').ok_or_else(|| io::Error::other("no colon"))?;
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    /// Reads exactly `count` bytes.
    #[track_caller]
    pub(crate) fn read(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes).expect("as many bytes");
        bytes
    }

    /// Waits for data or the end of the connection, and returns whether it was the end.
    pub(crate) fn is_closed(&mut self) -> bool {
        match self.stream.fill_buf() {
            Ok(rest) => rest.is_empty(),
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        }
    }

    /// The next chunk of a response's body.
    pub(crate) fn chunk(&mut self) -> io::Result<Piece> {
        let size = self.line()?;
        let size = usize::from_str_radix(size.split(';').next().unwrap_or(""), 16).map_err(io::Error::other)?;
        if size > 0 {
            let mut data = vec![0; size];
            self.stream.read_exact(&mut data)?;
            let end = self.line()?;
            return if end.is_empty() { Ok(Piece::Data(data)) } else { Err(io::Error::other("no end of the chunk")) };
        }
        let mut trailers = Vec::new();
        loop {
            match self.line()? {
                line if line.is_empty() => return Ok(Piece::End(trailers)),
                line => trailers.push(line),
            }
        }
    }

    /// Reads to the end of the connection.
    pub(crate) fn rest(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.stream.read_to_end(&mut bytes).map(|_| bytes)
    }

    /// The socket, for another thread to write to, or for its options.
    pub(crate) fn socket(&self) -> TcpStream {
        self.stream.get_ref().try_clone().expect("a socket")
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end_matches(['\r', '\n']).to_owned())
    }

    pub(crate) fn try_get(&mut self, path: &str) -> io::Result<Response> {
        self.stream.get_mut().write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes())?;
        self.try_response()
    }
}

impl Response {
    /// The first header with that name, in any case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Whether the response lets the connection stay open.
    pub(crate) fn keeps_alive(&self) -> bool {
        !self.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}
