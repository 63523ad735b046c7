"""Load: `wrk` at full speed, `oha` at a fixed rate, and single requests by hand."""
import json, re, socket, subprocess, time

from .process import steal

US = {"us": 1e-3, "ms": 1, "s": 1e3, "m": 6e4}
BODY = 102400  # the length of /big and of an upload

UPLOAD = f'wrk.method = "POST"; wrk.body = string.rep("x", {BODY})'
# 1,000 hosts and paths in turn, one for each of 1,000 routes; built before the run
ROUTES = """
local all, i = {}, 0
function init()
  for n = 0, 999 do
    all[n] = string.format("GET /r%d/x HTTP/1.1\\r\\nHost: h%d.example\\r\\n\\r\\n", n % 10, math.floor(n / 10))
  end
end
function request() i = (i + 1) % 1000; return all[i] end
"""


def get(port, path="/", s=None, host="127.0.0.1"):
    """Sends a GET; returns (status, first bytes of the body). Closes the connection unless it is given."""
    c = s or socket.create_connection((host, port), 10)
    try:
        c.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        b = b""
        while b"\r\n\r\n" not in b:
            d = c.recv(65536)
            if not d:
                raise OSError("closed")
            b += d
        head, body = b.split(b"\r\n\r\n", 1)
        m = re.search(rb"(?i)content-length: *(\d+)", head)
        while len(body) < int(m[1] if m else 0):
            d = c.recv(65536)
            if not d:
                raise OSError("closed")
            body += d
        return int(head.split()[1]), body[:8]
    finally:
        if not s:
            c.close()


def wait_up(port, proc=None, limit=20, path="/"):
    end = time.time() + limit
    while time.time() < end:
        if proc and proc.poll() is not None:
            raise RuntimeError(f"exited with {proc.returncode}")
        try:
            if get(port, path)[0] == 200:
                return
        except OSError:
            pass
        time.sleep(0.002)
    raise RuntimeError("did not come up")


def wrk(peer, secs, path="/", conns=64, extra=(), script=None, tls=False):
    """64 clients at full speed; `cpu` is the peer's CPU time, `script` is Lua"""
    origin = f"https://127.0.0.1:{peer.tls_port}" if tls else f"http://127.0.0.1:{peer.port}"
    if script:
        with open(peer.dir + "/load.lua", "w") as f:
            f.write(script)
        extra = (*extra, "-s", peer.dir + "/load.lua")
    c0, s0 = peer.cpu(), steal()
    out = subprocess.run(["wrk", "-t1", f"-c{conns}", f"-d{secs}s", "--latency", *extra, origin + path],
                         capture_output=True, text=True, timeout=secs + 30).stdout
    c1, s1 = peer.cpu(), steal()
    n = int(re.search(r"(\d+) requests in", out)[1])
    lat = {k: float(v) * US[u] for k, v, u in re.findall(r"^\s+(\d+)%\s+([\d.]+)(us|ms|s|m)$", out, re.M)}
    err = re.search(r"Socket errors: (.*)", out)
    non = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
    return dict(n=n, rps=float(re.search(r"Requests/sec:\s+([\d.]+)", out)[1]), cpu=c1 - c0, p50=lat.get("50"), p99=lat.get("99"),
                err=(sum(map(int, re.findall(r"\d+", err[1]))) if err else 0) + (int(non[1]) if non else 0),
                steal=100 * (s1[0] - s0[0]) / max(1, s1[1] - s0[1]))


def oha_start(port, secs, rate=5000):
    return subprocess.Popen(["oha", "--no-tui", "--output-format", "json", "--latency-correction", "-q", str(rate), "-c", "64", "-z", f"{secs}s",
                             f"http://127.0.0.1:{port}/"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def oha_read(p, secs):
    d = json.loads(p.communicate(timeout=secs + 40)[0])
    lp, codes = d["latencyPercentiles"], d.get("statusCodeDistribution", {})
    # requests in flight at the deadline are not failures
    errs = {k: v for k, v in d.get("errorDistribution", {}).items() if "deadline" not in k}
    return dict(n=sum(codes.values()), rps=d["summary"]["requestsPerSec"], p50=lp["p50"] * 1e3, p99=lp["p99"] * 1e3, p999=lp["p99.9"] * 1e3,
                non2xx=sum(v for k, v in codes.items() if k[0] != "2"), errs=errs)


def first_hit(port, body, batch, limit=15):
    """seconds until a response that starts with `body`; a new connection each millisecond, with `batch` requests"""
    t0 = time.time()
    while time.time() < t0 + limit:
        t = time.time()
        try:
            with socket.create_connection(("127.0.0.1", port), 5) as s:
                for _ in range(batch):
                    if get(port, s=s)[1].startswith(body):
                        return time.time() - t0
        except OSError:
            pass
        time.sleep(max(0, t + 0.001 - time.time()))
    return float("nan")


def paced(peer, secs, edits=()):
    """99th percentile in ms of a request every 2 ms on one connection, while these files are applied one by one"""
    took, edits = [], list(edits)
    with socket.create_connection(("127.0.0.1", peer.port), 10) as s:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        start = time.time()
        for i in range(secs * 500):
            due = start + i / 500
            if edits and i % 100 == 50:
                peer.reload(edits.pop())
            time.sleep(max(0, due - time.time()))
            get(peer.port, s=s)
            took.append(time.time() - due)  # since it was due, because a stall delays later requests too
    return sorted(took)[len(took) * 99 // 100] * 1e3


def settle(peer, limit=10):
    """waits until the peer has used no CPU for 0.3 s"""
    end, last = time.time() + limit, peer.cpu()
    while time.time() < end:
        time.sleep(0.3)
        now = peer.cpu()
        if now - last <= 0.01:
            return
        last = now
