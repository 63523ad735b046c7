"""The tests. Each gets a peer, the options and `rec(figure, value)`; those in ALONE start the peer themselves, those in SECURE need TLS."""
import json, os, resource, socket, subprocess, sys, time

from .load import BODY, ROUTES, UPLOAD, first_hit, get, oha_read, oha_start, paced, settle, wrk
from .peer import HERE, THREE
from .process import mem, tree
from .secure import t_h2, t_handshake, t_tls, tls_client

DESCRIPTORS = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))  # for this process and its children
SPARE = 300  # descriptors that a program needs in addition to its clients


def t_rps(peer, a, rec):
    r = wrk(peer, a.seconds)
    rec("rps_c64", r["rps"])
    rec("p99ms_c64", r["p99"])
    rec("err_c64", r["err"])
    rec("steal%", r["steal"])
    if peer.proc:
        rec("cpu_s/100k", r["cpu"] * 1e5 / r["n"])
        rec("peakRSS_MiB", mem(peer.proc.pid, "VmHWM"))


def t_rate(peer, a, rec):
    c0 = peer.cpu()
    r = oha_read(oha_start(peer.port, a.seconds), a.seconds)
    rec("5k_rps", r["rps"])
    for k in ("p50", "p99", "p999"):
        rec(f"5k_{k}ms", r[k])
    rec("5k_err", r["non2xx"] + sum(r["errs"].values()))
    if peer.proc:
        rec("5k_cpu_s/100k", (peer.cpu() - c0) * 1e5 / r["n"])


def t_big(peer, a, rec):
    bodies(peer, rec, "big", a.seconds, wrk(peer, a.seconds, "/big"))


def t_up(peer, a, rec):
    bodies(peer, rec, "up", a.seconds, wrk(peer, a.seconds, "/up", script=UPLOAD))


def bodies(peer, rec, name, secs, r):
    gib = r["n"] * BODY / 2**30
    rec(f"{name}_MiB/s", gib * 1024 / secs)
    rec(f"{name}_err", r["err"])
    if peer.proc:
        rec(f"{name}_cpu_s/GiB", r["cpu"] / gib)


def t_close(peer, a, rec):
    r = wrk(peer, a.seconds, extra=("-H", "Connection: close"))
    rec("close_rps", r["rps"])
    rec("close_err", r["err"])
    if peer.proc:
        rec("close_cpu_s/100k", r["cpu"] * 1e5 / r["n"])


def t_unix(peer, a, rec):
    """the servers listen on Unix sockets"""
    r = wrk(peer, a.seconds)
    rec("unix_rps", r["rps"])
    rec("unix_err", r["err"])
    rec("unix_cpu_us", r["cpu"] * 1e6 / r["n"])


def t_tlsbig(peer, a, rec):
    bodies(peer, rec, "tlsbig", a.seconds, wrk(peer, a.seconds, "/big", tls=True))


def t_idle(peer, a, rec):
    def client(peer, source):
        s = socket.create_connection(("127.0.0.1", peer.port), 5, source)
        if get(peer.port, s=s)[0] != 200:
            raise OSError("not 200")
        return s

    idle(peer, rec, "idle", a.idle, client)


def t_tlsidle(peer, a, rec):
    idle(peer, rec, "tlsidle", a.idle[:1], tls_client("http/1.1"))


def t_h2idle(peer, a, rec):
    idle(peer, rec, "h2idle", a.idle[:1], tls_client("h2"))


def idle(peer, rec, name, goals, client):
    """clients that wait after a request, from several addresses, because one has only 28,000 ports"""
    if not peer.proc:
        return
    base = mem(peer.proc.pid, "VmRSS")
    socks, full = [], None
    for goal in goals:
        # as many as this process may open, less SPARE, or as the peer accepts
        while not full and len(socks) < min(goal, DESCRIPTORS - SPARE):
            try:
                socks.append(client(peer, (f"127.0.0.{2 + len(socks) // 5000}", 0)))
            except OSError as e:
                full = e
                print(f"  {peer.name} accepts only {len(socks)} clients: {e}", file=sys.stderr)
        time.sleep(2)  # lb returns unused memory after 1.2 s
        rec(f"{name}{goal}_clients", len(socks))
        rec(f"{name}{goal}_RSS_MiB", mem(peer.proc.pid, "VmRSS"))
        rec(f"{name}{goal}_PSS_MiB", mem(peer.proc.pid, "Pss"))
        rec(f"{name}{goal}_KiB/conn", (mem(peer.proc.pid, "VmRSS") - base) * 1024 / max(1, len(socks)))
    for s in socks:
        s.close()
    settle(peer)


