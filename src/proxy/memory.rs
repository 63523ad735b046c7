//! A downstream and an upstream in memory, for tests: requests without a connection, servers without a socket.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::http1::body::BodyLength;
use crate::http1::client::{OutgoingRequest, ResponseError, Sent};
use crate::http1::head::{Headers, ResponseHead};

/// A request that has been received, and the place for its response.
#[derive(Debug)]
pub struct MemoryRequest {
    pub body: MemoryBody,
    pub response: MemoryResponse,
}

/// The body of a request, in pieces.
#[derive(Debug, Default)]
pub struct MemoryBody {
    pieces: Vec<&'static str>,
    piece: &'static str,
}

/// The response as the client has received it.
#[derive(Debug, Default)]
pub struct MemoryReceived {
    pub status: u16,
    pub headers: Headers,
    pub body: String,
    pub complete: bool,
}

/// The response as it goes to the client.
#[derive(Debug)]
pub struct MemoryResponse(Rc<RefCell<MemoryReceived>>);

impl MemoryRequest {
    /// A request with a body of these pieces, and what its client will have received.
    pub fn new(pieces: &[&'static str]) -> (Self, Rc<RefCell<MemoryReceived>>) {
        let received = Rc::<RefCell<MemoryReceived>>::default();
        let body = MemoryBody { pieces: pieces.iter().rev().copied().collect(), piece: "" };
        (Self { body, response: MemoryResponse(Rc::clone(&received)) }, received)
    }
}

impl MemoryBody {
    pub fn length(&self) -> BodyLength {
        if self.pieces.is_empty() { BodyLength::None } else { BodyLength::Unknown }
    }

    pub async fn advance(&mut self) -> bool {
        tokio::task::yield_now().await;
        self.piece = self.pieces.pop().unwrap_or_default();
        !self.piece.is_empty()
    }

    pub fn piece(&self) -> &[u8] {
        self.piece.as_bytes()
    }

    pub fn is_done(&self) -> bool {
        self.pieces.is_empty()
    }

    pub fn consume_piece(&mut self) {
        self.piece = "";
    }
}

impl MemoryResponse {
    pub fn is_started(&self) -> bool {
        self.0.borrow().status != 0
    }

    pub fn start(&mut self, head: &ResponseHead) {
        let mut received = self.0.borrow_mut();
        received.status = head.status;
        received.headers = head.headers.clone();
    }

    pub fn send(&mut self, piece: &[u8], end: bool) {
        let mut received = self.0.borrow_mut();
        received.body.push_str(&String::from_utf8_lossy(piece));
        received.complete |= end;
    }
}

/// A connection to a server in memory.
#[derive(Debug, Clone, Default)]
pub struct MemoryServer(Rc<RefCell<Vec<SeenRequest>>>);

/// A request that a server has received.
#[derive(Debug)]
pub struct SeenRequest {
    pub target: String,
    pub headers: Headers,
    pub body: Rc<RefCell<String>>,
    /// Takes the pieces of the response's body; dropped, it ends the response.
    pub respond: Option<UnboundedSender<&'static str>>,
}

/// The sending half of an exchange.
#[derive(Debug)]
pub struct MemorySender {
    body: Rc<RefCell<String>>,
    /// Whether the server accepts no more of the body.
    closed: bool,
}

/// The receiving half of an exchange.
#[derive(Debug)]
pub struct MemoryReceiver {
    pieces: UnboundedReceiver<&'static str>,
    /// The first piece, whose arrival stands for the head.
    first: Option<&'static str>,
    piece: &'static str,
    done: bool,
}

impl MemoryServer {
    /// All requests so far.
    pub fn seen(&self) -> std::cell::RefMut<'_, Vec<SeenRequest>> {
        self.0.borrow_mut()
    }

    pub fn start(&self, request: OutgoingRequest<'_>) -> (MemorySender, MemoryReceiver) {
        let (respond, pieces) = unbounded_channel();
        let body = Rc::<RefCell<String>>::default();
        self.0.borrow_mut().push(SeenRequest {
            target: String::from_utf8_lossy(request.target.unwrap_or(request.head.target())).into_owned(),
            headers: request.head.headers.clone(),
            body: Rc::clone(&body),
            respond: Some(respond),
        });
        (MemorySender { body, closed: false }, MemoryReceiver { pieces, first: None, piece: "", done: false })
    }
}

impl MemorySender {
    /// To a server that accepts nothing.
    pub fn closed() -> Self {
        Self { body: Rc::default(), closed: true }
    }

    pub fn send(&mut self, piece: &[u8], _end: bool) -> io::Result<()> {
        if self.closed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.body.borrow_mut().push_str(&String::from_utf8_lossy(piece));
        Ok(())
    }
}

impl MemoryReceiver {
    /// The response begins with its first piece.
    pub async fn read_head(&mut self, head: &mut ResponseHead) -> Result<(), ResponseError> {
        self.first = Some(self.pieces.recv().await.ok_or(ResponseError::Closed(Sent::All))?);
        *head = ResponseHead::of_status(200);
        Ok(())
    }

    pub fn length(&self) -> BodyLength {
        BodyLength::Unknown
    }

    pub async fn advance(&mut self) -> bool {
        self.piece = match self.first.take() {
            Some(piece) => piece,
            None => self.pieces.recv().await.unwrap_or_default(),
        };
        self.done = self.piece.is_empty();
        !self.done
    }

    pub fn piece(&self) -> &[u8] {
        self.piece.as_bytes()
    }

    pub fn is_done(&self) -> bool {
        self.done
    }
}
