"""The program under test, one at a time, the servers behind it, and a sink for spans."""
import http.server, os, shutil, socket, subprocess, sys, tempfile, threading, time

from .load import wait_up
from .process import cpu, stop

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
THREE = [(f"127.0.0.1:{port}", 1) for port in (9101, 9102, 9103)]
SPANS = 9109  # where the sink listens
SECURE = 200  # what a peer adds to its port for clients with TLS


def must_be_free(*ports):
    """exits if a port is taken: another program would be measured"""
    for port in ports:
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)) == 0:
                sys.exit(f"127.0.0.1:{port} is taken; is another benchmark running?")


def certificate(tmp):
    """the files of a new certificate and its key: ECDSA on P-256"""
    os.mkdir(tmp + "/tls")
    files = tmp + "/tls/pair.crt", tmp + "/tls/pair.key"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=bench",
                    "-addext", "subjectAltName=DNS:bench.example", "-out", files[0], "-keyout", files[1]], check=True, capture_output=True)
    with open(tmp + "/tls/pair.pem", "w") as both:
        both.writelines(open(f).read() for f in files)
    return files


class Backend:
    def __init__(self, tmp, wide=0):
        must_be_free(9101, 9102, 9103, 9104)
        folder = tempfile.mkdtemp(dir=tmp)
        self.sockets = [(f"unix:{folder}/{port}", 1) for port in (9101, 9102, 9103)]
        self.p = subprocess.Popen([HERE + "/backend", folder] + ([str(wide)] if wide else []))
        for port in (9101, 9102, 9103, 9104):
            wait_up(port, self.p)

    def stop(self):
        stop(self.p)


class Sink:
    """accepts spans and counts their bytes, because a run with tracing that exports nothing measures nothing"""

    def __init__(self):
        must_be_free(SPANS)
        sink = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                sink.bytes += len(self.rfile.read(int(self.headers["content-length"])))
                self.send_response(202)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.bytes = 0  # since the last call of `taken`
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", SPANS), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def taken(self):
        n, self.bytes = self.bytes, 0
        return n


class Peer:
    """NAME or NAME+VARIANT, where NAME is a file in peers/ or a path"""

    def __init__(self, name, tmp, checks=False):
        self.name, self.tmp = name, tmp
        self.base, _, self.variant = name.partition("+")
        self.file = self.base if "/" in self.base else f"{HERE}/peers/{self.base}"
        on = {k: str(int(self.variant in v)) for k, v in dict(OBS=["obs"], LOG=["obs", "log"], TRACE=["trace"]).items()}
        self.env = dict(os.environ, ROUTES="1", SPANS=str(SPANS), CHECKS=str(int(checks)), **on)
        if self.variant and self.variant not in self.sh("echo $VARIANTS").split():
            sys.exit(f"{self.file} has no variant {self.variant}")
        self.port = int(self.sh("echo $PORT"))
        self.env["PORT"] = str(self.port)
        self.tls_port = self.port + SECURE
        self.speaks_tls = self.sh("echo $SPEAKS_TLS") != ""
        self.has_start = self.sh("echo $START") != ""
        self.routes = self.sh("echo $MANY_ROUTES") != ""
        self.reload_cmd = self.sh("echo \"$RELOAD\"")

    def sh(self, cmd):
        return subprocess.run(["bash", "-c", f'. "{self.file}"; {cmd}'], env=self.env, check=True, capture_output=True, text=True).stdout.strip()

    def config(self, servers, to):
        """render the config for [(addr, weight)] to a file, not in place yet"""
        with open(self.dir + "/servers", "w") as f:
            f.writelines(f"{a} {w}\n" for a, w in servers)
        self.ver = getattr(self, "ver", 0) + 1
        subprocess.run(["bash", "-c", f'. "{self.file}"; conf >"{to}"'], env=dict(self.env, VER=str(self.ver)), check=True)

    def start(self, servers, routes=1, secure=False):
        """with `secure`, it also has a listener with TLS"""
        self.dir = tempfile.mkdtemp(dir=self.tmp)
        self.cfg = self.dir + "/cfg/config"  # a folder of its own, so that watching it sees nothing else
        os.mkdir(self.dir + "/cfg")
        self.env.update(DIR=self.dir, CFG=self.cfg, SERVERS=self.dir + "/servers", ROUTES=str(routes),
                        TLS=str(self.tls_port) if secure else "", PAIR=self.tmp + "/tls/pair")
        self.proc = None
        if not self.has_start:
            return 0.0
        must_be_free(self.port, *[self.tls_port] * secure)
        self.config(servers, self.cfg)
        self.sh("if declare -F setup >/dev/null; then setup; fi")
        log = open(self.dir + "/log", "w")
        t = time.time()
        self.proc = subprocess.Popen(["bash", "-c", f'. "{self.file}"; eval "$START"'], env=self.env, stdout=log, stderr=log)
        self.env["PID"] = str(self.proc.pid)
        try:
            wait_up(self.port, self.proc)
        except RuntimeError:
            print(open(self.dir + "/log").read()[-800:], file=sys.stderr)
            stop(self.proc)
            raise
        return time.time() - t

    def reload(self, new):
        """renames the new file into place and runs the reload command, which it returns"""
        os.rename(new, self.cfg)
        if self.reload_cmd == ":":
            return None
        return subprocess.Popen(["bash", "-c", f'. "{self.file}"; {self.reload_cmd}'], env=self.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def applied(self):
        """the number of configurations that the peer has applied (its APPLIED command), or None if it does not report it"""
        n = self.sh('eval "${APPLIED:-}"')
        return float(n) if n else None

    def version(self):
        return self.sh('eval "${VERSION:-}"')

    def stop(self):
        if self.proc:
            stop(self.proc)
        shutil.rmtree(self.dir, ignore_errors=True)

    def cpu(self):
        return cpu(self.proc.pid) if self.proc else 0.0
