"""The clients: each kind is a coroutine that sends requests until it is cancelled, checks every byte, and counts in `Tally`.

An outcome is `ok`, or the kind of failure:
refused     no connection                lost    a connection, but no byte of a response
status N    a complete response          cut     an incomplete response
wrong       a complete response that is not the expected one
timeout     nothing for TIMEOUT
"""
import asyncio, collections, dataclasses, os, random, socket, struct, time, zlib

TIMEOUT = 20
BROKEN = (OSError, asyncio.IncompleteReadError)


class Failed(Exception):
    """an outcome other than `ok`; `server` sent the response, if its head arrived"""

    def __init__(self, outcome, server=None):
        super().__init__(outcome)
        self.outcome, self.server = outcome, server


@dataclasses.dataclass
class Event:
    """a request that failed"""
    kind: str
    outcome: str
    server: str | None
    began: float
    ended: float


class Tally:
    """the outcomes of all requests"""

    def __init__(self):
        self.good = collections.Counter()
        self.failed = []
        self.waited = []  # seconds for each small GET since the last report

    async def one(self, kind, request):
        """counts one request; returns whether its connection can be reused"""
        began = time.time()
        try:
            async with asyncio.timeout(TIMEOUT):  # not `wait_for`, which can swallow a cancellation: the client would never end
                await request
        except Failed as e:
            self.failed.append(Event(kind, e.outcome, e.server, began, time.time()))
            return False
        except TimeoutError:
            self.failed.append(Event(kind, "timeout", None, began, time.time()))
            return False
        self.good[kind] += 1
        if kind == "keep-alive":
            self.waited.append(time.time() - began)
        return True


class Connection:
    """a raw connection, without hidden retries"""

    @classmethod
    async def open(cls, port, window=None):
        """`window` is the size of the receive buffer, by default the kernel's choice"""
        self = cls()
        self.last = False  # whether the response announced the close
        s = socket.socket()
        try:
            s.setblocking(False)
            if window:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
            await asyncio.get_running_loop().sock_connect(s, ("127.0.0.1", port))
            self.reader, self.writer = await asyncio.open_connection(sock=s, limit=window or 65536)
        except OSError:
            s.close()
            raise Failed("refused") from None
        return self

    async def send(self, data):
        try:
            self.writer.write(data)
            await self.writer.drain()
        except OSError:
            pass  # reading finds the outcome: there may be an early response

    async def head(self):
        """the status and the headers of a response"""
        try:
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        except asyncio.IncompleteReadError as e:
            raise Failed("cut" if e.partial else "lost") from None
        except OSError:
            raise Failed("lost") from None
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:-2])}
        self.last = "close" in headers.get("connection", "")
        return int(lines[0].split(" ")[1]), headers

    async def response(self):
        """the server and the body of a complete response with status 200"""
        status, headers = await self.head()
        server = headers.get("x-server")
        try:
            if "transfer-encoding" in headers:
                body = b""
                while size := int(await self.reader.readuntil(b"\r\n"), 16):
                    body += (await self.reader.readexactly(size + 2))[:-2]
                await self.reader.readuntil(b"\r\n")
            else:
                body = await self.reader.readexactly(int(headers["content-length"]))
        except BROKEN:
            raise Failed("cut", server) from None
        if status != 200:
            raise Failed(f"status {status}", server)
        return server, body

    async def get(self, path, expect, more=""):
        await self.send(request("GET", path, more))
        server, body = await self.response()
        if body != expect:
            raise Failed("wrong", server)

    def reset(self):
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def close(self):
        self.writer.close()


def request(method, path, more=""):
    return f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{more}\r\n".encode()


def token():
    return "%016x" % random.getrandbits(64)


async def reused(tally, port, kind, pause, send):
    """one connection for as long as it works; `send(connection)` is one request"""
    connection = None
    try:
        while True:
            async def one():
                nonlocal connection
                connection = connection or await Connection.open(port)
                await send(connection)

            good = await tally.one(kind, one())
            if connection and (connection.last or not good):
                connection.close()
                connection = None
            await asyncio.sleep(random.uniform(0, 2 * pause))
    finally:
        if connection:
            connection.close()


async def fresh(tally, port, kind, pause, send, window=None):
    """a connection for each request"""
    while True:
        async def one():
            connection = await Connection.open(port, window)
            try:
                await send(connection)
            finally:
                connection.close()

        await tally.one(kind, one())
        await asyncio.sleep(random.uniform(0, 2 * pause))


