"""The table: a row for each figure, with the median, the spread and the paired ratio of each peer. Pure."""
import os, statistics


class Results:
    """samples by peer, figure and round"""

    def __init__(self, names):
        self.by = {name: {} for name in names}

    def add(self, name, figure, rnd, value):
        if value is not None:
            self.by[name].setdefault(figure, {}).setdefault(rnd, []).append(value)

    def base_of(self, name, base):
        """the peer to compare with: for a variant the peer without it, if that takes part, otherwise the base"""
        plain = name.partition("+")[0]
        return plain if plain != name and plain in self.by else base

    def ratios(self, name, base, figure):
        """a ratio for each round in which both have a value, so that effects of the machine cancel"""
        a, b = (self.by[n].get(figure, {}) for n in (name, base))
        pairs = [(statistics.median(a[r]), statistics.median(b[r])) for r in sorted(a.keys() & b.keys())]
        return [x / y for x, y in pairs if y]

    def table(self, base):
        rows = [["figure"]]
        for name in self.by:
            short = os.path.basename(name)
            rows[0].append(short)
            if self.compared(name, base):
                rows[0].append(f"{short} / {os.path.basename(self.base_of(name, base))}")
        for figure in dict.fromkeys(f for figures in self.by.values() for f in figures):
            row = [figure]
            for name, figures in self.by.items():
                row.append(spread([v for values in figures.get(figure, {}).values() for v in values], fmt))
                if self.compared(name, base):
                    row.append(spread(self.ratios(name, self.base_of(name, base), figure), "{:.2f}".format))
            rows.append(row)
        return lay(rows)

    def compared(self, name, base):
        return self.base_of(name, base) in self.by and self.base_of(name, base) != name


def spread(values, show):
    """the median, and the minimum and maximum if they differ"""
    if not values:
        return ""
    low, high = show(min(values)), show(max(values))
    return show(statistics.median(values)) + (f" ({low} to {high})" if low != high else "")


def fmt(v):
    if v != v:  # NaN: it did not happen in time
        return "-"
    return f"{v:.0f}" if abs(v) >= 1000 or v == int(v) else f"{v:.1f}" if abs(v) >= 100 else f"{v:.2f}"


def lay(rows):
    """a Markdown table that is readable as text"""
    w = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join(c.ljust(n) for c, n in zip(r, w)) + " |" for r in rows]
    return "\n".join([lines[0], "| " + " | ".join("-" * n for n in w) + " |", *lines[1:]])
