"""The resources and the end of processes. A program under test may have several, so figures are those of the whole tree."""
import collections, os, re, signal, time

TICK = os.sysconf("SC_CLK_TCK")


def stat(pid):
    with open(f"/proc/{pid}/stat") as f:
        return f.read().rsplit(")", 1)[1].split()  # [0]=state [1]=ppid [11]=utime [12]=stime [13]=cutime [14]=cstime


def tree(root):
    """root and its live descendants"""
    kids = collections.defaultdict(list)
    for p in filter(str.isdigit, os.listdir("/proc")):
        try:
            kids[int(stat(p)[1])].append(int(p))
        except (OSError, IndexError):
            pass
    out = [root]
    for p in out:
        out += kids[p]
    return out


def cpu(root):
    """CPU seconds of the whole tree, dead (reaped) children included"""
    t = 0
    for p in tree(root):
        try:
            t += sum(map(int, stat(p)[11:15]))
        except OSError:
            pass
    return t / TICK


def mem(root, key):
    """MiB: VmHWM (peak RSS) or VmRSS summed over the tree; Pss divides shared pages among the processes"""
    kb = 0
    for p in tree(root):
        try:
            with open(f"/proc/{p}/" + ("smaps_rollup" if key == "Pss" else "status")) as f:
                kb += int(re.search(rf"^{key}:\s+(\d+)", f.read(), re.M)[1])
        except (OSError, TypeError):
            pass
    return kb / 1024


def waits(root):
    """how often the threads of the tree have begun to wait: each wakeup ends with that"""
    n = 0
    for p in tree(root):
        for t in os.listdir(f"/proc/{p}/task"):
            with open(f"/proc/{p}/task/{t}/status") as f:
                n += int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", f.read(), re.M)[1])
    return n


def steal():
    """(CPU time stolen by the host, total CPU time), in ticks"""
    f = [int(x) for x in open("/proc/stat").readline().split()[1:]]
    return f[7], sum(f[:8])


def stop(proc):
    pids = tree(proc.pid)
    proc.send_signal(signal.SIGTERM)
    for _ in range(60):
        if proc.poll() is not None:
            break
        time.sleep(0.05)
    for p in set(pids + tree(proc.pid)):  # whatever is left of the tree
        try:
            os.kill(p, signal.SIGKILL)
        except OSError:
            pass
    proc.wait()
    for _ in range(100):
        if not any(os.path.exists(f"/proc/{p}") for p in pids):
            break
        time.sleep(0.02)
