//! A plain HTTP/1.1 client that sends what it is told and hides nothing.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::DEADLINE;

/// One connection.
#[derive(Debug)]
pub(crate) struct Client {
    stream: BufReader<TcpStream>,
}

/// A whole answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names as they came.
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

/// A piece of a chunked body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Data(Vec<u8>),
    /// The last chunk, with trailers as they came.
    End(Vec<String>),
}

/// GET on a connection of its own.
#[track_caller]
pub(crate) fn get(address: SocketAddr, path: &str) -> Answer {
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

    /// Sends bytes as they are.
    #[track_caller]
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.get_mut().write_all(bytes.as_ref()).expect("sent");
    }

    /// GET, and the answer.
    #[track_caller]
    pub(crate) fn get(&mut self, path: &str) -> Answer {
        self.request(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
    }

    /// Any request without a body that HEAD would not have, and the answer.
    #[track_caller]
    pub(crate) fn request(&mut self, bytes: impl AsRef<[u8]>) -> Answer {
        self.send(bytes);
        self.answer()
    }

    /// The next answer.
    #[track_caller]
    pub(crate) fn answer(&mut self) -> Answer {
        self.try_answer().expect("an answer")
    }

    /// The next answer, or why there is none.
    pub(crate) fn try_answer(&mut self) -> io::Result<Answer> {
        let (status, fields) = self.try_head()?;
        let mut answer = Answer { status, fields, body: Vec::new() };
        if answer.field("transfer-encoding") == Some("chunked") {
            loop {
                match self.chunk()? {
                    Piece::Data(data) => answer.body.extend(data),
                    Piece::End(_) => return Ok(answer),
                }
            }
        }
        match answer.field("content-length").map(str::parse::<usize>) {
            Some(Ok(length)) => {
                answer.body.resize(length, 0);
                self.stream.read_exact(&mut answer.body)?;
            }
            Some(Err(error)) => return Err(io::Error::other(error)),
            None if answer.status == 204 || answer.status == 304 || answer.status < 200 => {}
            None => drop(self.stream.read_to_end(&mut answer.body)?),
        }
        Ok(answer)
    }

    /// The head of the next answer: its status and fields.
    pub(crate) fn try_head(&mut self) -> io::Result<(u16, Vec<(String, String)>)> {
        let first = self.line()?;
        let status = first.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| io::Error::other(format!("no status in {first:?}")))?;
        let mut fields = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok((status, fields));
            }
            let (name, value) = line.split_once(':').ok_or_else(|| io::Error::other("no colon"))?;
            fields.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    /// Exactly so many bytes.
    #[track_caller]
    pub(crate) fn read(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes).expect("as many bytes");
        bytes
    }

    /// Whether the other side has closed, nothing more having come. Waits for one or the other.
    pub(crate) fn is_closed(&mut self) -> bool {
        match self.stream.fill_buf() {
            Ok(rest) => rest.is_empty(),
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        }
    }

    /// The next chunk of an answer's body.
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

    /// Everything until the other side closes.
    pub(crate) fn rest(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.stream.read_to_end(&mut bytes).map(|_| bytes)
    }

    /// The socket, to be written by another thread or set up otherwise.
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

    /// GET, and the answer, or why there is none.
    pub(crate) fn try_get(&mut self, path: &str) -> io::Result<Answer> {
        self.stream.get_mut().write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes())?;
        self.try_answer()
    }
}

impl Answer {
    /// The first field of that name, in whatever case.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Whether the connection takes another request.
    pub(crate) fn is_kept(&self) -> bool {
        !self.field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}
