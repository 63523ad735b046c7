"""A server of a pool, as a process of its own so that it can be stopped: server.py NAME PORT [BEHAVIOUR].

/health is always fine, and /drop always closes the connection. BEHAVIOUR: `closes` its connections without saying so;
`fails` with 500 at once, where the others take 0.2 s; `single` serves one connection at a time."""
import asyncio, sys

NAME, PORT, BEHAVIOUR = sys.argv[1], int(sys.argv[2]), "".join(sys.argv[3:])
single = asyncio.Lock()


async def serve(reader, writer):
    try:
        if BEHAVIOUR == "single":
            async with single:
                await requests(reader, writer)
        else:
            await requests(reader, writer)
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def requests(reader, writer):
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        path = head.split(b" ")[1]
        if path == b"/drop":
            return
        status = 500 if BEHAVIOUR == "fails" and path != b"/health" else 200
        if path == b"/slow" and status == 200:
            await asyncio.sleep(0.2)
        close = b"connection: close" in head.lower()
        body = NAME.encode()
        writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n%s\r\n%s" % (status, len(body), b"Connection: close\r\n" * close, body))
        await writer.drain()
        if BEHAVIOUR == "closes":
            await asyncio.sleep(0.001)  # the next request may be on its way
        if close or BEHAVIOUR == "closes":
            return


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", PORT, backlog=512, reuse_address=True)
    await server.serve_forever()


try:
    asyncio.run(main())
except KeyboardInterrupt:
    pass
