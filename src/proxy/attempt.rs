//! One try to have a server answer: the request goes out while the answer comes in, and either may end first.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use http::Version;
use tokio::net::TcpStream;

use crate::config::TimeoutsConfig;
use crate::http1::body::{Inbound, Outbound};
use crate::http1::framing::{self, Framing};
use crate::http1::head::{HeadLimits, ResponseHead};
use crate::http1::name::HeaderName;
use crate::http1::{persistence, trailers};
use crate::proxy::connection::Client;
use crate::proxy::cookie;
use crate::proxy::error::Failure;
use crate::proxy::exchange::Exchange;
use crate::proxy::fault::Fault;
use crate::proxy::headers::hop_by_hop;
use crate::proxy::request::Plan;
use crate::proxy::retry::Progress;
use crate::proxy::timeouts::{Late, Phase};
use crate::proxy::tunnel;
use crate::proxy::upload::{Sending, Sent, Upload};
use crate::proxy::upstream::{ConnectError, Connection};
use crate::transport;

/// What an answer's head may be.
const ANSWER: HeadLimits = HeadLimits { bytes: 128 * 1024, headers: 256 };

/// An answer that was passed on to its end.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    /// Whether the client may make another request on its connection.
    pub keeps: bool,
}

/// Why a try failed.
#[derive(Debug)]
pub struct Failed {
    /// What the client is told, if nothing was said to it before.
    pub failure: Failure,
    /// How far it came; `None` when another try makes no sense.
    pub progress: Option<Progress>,
    /// What speaks against the server, if anything does.
    pub fault: Option<Fault>,
}

impl Failed {
    /// With no use in another try.
    #[must_use]
    pub fn finally(failure: Failure) -> Self {
        Self { failure, progress: None, fault: Fault::of(failure) }
    }
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Self {
        Self::finally(failure)
    }
}

/// One try, at the server that the exchange names.
pub async fn attempt(
    exchange: &mut Exchange,
    plan: &Plan,
    stream: &TcpStream,
    upload: &mut Upload<'_, '_>,
    only_new: bool,
) -> Result<Ended, Failed> {
    let client = Rc::clone(exchange.client());
    let snapshot = Rc::clone(&exchange.snapshot);
    let timeouts = &snapshot.config.timeouts;
    let (connection, kept) = connect(exchange, &client, upload, timeouts, only_new).await?;

    let mut out = Outbound::new(
        &connection.stream,
        &client.worker.buffers,
        request(exchange, plan, &client),
        plan.framing == Framing::Chunked,
    );
    let sending = Sending { sent: Cell::new(Sent::Part), interim: Cell::new(false), kept };
    exchange.wait_body(Phase::Upload);
    let result = {
        let mut upload = pin!(upload.run(&mut out, &sending, &client, timeouts));
        let mut answer = pin!(answer(exchange, plan, stream, &connection.stream, &sending));
        let both = poll_fn(|context| {
            // First what is to be sent: without it there is nothing to wait for.
            if let Poll::Ready(failure) = upload.as_mut().poll(context) {
                return Poll::Ready(Err(failure.into()));
            }
            answer.as_mut().poll(context)
        });
        client.within(both).await
    };
    drop(out);
    let answered = match result {
        Ok(Err(_)) | Err(_) if sending.interim.get() => return Err(Failure::ClientGone.into()),
        Ok(Ok(answered)) => answered,
        Ok(Err(failed)) => return Err(failed),
        Err(Late { phase: Phase::Upload, client: true }) => return Err(Failure::ClientTooSlow.into()),
        Err(_) => return Err(Failure::AnswerTimeout.into()),
    };
    let whole = sending.sent.get() == Sent::All;
    match answered {
        Answered::Whole { keeps_client, keeps_server } => {
            if keeps_server && whole {
                exchange.keep(connection);
            }
            Ok(Ended { keeps: keeps_client && whole })
        }
        Answered::Switched { mut early } => {
            client.slot.wait_unlimited(Phase::Tunnel);
            let input = upload.rest();
            match tunnel::run(stream, &connection.stream, input, &mut early, &client.worker.buffers).await {
                Ok(bytes) => exchange.count_bytes(bytes),
                Err(_) => exchange.fail("tunnel_broken"),
            }
            Ok(Ended { keeps: false })
        }
    }
}