def t_reload(peer, a, rec):
    """200 reloads, 10 a second, each with other weights, under 5,000 rps (oha) and 16 classifying clients"""
    if not peer.reload_cmd:
        return
    secs = 24
    for i in range(1, 201):  # each differs from all earlier ones, so that a peer that compares contents applies it
        peer.config([(THREE[0][0], 1 + i % 20), (THREE[1][0], 1 + i // 20), THREE[2]], f"{peer.dir}/form{i}")
    c0, a0 = peer.cpu(), peer.applied()
    o = oha_start(peer.port, secs)
    chk = subprocess.Popen([sys.executable, HERE + "/check.py", str(peer.port), str(secs - 1)], stdout=subprocess.PIPE, text=True)
    time.sleep(1)
    t0, cmds, peak = time.time(), [], 0
    for i in range(1, 201):
        os.rename(f"{peer.dir}/form{i}", peer.dir + "/next")
        cmds.append(peer.reload(peer.dir + "/next"))
        if i % 20 == 0:
            peak = max(peak, mem(peer.proc.pid, "VmRSS"))
        if cmds[-1]:  # one reload command at a time, for at most 5 s
            try:
                cmds[-1].wait(5)
            except subprocess.TimeoutExpired:
                cmds[-1].kill()
        if time.time() > t0 + secs - 3:
            break
        time.sleep(max(0, t0 + i * 0.1 - time.time()))
    rec("rl_done", len(cmds))
    rec("rl_cmd_failed", sum(1 for c in cmds if c and c.returncode))
    rec("rl_seconds", time.time() - t0)
    r = oha_read(o, secs)
    k = json.loads(chk.communicate(timeout=30)[0])
    rec("rl_applied", None if a0 is None else peer.applied() - a0)
    rec("rl_oha_ok", r["n"] - r["non2xx"])
    rec("rl_oha_fail", r["non2xx"] + sum(r["errs"].values()))
    rec("rl_p50ms", r["p50"])
    rec("rl_p99ms", r["p99"])
    rec("rl_p999ms", r["p999"])
    for key in ("ok", "idle_close", "lost_reused", "lost_new", "refused", "cut", "non2xx", "timeout"):
        rec("rl_chk_" + key, k.get(key, 0))
    rec("rl_cpu_s", peer.cpu() - c0)
    rec("rl_peak_RSS_MiB", peak)
    rec("rl_procs_after", len(tree(peer.proc.pid)))
    for e, v in r["errs"].items():
        print(f"  {peer.name} reload: oha error x{v}: {e}", file=sys.stderr)




def t_routes(peer, a, rec):
    """requests for 1,000 hosts and paths, with one route and with a route for each"""
    if not peer.routes:
        return
    cost = {}
    for n in (1, 1000):
        peer.start(THREE, routes=n)
        try:
            wrk(peer, a.warm, script=ROUTES)
            r = wrk(peer, a.seconds, script=ROUTES)
            cost[n] = r["cpu"] * 1e5 / r["n"]
            rec(f"cpu_s/100k@{n}routes", cost[n])
            rec(f"err@{n}routes", r["err"])
        finally:
            peer.stop()
    rec("cpu 1000/1 routes", cost[1000] / cost[1])


WIDE = 10000  # the addresses of the wide backend; with more servers, several share one


def t_servers(peer, a, rec):
    """runs with the wide backend, which closes each connection, because so many idle ones would exceed the descriptors"""
    if not peer.has_start:
        return
    cost = {}
    for n in a.sizes:
        servers = [(f"127.0.{1 + i % WIDE // 250}.{1 + i % 250}:9101", 1) for i in range(n)]
        # the new server is first and has a weight that soon brings it a request (256 is HAProxy's maximum)
        more = [("127.0.0.1:9104", min(256, n))] + servers
        try:
            up = peer.start(servers)
        except RuntimeError as e:
            print(f"  {peer.name} at {n} servers: {e}", file=sys.stderr)
            continue
        try:
            rec(f"start_ms@{n}", up * 1e3)
            settle(peer)
            rec(f"RSS_MiB@{n}", mem(peer.proc.pid, "VmRSS"))
            wrk(peer, a.warm)
            r = wrk(peer, a.seconds)
            cost[n] = r["cpu"] * 1e5 / max(1, r["n"])
            rec(f"rps_noKA@{n}", r["rps"])
            rec(f"cpu_s/100k_noKA@{n}", cost[n])
            rec(f"err@{n}", r["err"])
            settle(peer)
            for _ in range(a.trials if peer.reload_cmd else 0):
                add(peer, rec, n, servers, more)
            if peer.reload_cmd == ":":  # an edit every 200 ms; other peers would close the client's connection
                edits = [f"{peer.dir}/form{i}" for i in range(25)]
                for i, form in enumerate(edits):
                    peer.config([(servers[0][0], 2 + i)] + servers[1:], form)
                rec(f"p99ms_quiet@{n}", paced(peer, 5))
                rec(f"p99ms_edits@{n}", paced(peer, 5, edits))
        finally:
            peer.stop()
    for n in a.sizes[1:]:
        if n in cost and a.sizes[0] in cost:
            rec(f"cpu {n}/{a.sizes[0]} servers", cost[n] / cost[a.sizes[0]])


def add(peer, rec, n, servers, more):
    """adds a server, and removes it again"""
    peer.config(more, peer.dir + "/next")
    c0 = peer.cpu()
    c = peer.reload(peer.dir + "/next")
    t = first_hit(peer.port, b"b9104", 1 if n <= 10 else 8 if n <= 10000 else 64)
    if c:
        c.wait(20)
    settle(peer)
    rec(f"add_ms@{n}", t * 1e3)
    rec(f"add_cpu_ms@{n}", (peer.cpu() - c0) * 1e3)
    peer.config(servers, peer.dir + "/next")
    c = peer.reload(peer.dir + "/next")
    if c:
        c.wait(20)
    time.sleep(0.3)
    settle(peer)


TESTS = dict(rps=t_rps, rate=t_rate, big=t_big, up=t_up, close=t_close, idle=t_idle, unix=t_unix, tls=t_tls, h2=t_h2, handshake=t_handshake,
             tlsbig=t_tlsbig, tlsidle=t_tlsidle, h2idle=t_h2idle, reload=t_reload)
ALONE = dict(routes=t_routes, servers=t_servers)
SECURE = ("tls", "h2", "handshake", "tlsbig", "tlsidle", "h2idle")
VARIANTS = ("rps",)  # the tests of variants: their cost for a request
SLOW = ("reload", "servers")  # tests that take long, so they are not in every round