# ---- the requests -----------------------------------------------------------------------------------------------
async def small(c):
    t = token()
    await c.get(f"/echo/{t}", t.encode())


async def last(c):
    """a request with `Connection: close`, after which the other side must close"""
    t = token()
    await c.get(f"/echo/{t}", t.encode(), "Connection: close\r\n")
    if await c.reader.read(1):
        raise Failed("wrong")


async def pipelined(c):
    """five at once; the responses must be in order"""
    tokens = [token() for _ in range(5)]
    await c.send(b"".join(request("GET", f"/echo/{t}") for t in tokens))
    for t in tokens:
        server, body = await c.response()
        if body != t.encode():
            raise Failed("wrong", server)


async def chunked(c):
    n = random.randint(1, 64)
    await c.get(f"/chunked/{n}", bytes(range(256)) * 4 * n)


async def flaky(c):
    t = token()
    await c.get(f"/flaky/{t}", t.encode())


async def cut(c):
    """a response that its server breaks off; it must never look complete"""
    await c.send(request("GET", "/cut"))
    try:
        server, _ = await c.response()
    except Failed as e:
        if e.outcome == "cut":
            return c.close()
        raise
    raise Failed("wrong", server)


async def upload(c):
    """a body with its length or in chunks; the server responds with the length and the CRC-32 that it received"""
    body = os.urandom(random.choice([1, 1000, 20_000, 100_000, 300_000]))
    if random.random() < 0.5:
        await c.send(request("POST", "/up", f"Content-Length: {len(body)}\r\n") + body)
    else:
        await c.send(request("POST", "/up", "Transfer-Encoding: chunked\r\n"))
        for at in range(0, len(body), 15_000):
            piece = body[at:at + 15_000]
            await c.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        await c.send(b"0\r\n\r\n")
    server, got = await c.response()
    if got != b"%d %d" % (len(body), zlib.crc32(body)):
        raise Failed("wrong", server)


async def slow_reader(c):
    """1 MiB at about 200 KiB a second: the server has to wait"""
    await c.send(request("GET", "/big/1024"))
    status, headers = await c.head()
    server = headers.get("x-server")
    if status != 200:
        raise Failed(f"status {status}", server)
    left = 1 << 20
    while left:
        try:
            piece = await c.reader.read(min(left, 16384))
        except OSError:
            piece = b""
        if not piece:
            raise Failed("cut", server)
        left -= len(piece)
        await asyncio.sleep(0.08)


async def websocket(c):
    """5 to 15 s of messages, each echoed"""
    await c.send(request("GET", "/ws", "Connection: upgrade\r\nUpgrade: websocket\r\n"
                         "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: c29ha3NvYWtzb2Frc29haw==\r\n"))
    status, headers = await c.head()
    server = headers.get("x-server")
    if status != 101:
        raise Failed(f"status {status}", server)
    end = time.time() + random.uniform(5, 15)
    while time.time() < end:
        message = os.urandom(random.randint(1, 4000))
        await c.send(message)
        try:
            if await c.reader.readexactly(len(message)) != message:
                raise Failed("wrong", server)
        except BROKEN:
            raise Failed("cut", server) from None
        await asyncio.sleep(0.1)


async def resetting(c):
    """a client that resets in the middle of its head, of its body, or of the response"""
    match random.randrange(3):
        case 0:
            await c.send(b"GET /echo/x HTTP/1.1\r\nHo")
        case 1:
            await c.send(request("POST", "/up", "Content-Length: 100000\r\n") + bytes(50_000))
        case 2:
            await c.send(request("GET", "/big/256"))
            await c.head()
    await asyncio.sleep(random.uniform(0, 0.02))
    c.reset()


def load(tally, port):
    """all clients, about 1,500 requests a second"""
    def some(n, how, kind, pause, send, **options):
        return [how(tally, port, kind, pause, send, **options) for _ in range(n)]

    return [
        *some(24, reused, "keep-alive", 0.025, small),
        *some(4, reused, "pipelined", 0.1, pipelined),
        *some(4, reused, "chunked", 0.1, chunked),
        *some(4, fresh, "new", 0.05, small),
        *some(4, fresh, "new, last", 0.05, last),
        *some(4, reused, "flaky", 0.05, flaky),
        *some(1, fresh, "cut", 0.2, cut),
        *some(8, reused, "upload", 0.1, upload),
        *some(8, fresh, "slow reader", 0.1, slow_reader, window=16384),
        *some(20, fresh, "websocket", 0.1, websocket),
        *some(4, fresh, "reset", 0.1, resetting),
    ]
