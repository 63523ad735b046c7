"""The tests of clients with TLS, over HTTP/1.1 and HTTP/2. All programs use the same certificate and agree on the same cryptography."""
import re, socket, ssl, subprocess

from .load import get, wrk

AGREED = ("TLSv1.3", "TLS_AES_256_GCM_SHA384", "X25519")
HANDSHAKERS = 4  # processes that make one handshake after the other
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\4\0" + bytes(4)  # and empty SETTINGS
SETTINGS_ACK = bytes(3) + b"\4\1" + bytes(4)
# GET https://bench.example/ as stream 1: three headers of the static table (RFC 7541, appendix A) and a Huffman code
FIELDS = b"\x82\x87\x84\x41\x8a\x8c\xb5\x12\x75\xcb\xe4\x74\xd7\x41\x7f"
REQUEST = len(FIELDS).to_bytes(3, "big") + b"\1\5" + (1).to_bytes(4, "big") + FIELDS


def must_agree(peer):
    """raises unless a client that leaves the choice to the peer gets what all peers must choose"""
    out = subprocess.run(["openssl", "s_client", "-brief", "-connect", f"127.0.0.1:{peer.tls_port}"], input="", capture_output=True, text=True, timeout=10)
    said = out.stdout + out.stderr
    missing = [part for part in AGREED if part not in said]
    if missing:
        raise RuntimeError(f"no {', '.join(missing)} in: {said}")


def h2load(peer, secs, conns=16, streams=8):
    """HTTP/2 at full speed; `cpu` is the peer's CPU time"""
    c0 = peer.cpu()
    out = subprocess.run(["h2load", "-t1", f"-c{conns}", f"-m{streams}", f"-D{secs}", f"https://127.0.0.1:{peer.tls_port}/"],
                         capture_output=True, text=True, timeout=secs + 30).stdout
    c1 = peer.cpu()
    if "Application protocol: h2" not in out:
        raise RuntimeError("no HTTP/2: " + out[:400])
    done, failed, errored, timeout = (int(re.search(rf"(\d+) {word}", out)[1]) for word in ("succeeded", "failed", "errored", "timeout"))
    return dict(n=done, rps=float(re.search(r"([\d.]+) req/s", out)[1]), cpu=c1 - c0, err=failed + errored + timeout)


def handshakes(peer, secs):
    """a new session with a request for each connection; none is resumed, because the clients offer nothing to resume"""
    c0 = peer.cpu()
    command = ["openssl", "s_time", "-new", "-connect", f"127.0.0.1:{peer.tls_port}", "-www", "/", "-time", str(secs), "-tls1_3", "-no-CAfile", "-no-CApath"]
    clients = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(HANDSHAKERS)]
    said = [c.communicate(timeout=secs + 30)[0] for c in clients]
    cpu = peer.cpu() - c0
    ended = [re.search(r"(\d+) connections in \d+ real seconds, (\d+) bytes read per", s) for s in said]
    if not all(m and int(m[2]) > 128 for m in ended):
        raise RuntimeError("a client failed: " + said[0][-400:])
    return dict(n=sum(int(m[1]) for m in ended), cpu=cpu)


def context(protocol):
    c = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    c.check_hostname, c.verify_mode = False, ssl.CERT_NONE
    c.set_alpn_protocols([protocol])
    return c


def tls_client(protocol):
    """returns what opens a client with TLS that has been served once"""
    ctx = context(protocol)

    def client(peer, source):
        s = ctx.wrap_socket(socket.create_connection(("127.0.0.1", peer.tls_port), 5, source), server_hostname="bench.example")
        if s.selected_alpn_protocol() != protocol:
            raise OSError(f"no {protocol}")
        (h2_get if protocol == "h2" else h1_get)(s)
        return s

    return client


def h1_get(s):
    if get(0, s=s)[0] != 200:
        raise OSError("not 200")


def h2_get(s):
    """sends the only request of a connection, and reads its response and everything before"""
    s.sendall(PREFACE + REQUEST)
    b = b""
    while True:
        while len(b) < 9 or len(b) < 9 + int.from_bytes(b[:3], "big"):
            d = s.recv(65536)
            if not d:
                raise OSError("closed")
            b += d
        kind, flags, stream = b[3], b[4], int.from_bytes(b[5:9], "big")
        b = b[9 + int.from_bytes(b[:3], "big"):]
        if kind in (3, 7):
            raise OSError("reset")
        if kind == 4 and not flags & 1:
            s.sendall(SETTINGS_ACK)
        if kind in (0, 1) and stream == 1 and flags & 1:
            return


def t_tls(peer, a, rec):
    must_agree(peer)
    r = wrk(peer, a.seconds, tls=True)
    rec("tls_rps", r["rps"])
    rec("tls_p99ms", r["p99"])
    rec("tls_err", r["err"])
    rec("tls_cpu_us", r["cpu"] * 1e6 / r["n"])


def t_h2(peer, a, rec):
    must_agree(peer)
    r = h2load(peer, a.seconds)
    rec("h2_rps", r["rps"])
    rec("h2_err", r["err"])
    rec("h2_cpu_us", r["cpu"] * 1e6 / r["n"])


def t_handshake(peer, a, rec):
    must_agree(peer)
    r = handshakes(peer, a.seconds)
    rec("handshake_per_s", r["n"] / a.seconds)
    rec("handshake_cpu_us", r["cpu"] * 1e6 / r["n"])
