// The table of servers. Searching, filtering and sorting happen here; with many servers, only the first are shown at first.

import { Rows, byId, cell, el, icon, mark, set } from "./dom.js";
import { NONE, ago, bytes, count, duration, plural, rate, share, span } from "./format.js";

/** The number of servers shown at first. */
const FIRST = 50;

const number = (name, key, of, title) => ({ name, key, of, title, descends: true });

/** The columns, which are also the sort orders. The first one sorts by the order of the file. */
const COLUMNS = [
  { name: "Server", key: "file" },
  { name: "Status", key: "status", of: (server) => ["down", "checking", "draining", "disabled", "up"].indexOf(server.status) },
  number("Weight", "weight", (server) => server.weight),
  number("Share", "share", (server) => server.share, "Expected share of its pool's new requests"),
  number("Served", "served", (server) => server.served_share ?? -1, "Actual share of its pool's responses in the last minute"),
  number("Req/s", "rate", (server) => server.recent.requests_per_second, "Requests per second over the last 5 to 10 seconds"),
  number("Errors", "errors", (server) => server.recent.errors, "5xx responses and failed attempts in the last minute"),
  number("p50", "p50", (server) => server.recent.p50_seconds ?? -1, "Median latency in the last minute"),
  number("p99", "p99", (server) => server.recent.p99_seconds ?? -1, "99th percentile of latency in the last minute"),
  number("Open", "open", (server) => server.active_requests, "Open requests"),
  number("Memory", "memory", (server) => server.memory_bytes ?? -1, "Resident memory, as the server reports it"),
  { name: "Last check", key: "check", of: (server) => (server.last_check?.ok === false ? 0 : 1) },
];

