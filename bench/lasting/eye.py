"""Measurements of the balancer's process, and whether they are flat. Pure, except for reading /proc."""
import dataclasses, os, re, statistics, time


@dataclasses.dataclass
class Sample:
    at: float
    load: float  # the load average of the machine over the last minute
    rss: float  # MiB
    descriptors: int
    others: int  # descriptors that are not connections
    threads: int


def look(pid, page):
    """`page` has the metrics of the process"""
    with open(f"/proc/{pid}/status") as f:
        status = f.read()

    def field(name):
        return int(re.search(rf"^{name}:\s+(\d+)", status, re.M)[1])

    descriptors = len(os.listdir(f"/proc/{pid}/fd"))
    connections = metric(page, "lb_client_connections") + metric(page, "lb_server_connections")
    return Sample(time.time(), os.getloadavg()[0], field("VmRSS") / 1024, descriptors, descriptors - int(connections), field("Threads"))


def flat(samples, key, share, least):
    """Whether the median of the last quarter exceeds that of the second by at most `share` of it, or `least`.

    In the first quarter, pools and buffers grow to the size that the load needs. Returns (flat, text).
    """
    values = [getattr(s, key) for s in samples]
    n = len(values)
    before, after = statistics.median(values[n // 4:n // 2]), statistics.median(values[3 * n // 4:])
    allowed = max(share * before, least)
    return after - before <= allowed, f"{before:.1f} to {after:.1f}, allowed +{allowed:.1f}"


def metric(page, name):
    """the sum of the series of a metric on a Prometheus page"""
    return sum(float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if re.match(rf"{name}[{{ ]", line))


def lay(rows):
    """rows of texts as a table, with the first column aligned to the left"""
    width = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(w.ljust(n) if i == 0 else w.rjust(n) for i, (w, n) in enumerate(zip(row, width))) for row in rows)
