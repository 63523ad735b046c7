"""The faults during the load: valid and broken edits of the file, and a server that dies and comes back."""
import asyncio, collections, dataclasses, hashlib, json, os, random, subprocess, sys, time

from .clients import Connection, Failed

HERE = os.path.dirname(os.path.abspath(__file__))
STEADY = ["s1", "s2", "s3"]
MORTAL = "s4"
EXTRA = ["s5", "s6"]  # always running, and in the file from time to time
FLAKY = "flaky1"


@dataclasses.dataclass
class Kill:
    server: str
    at: float


def explained(event, kills):
    """Whether a kill explains that this request failed: one during the request or just before it.

    A GET is retried on another server, so only the death of the server that was sending its body explains a failure.
    An upload must not be repeated, so any death explains its failure.
    """
    near = [k for k in kills if event.began - 0.5 <= k.at <= event.ended]
    if event.kind == "upload":
        return bool(near) and event.outcome in ("status 502", "cut", "lost")
    return event.outcome == "cut" and any(k.server == event.server for k in near)


class Fleet:
    """the servers, one process each"""

    def __init__(self):
        self.processes, self.ports, self.kills = {}, {}, []
        for name in STEADY + [MORTAL] + EXTRA + [FLAKY]:
            self.start(name)

    def start(self, name):
        command = [sys.executable, f"{HERE}/server.py", name, str(self.ports.get(name, 0))]
        self.processes[name] = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.ports[name] = int(self.processes[name].stdout.readline())

    def kill(self, name):
        self.kills.append(Kill(name, time.time()))
        self.processes[name].kill()
        self.processes[name].wait()

    def stop(self):
        for process in self.processes.values():
            process.kill()
            process.wait()

    async def kill_and_restart(self, every):
        """kills one server and restarts it, again and again"""
        while True:
            await asyncio.sleep(random.uniform(0.5, 1.5) * every)
            self.kill(MORTAL)
            await asyncio.sleep(random.uniform(0.2, 0.5) * every)
            await asyncio.to_thread(self.start, MORTAL)


class Edits:
    """edits of the file, one after another; each must be on record with its outcome within LIMIT seconds"""
    LIMIT = 5

    def __init__(self, fleet, file, port, admin):
        self.fleet, self.file, self.port, self.admin = fleet, file, port, admin
        self.weights = dict.fromkeys(STEADY + [MORTAL], 1)
        self.disabled = False
        self.slowest = 0.0
        self.wanted = []  # for each text in turn: (its hash, its outcome)
        self.late = []
        self.put(self.text(), "applied", rename=True)

    def text(self):
        def server(table, name, weight, enabled=True):
            return (f'[[{table}]]\nname = "{name}"\naddress = "127.0.0.1:{self.fleet.ports[name]}"\n'
                    f"weight = {weight}\nenabled = {str(enabled).lower()}\n")

        return (f'[[listener]]\naddress = "127.0.0.1:{self.port}"\n[admin]\naddress = "127.0.0.1:{self.admin}"\n'
                '[reload]\nhistory = 100000\n[health]\ninterval = "1s"\nfall = 2\nrise = 1\n[log]\naccess = false\n'
                + "".join(server("server", n, w, n != "s2" or not self.disabled) for n, w in self.weights.items())
                + '[[route]]\npath = "/"\npool = "default"\n[[route]]\npath = "/flaky"\npool = "flaky"\n'
                + server("pool.flaky.server", "s1", 3) + server("pool.flaky.server", FLAKY, 1))

    def put(self, text, wanted, rename):
        """writes the file; returns its hash"""
        digest = hashlib.sha256(text.encode()).hexdigest()
        self.wanted.append((digest, wanted))
        path = self.file + ".new" if rename else self.file
        with open(path, "w") as f:
            f.write(text)
        if rename:
            os.rename(path, self.file)
        return digest

    def count(self, outcome):
        """the number of edits so far with this outcome"""
        return sum(wanted == outcome for _, wanted in self.wanted[1:])

    def valid(self):
        """changes something, and returns the text"""
        match random.randrange(4):
            case 0 | 1:  # the server that dies keeps its weight of 1, so its share is at most 1 in 4
                name = random.choice([n for n in self.weights if n != MORTAL])
                self.weights[name] = self.weights[name] % 5 + random.randint(1, 4) if self.weights[name] < 5 else 1
            case 2:
                name = random.choice(EXTRA)
                if self.weights.pop(name, None) is None:
                    self.weights[name] = 2
            case 3:
                self.disabled = not self.disabled
        return self.text()

    def broken(self):
        text = self.text()
        return random.choice([
            text.replace("weight =", f"wieght{random.getrandbits(32)} =", 1),
            text + f'[[server]]\nname = "s1"\naddress = "127.0.0.1:{random.randint(1, 65535)}"\n',
            text[:random.randrange(len(text) // 4, len(text) // 2)] + f"\n[{random.getrandbits(32)}",
        ])

    async def one(self):
        breaks, rename, began = random.random() < 0.25, random.random() < 0.5, time.time()
        digest = self.put(self.broken(), "rejected", rename) if breaks else self.put(self.valid(), "applied", rename)
        while time.time() < began + self.LIMIT:
            if (await self.records(1))[0][0] == digest:
                self.slowest = max(self.slowest, time.time() - began)
                return
            await asyncio.sleep(0.02)
        self.late.append(f"{time.strftime('%H:%M:%S')} {digest[:8]}")

    async def records(self, newest):
        """(hash, outcome) of the newest reloads, newest first"""
        reloads = (await self.ask(f"/api/reloads?limit={newest}"))["reloads"]
        return [(r["hash"], r["outcome"]) for r in reloads]

    async def surplus(self):
        """(records that are missing, records that are unexpected, rejections of an empty file)

        A file that is written in place is empty at first. If the writer is delayed for longer than `reload.quiet`, the
        empty file is rejected, which is correct.
        """
        have = collections.Counter(await self.records(100_000))
        want = collections.Counter(self.wanted)
        more = have - want
        empty = more.pop((hashlib.sha256(b"").hexdigest(), "rejected"), 0)
        return want - have, more, empty

    async def run(self, every):
        while True:
            await asyncio.sleep(random.uniform(0.5, 1.5) * every)
            await self.one()

    async def ask(self, path):
        connection = await Connection.open(self.admin)
        try:
            await connection.send(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
            _, body = await connection.response()
            return json.loads(body) if path.startswith("/api/") else body.decode()
        except Failed as e:
            raise RuntimeError(f"{path}: {e.outcome}") from None
        finally:
            connection.close()
