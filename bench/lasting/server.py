"""server.py NAME PORT: a scripted HTTP/1.1 server, in its own process so that it can be killed.

It prints its port once it listens. Every response has its name in `X-Server`:

/health     200
/echo/TEXT  TEXT, so that a client recognizes its own response
/chunked/N  N KiB, chunked
/big/N      N KiB, with `Content-Length`
/up         the number of bytes it read, and their CRC-32
/ws         101, and then every byte back
/flaky/TEXT TEXT; but a server whose name starts with "flaky" resets one in five connections instead
/cut        a third of the announced body, then a reset
"""
import asyncio, random, socket, struct, sys, zlib

KIB = bytes(range(256)) * 4


def reset(writer):
    """RST instead of FIN: unread data is lost, as when a process dies"""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def pieces(reader, headers):
    """the request's body, as it arrives"""
    if headers.get(b"transfer-encoding"):
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            yield (await reader.readexactly(size + 2))[:-2]
        await reader.readuntil(b"\r\n")
        return
    left = int(headers.get(b"content-length", 0))
    while left:
        piece = await reader.read(min(left, 65536))
        if not piece:
            raise asyncio.IncompleteReadError(b"", left)
        left -= len(piece)
        yield piece


async def serve(name, reader, writer):
    head = b"HTTP/1.1 200 OK\r\nX-Server: " + name.encode() + b"\r\n"

    def respond(body):
        writer.write(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)

    while True:
        lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
        path = lines[0].split(b" ")[1].split(b"/")[1:]
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(b":") for line in lines[1:-2])}
        if path[0] == b"up":
            count = crc = 0
            async for piece in pieces(reader, headers):
                count, crc = count + len(piece), zlib.crc32(piece, crc)
            respond(b"%d %d" % (count, crc))
        elif path[0] == b"ws":
            writer.write(head.replace(b"200 OK", b"101 Switching Protocols") + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n")
            while piece := await reader.read(65536):
                writer.write(piece)
                await writer.drain()
            return
        elif path[0] == b"big":
            writer.write(head + b"Content-Length: %d\r\n\r\n" % (int(path[1]) * 1024))
            for _ in range(int(path[1])):
                writer.write(KIB)
                await writer.drain()
        elif path[0] == b"chunked":
            writer.write(head + b"Transfer-Encoding: chunked\r\n\r\n")
            for _ in range(int(path[1])):
                writer.write(b"400\r\n" + KIB + b"\r\n")
            writer.write(b"0\r\n\r\n")
        elif path[0] == b"cut":
            writer.write(head + b"Content-Length: 3000\r\n\r\n" + b"x" * 1000)
            await writer.drain()
            await asyncio.sleep(0.01)  # otherwise the reset could overtake the head, which is another fault
            return reset(writer)
        elif path[0] == b"flaky" and name.startswith("flaky") and random.random() < 0.2:
            return reset(writer)
        else:
            respond(path[-1])
        await writer.drain()


async def connection(name, reader, writer):
    try:
        await serve(name, reader, writer)
    except (OSError, asyncio.IncompleteReadError):
        pass  # the other side has left
    finally:
        writer.close()


async def main(name, port):
    listening = await asyncio.start_server(lambda r, w: connection(name, r, w), "127.0.0.1", port, backlog=1024)
    print(listening.sockets[0].getsockname()[1], flush=True)
    await listening.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
