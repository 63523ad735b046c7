"""What is seen of the balancer's process, and what of it is flat. Pure, but for reading /proc."""
import dataclasses, os, re, statistics, time


@dataclasses.dataclass
class Sample:
    at: float
    load: float  # processes that wanted a processor of the whole machine, over the last minute
    rss: float  # MiB
    descriptors: int
    others: int  # descriptors that are no connection of a client or to a server
    threads: int


def look(pid, page):
    """`page`: its metrics"""
    with open(f"/proc/{pid}/status") as f:
        status = f.read()

    def field(name):
        return int(re.search(rf"^{name}:\s+(\d+)", status, re.M)[1])

    descriptors = len(os.listdir(f"/proc/{pid}/fd"))
    connections = metric(page, "lb_client_connections") + metric(page, "lb_server_connections")
    return Sample(time.time(), os.getloadavg()[0], field("VmRSS") / 1024, descriptors, descriptors - int(connections), field("Threads"))


def flat(samples, key, share, least):
    """Whether the last quarter's median is above the second quarter's by at most `share` of it, or `least`.

    The first quarter is left out: pools and buffers reach the size that the load needs. Returns (flat, words).
    """
    values = [getattr(s, key) for s in samples]
    n = len(values)
    before, after = statistics.median(values[n // 4:n // 2]), statistics.median(values[3 * n // 4:])
    allowed = max(share * before, least)
    return after - before <= allowed, f"{before:.1f} to {after:.1f}, allowed +{allowed:.1f}"


def metric(page, name):
    """the sum of a metric's series on a Prometheus page"""
    return sum(float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if re.match(rf"{name}[{{ ]", line))


def lay(rows):
    """rows of words as a table, its first column to the left"""
    width = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(w.ljust(n) if i == 0 else w.rjust(n) for i, (w, n) in enumerate(zip(row, width))) for row in rows)
