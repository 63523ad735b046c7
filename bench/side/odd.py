"""Servers that behave as some real ones do, each on 127.0.0.1:9105, in threads of this process."""
import socket, threading, time

ADDRESS = ("127.0.0.1", 9105)
SERVER = [("127.0.0.1:9105", 1)]
THREE = [(f"127.0.0.1:{port}", 1) for port in (9105, 9106, 9107)]
MIB = 1 << 20
LARGE = 16 * MIB  # more than the kernel buffers


class Odd:
    """accepts connections and hands each to `serve(connection, first)`, where `first` reads the head of a request"""

    def __init__(self, serve, address=ADDRESS):
        self.serve, self.open = serve, set()
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(address)
        self.socket.listen(1024)
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                c = self.socket.accept()[0]
            except OSError:
                return
            threading.Thread(target=self.one, args=(c,), daemon=True).start()

    def one(self, c):
        self.open.add(c)
        try:
            c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.serve(c)
        except OSError:
            pass
        finally:
            self.open.discard(c)
            c.close()

    def stop(self):
        """ends all connections too, so that a proxy keeps none to a server that is gone"""
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        for c in list(self.open):
            try:
                c.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


def head(c):
    """the head of the next request, or nothing if the connection ends; requests here have no body that matters"""
    b = b""
    while b"\r\n\r\n" not in b:
        d = c.recv(65536)
        if not d:
            return b""
        b += d
    return b


def plain(c):
    while head(c):
        c.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


def closes(c):
    """keeps no connection, and does not say so"""
    if head(c):
        c.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        time.sleep(0.001)  # the next request may be on its way


def rejects(c):
    """rejects an upload at once, and reads it to its end"""
    head(c)
    c.sendall(b"HTTP/1.1 413 Payload Too Large\r\nContent-Length: 8\r\nConnection: close\r\n\r\ntoo big\n")
    while c.recv(MIB):
        pass


def large(c):
    while head(c):
        c.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LARGE + bytes(LARGE))


def of_mib(c):
    while head(c):
        c.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % MIB + bytes(MIB))


def in_chunks(c):
    while head(c):
        c.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + (b"8000\r\n" + bytes(0x8000) + b"\r\n") * (LARGE // 0x8000))
        c.sendall(b"0\r\n\r\n")


def reads_no_body(c):
    head(c)
    time.sleep(120)


def long_poll(c):
    while head(c):
        time.sleep(50)
        c.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")


def reads_all(c):
    """responds after the last chunk"""
    b = head(c)
    while not b.endswith(b"0\r\n\r\n"):
        d = c.recv(65536)
        if not d:
            return
        b += d
    c.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


def tunnel(c):
    head(c)
    c.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
    while d := c.recv(65536):
        c.sendall(d)


def compresses(c):
    """responds as nginx and IIS do by default: compressed, unless the request went through a proxy that says so"""
    while b := head(c):
        packed = b"via:" not in b.lower()
        size, coding = (305, b"Content-Encoding: gzip\r\n") if packed else (38000, b"")
        c.sendall(b"HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n" % (coding, size) + bytes(size))