/// A connection that this worker has kept, which it then says, or a new one.
async fn connect(
    exchange: &Exchange,
    client: &Client,
    upload: &mut Upload<'_, '_>,
    timeouts: &TimeoutsConfig,
    only_new: bool,
) -> Result<(Connection, bool), Failed> {
    let Some(server) = exchange.server() else { return Err(Failure::NoServer.into()) };
    if !only_new && let Some(kept) = client.worker.upstreams.take(server.id) {
        return Ok((kept, true));
    }
    client.slot.wait_unlimited(Phase::Connect);
    let opened = tokio::select! {
        biased;
        opened = client.worker.upstreams.open(server, client.worker.index, timeouts.connect) => opened,
        () = upload.left() => return Err(Failure::ClientGone.into()),
    };
    opened.map(|new| (new, false)).map_err(|error| {
        tracing::debug!(server = %server.key, ?error, "cannot connect");
        let failure = match error {
            ConnectError::Timeout => Failure::ConnectTimeout,
            ConnectError::Unresolved | ConnectError::Refused(_) => Failure::Unreachable,
        };
        Failed { failure, progress: Some(Progress::NotConnected), fault: Fault::of_connecting(&error) }
    })
}

/// The request's head, as this try sends it.
fn request(exchange: &mut Exchange, plan: &Plan, client: &Client) -> Vec<u8> {
    if let Some(trace) = exchange.outgoing_trace() {
        trace.write(&mut exchange.head.headers);
    }
    let mut out = client.worker.buffers.take();
    let head = &exchange.head;
    out.extend_from_slice(head.method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(plan.target.as_deref().unwrap_or(head.target()));
    out.extend_from_slice(b" HTTP/1.1\r\n");
    head.headers.write(&mut out);
    if let Some(protocol) = &plan.upgrade {
        out.extend_from_slice(b"Connection: upgrade\r\nUpgrade: ");
        out.extend_from_slice(protocol);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    out
}

/// How an answer ended.
enum Answered {
    Whole {
        keeps_client: bool,
        keeps_server: bool,
    },
    /// With another protocol, of which `early` was read already.
    Switched {
        early: Vec<u8>,
    },
}

/// Waits for the answer and passes it on.
async fn answer(
    exchange: &mut Exchange,
    plan: &Plan,
    stream: &TcpStream,
    server: &TcpStream,
    sending: &Sending,
) -> Result<Answered, Failed> {
    let client = Rc::clone(exchange.client());
    let buffers = &client.worker.buffers;
    let mut input = Vec::new();
    let mut head = ResponseHead::new(client.worker.heads.take());
    response_head(exchange, stream, server, sending, &mut input, &mut head).await?;
    let framing = framing::response(&head.headers, head.version, head.status, &exchange.head.method)
        .map_err(|_| Failure::BadAnswer)?;
    let switched = head.status == 101;
    if switched && (plan.upgrade.is_none() || !head.headers.has(HeaderName::Upgrade)) {
        return Err(Failure::BadAnswer.into());
    }
    exchange.answered(head.status);

    let keeps_server = framing != Framing::UntilClose
        && head.version == Version::HTTP_11
        && persistence::keeps_alive(&head.headers, head.version);
    let old_client = exchange.head.version == Version::HTTP_10;
    let coded = matches!(framing, Framing::Chunked | Framing::UntilClose) && !old_client;
    // To HTTP/1.0, what has no length ends with the connection.
    let has_end = coded || matches!(framing, Framing::None | Framing::Length(_));
    let keeps_client = plan.keeps && has_end && !client.is_last() && sending.sent.get() == Sent::All && !switched;

    let protocol = hop_by_hop::prepare_response(&mut head.headers, head.status, head.version);
    let mut bytes = buffers.take();
    head.write(&mut bytes);
    let mut line = |name: &str, value: &[u8]| {
        bytes.extend_from_slice(name.as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value);
        bytes.extend_from_slice(b"\r\n");
    };
    if let Some(protocol) = protocol {
        line("Connection", b"upgrade");
        line("Upgrade", &protocol);
    } else if !keeps_client {
        line("Connection", b"close");
    } else if old_client {
        line("Connection", b"keep-alive");
    }
    if coded {
        line("Transfer-Encoding", b"chunked");
    }
    if !head.headers.has(HeaderName::Date) {
        line("Date", client.worker.date().as_bytes());
    }
    if let Some(cookie) = cookie(exchange, plan) {
        line("Set-Cookie", cookie.as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");

    let mut out = Outbound::new(stream, buffers, bytes, coded);
    if switched {
        out.send(b"", None).await.map_err(|_| Failure::ClientGone)?;
        return Ok(Answered::Switched { early: input });
    }
    let mut body = Inbound::new(server, &mut input, buffers, framing);
    let result = relay(exchange, plan, &client, &mut body, &mut out).await;
    let clean = body.is_over();
    buffers.give(input);
    client.worker.heads.put(head.headers);
    result?;
    Ok(Answered::Whole { keeps_client, keeps_server: keeps_server && clean })
}

/// Waits for the head of the final answer; what comes before it is passed on.
async fn response_head(
    exchange: &Exchange,
    stream: &TcpStream,
    server: &TcpStream,
    sending: &Sending,
    input: &mut Vec<u8>,
    head: &mut ResponseHead,
) -> Result<(), Failed> {
    let buffers = &exchange.client().worker.buffers;
    loop {
        if !input.is_empty()
            && let Some(length) = head.parse(input, ANSWER).map_err(|_| Failure::BadAnswer)?
        {
            input.drain(..length);
            if head.status >= 200 || head.status == 101 {
                return Ok(());
            }
            if exchange.head.version == Version::HTTP_11 {
                hop_by_hop::prepare_response(&mut head.headers, head.status, head.version);
                let mut bytes = Vec::new();
                head.write(&mut bytes);
                bytes.extend_from_slice(b"\r\n");
                sending.interim.set(true);
                transport::write(stream, [&bytes], &mut 0).await.map_err(|_| Failure::ClientGone)?;
                sending.interim.set(false);
            }
            continue;
        }
        let read = transport::read(server, input, buffers).await;
        if matches!(read, Ok(1..)) {
            continue;
        }
        // Half a head is an answer of a kind: the server has seen the request.
        let progress = match sending.sent.get() {
            _ if !input.is_empty() => None,
            Sent::Nothing => Some(Progress::NotSent),
            Sent::Part | Sent::All => Some(Progress::Sent),
        };
        let fault = (!sending.kept || !input.is_empty()).then_some(Fault::Closed);
        return Err(Failed { failure: Failure::BadAnswer, progress, fault });
    }
}

/// The cookie that the client is given, if it has not got it.
fn cookie(exchange: &Exchange, plan: &Plan) -> Option<String> {
    let rule = plan.pool.config.balance.sticky.as_ref()?;
    let token = exchange.member()?.token?;
    (plan.token != Some(token)).then(|| cookie::set_cookie(rule, &token))
}

/// Passes an answer's body on as it comes, behind the head that `out` holds.
async fn relay(
    exchange: &mut Exchange,
    plan: &Plan,
    client: &Client,
    body: &mut Inbound<'_>,
    out: &mut Outbound<'_>,
) -> Result<(), Failed> {
    let gone = |_: io::Error| Failure::ClientGone;
    let slot = &client.slot;
    exchange.wait_body(Phase::Download);
    // Who waits for a slow body sees at least its head.
    if !body.is_there() {
        let end = body.is_done().then(|| exchange.served()).map(|()| &b""[..]);
        out.send(b"", end).await.map_err(gone)?;
    }
    while !body.is_done() {
        body.advance().await.map_err(|_| Failure::AnswerCut)?;
        let trailers = if plan.trailers { trailers::forwardable(body.trailers()) } else { Vec::new() };
        let end = body.is_done().then(|| exchange.served()).map(|()| &trailers[..]);
        slot.body_waits(Phase::Download);
        out.send(body.piece(), end).await.map_err(gone)?;
        slot.body_moves(Phase::Download, body.piece().len());
        exchange.count_bytes(body.piece().len() as u64);
    }
    Ok(())
}