export class Servers {
  constructor() {
    this.sort = { column: COLUMNS[0], down: false };
    this.all = false;
    this.figures = undefined;
    this.head();
    this.rows = new Rows(byId("server-table").tBodies[0], (item) => (item.server ? serverRow() : poolRow()));
    for (const id of ["search", "status"]) byId(id).addEventListener("input", () => this.draw());
    document.addEventListener("keydown", (event) => {
      const isTyping = event.target.matches?.("input, select, textarea");
      if (event.key !== "/" || isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      byId("search").focus();
    });
    byId("filters").addEventListener("submit", (event) => event.preventDefault());
    byId("servers-all").addEventListener("click", () => {
      this.all = !this.all;
      this.draw();
    });
  }

  show(figures) {
    this.figures = figures;
    this.draw();
  }

  head() {
    const row = byId("server-table").tHead.rows[0];
    const choice = byId("sort");
    for (const column of COLUMNS) {
      const button = el("button", { type: "button", title: column.title }, column.name);
      const kind = column.descends ? "number" : column.key;
      column.head = el("th", { role: "columnheader", scope: "col", class: kind }, button);
      button.addEventListener("click", () => this.by(column, this.sort.column === column ? !this.sort.down : !!column.descends));
      row.append(column.head);
      choice.append(el("option", { value: column.key }, column.key === "file" ? "File order" : `By ${column.name.toLowerCase()}`));
    }
    choice.addEventListener("input", () => {
      const column = COLUMNS.find((other) => other.key === choice.value);
      this.by(column, !!column.descends);
    });
  }

  by(column, down) {
    this.sort = { column, down };
    byId("sort").value = column.key;
    this.draw();
  }

  draw() {
    if (!this.figures) return;
    const { column, down } = this.sort;
    for (const other of COLUMNS) {
      const sorted = other === column && (other.key !== "file" || down);
      mark(other.head, "aria-sort", sorted ? (down ? "descending" : "ascending") : undefined);
    }
    const matches = this.matches();
    let room = this.all ? Infinity : FIRST;
    const items = [];
    for (const [pool, servers] of matches) {
      if (room <= 0) break;
      items.push({ pool, servers: this.figures.servers.filter((server) => server.pool === pool.name) });
      items.push(...servers.slice(0, room).map((server) => ({ server, now: this.figures.now })));
      room -= servers.length;
    }
    this.rows.show(items, (item) => (item.server ? key(item.server) : `pool ${item.pool.name}`));
    this.showCount(matches.reduce((sum, [, servers]) => sum + servers.length, 0));
  }

  /** Each pool with those of its servers that match the filters, sorted. */
  matches() {
    const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const status = byId("status").value;
    const pools = new Map(this.figures.pools.map((pool) => [pool.name, [pool, []]]));
    for (const server of this.figures.servers) {
      const text = `${server.pool}/${server.name} ${server.address}`.toLowerCase();
      if ((status && server.status !== status) || !words.every((word) => text.includes(word))) continue;
      // A removed pool is not among `figures.pools`, but its servers are listed while they drain.
      if (!pools.has(server.pool)) pools.set(server.pool, [{ name: server.pool }, []]);
      pools.get(server.pool)[1].push(server);
    }
    const { column, down } = this.sort;
    const matches = [...pools.values()].filter(([, servers]) => servers.length > 0);
    for (const [, servers] of matches) {
      if (column.of) servers.sort((one, other) => (column.of(one) - column.of(other)) * (down ? -1 : 1));
      else if (down) servers.reverse();
    }
    return matches;
  }

  showCount(matching) {
    const total = this.figures.servers.length;
    const shown = this.all ? matching : Math.min(matching, FIRST);
    let text = matching === total ? "" : `${count(matching)} of ${plural(total, "server")} match`;
    if (matching === 0) text = total === 0 ? "No servers" : "No matching servers";
    else if (shown < matching) text = `${count(shown)} of ${plural(matching, "server")} shown`;
    set(byId("servers-shown"), text);
    const button = byId("servers-all");
    button.hidden = matching <= FIRST;
    set(button, this.all ? `Show only the first ${FIRST}` : `Show all ${count(matching)}`);
  }
}

const key = (server) => `${server.pool}/${server.name}/${server.address}`;

function poolRow() {
  const [name, rule, up] = [el("b"), el("span"), el("span")];
  const head = el("th", { role: "rowheader", scope: "rowgroup", colspan: COLUMNS.length }, name, rule, up);
  return {
    node: el("tr", { role: "row", class: "pool" }, head),
    update({ pool, servers }) {
      set(name, pool.name);
      set(rule, pool.algorithm ? pool.algorithm.replaceAll("-", " ") : "removed from the file");
      const ups = servers.filter((server) => server.status === "up").length;
      const holding = pool.holding ? ", holding: old servers serve until a new one is up" : "";
      const unrouted = pool.routed === false ? ", no route leads to it" : "";
      set(up, `${count(ups)} of ${count(servers.length)} up${holding}${unrouted}`);
    },
  };
}

function serverRow() {
  const [name, address] = [el("b"), el("small")];
  const [label, since] = [el("span"), el("small")];
  const status = cell("Status", { class: "status" });
  const figure = (label) => cell(label, { class: "number" });
  const [weight, expected, requests] = [figure("Weight"), figure("Share"), figure("Req/s")];
  const [errors, p50, p99] = [figure("Errors"), figure("p50"), figure("p99")];
  const [open, memory] = [figure("Open"), figure("Memory")];
  const [bar, percent] = [el("i", { class: "bar", "aria-hidden": "true" }), el("span")];
  const served = cell("Served", { class: "number served" }, percent, bar);
  const [checked, error] = [el("span"), el("small", { class: "error" })];
  const check = cell("Last check", { class: "check" }, checked, error);
  const head = el("th", { role: "rowheader", scope: "row", class: "name" }, name, address);
  const cells = [head, status, weight, expected, served, requests, errors, p50, p99, open, memory, check];
  const node = el("tr", { role: "row" }, ...cells);
  return {
    node,
    update({ server, now }) {
      const { recent, last_check: last } = server;
      set(name, server.name);
      set(address, server.address);
      if (node.dataset.status !== server.status) {
        if (node.dataset.status) flash(node);
        node.dataset.status = server.status;
        status.replaceChildren(icon(server.status), label, since);
        set(label, server.status);
      }
      const steady = server.status === "up" || server.status === "disabled";
      set(since, steady ? "" : `for ${span(Math.max(0, Math.round((now - Date.parse(server.since)) / 1000)))}`);
      set(weight, count(server.weight));
      set(expected, share(server.share));
      set(percent, share(server.served_share));
      bar.style.setProperty("--served", server.served_share ?? 0);
      bar.style.setProperty("--expected", server.share);
      set(requests, rate(recent.requests_per_second));
      set(errors, count(recent.errors));
      errors.classList.toggle("bad", recent.errors > 0);
      set(p50, duration(recent.p50_seconds));
      set(p99, duration(recent.p99_seconds));
      set(open, count(server.active_requests));
      set(memory, bytes(server.memory_bytes));
      set(checked, last ? ago(Date.parse(last.at), now) : NONE);
      const reason = server.ejected?.error ?? last?.error ?? "";
      set(error, reason);
      error.title = reason;
    },
  };
}

/** Highlights a row for a moment. */
function flash(node) {
  node.classList.remove("changed");
  // The animation restarts only if a layout happens while the class is absent.
  void node.offsetWidth;
  node.classList.add("changed");
}
