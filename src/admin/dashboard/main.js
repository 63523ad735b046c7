// The page: receives events and figures from the API and passes them to the views. Read-only.

import { Chart } from "./chart.js";
import { Rows, announce, byId, cell, el, mark, set } from "./dom.js";
import { ago, count, duration, exact, plural, rate, when } from "./format.js";
import { MAX as MAX_RELOADS, Reloads, details, summary } from "./reloads.js";
import { Servers } from "./servers.js";

/** The longest silence that is not suspicious, in milliseconds; longer if figures come less often than each second. */
const SILENCE = 5000;

const servers = new Servers();
const reloads = new Reloads();
const chart = new Chart((key) => reloads.open(key));
const routes = new Rows(byId("route-table").tBodies[0], routeRow);
const listeners = new Rows(byId("listener-table").tBodies[0], listenerRow);
const certificates = new Rows(byId("certificate-table").tBodies[0], certificateRow);

/** How far the balancer's clock is ahead of the browser's, in milliseconds. */
let clockOffset = 0;
let shownNotice;
const now = () => Date.now() + clockOffset;

let events;
/** When the newest figures came, and when the subscription was last started, by a clock that nobody sets. */
const since = { news: undefined, subscribed: 0 };
/** When the newest figures came, as people read it, and the longest silence after them. */
let newsAt = Date.now();
let silence = SILENCE;
/** Why the figures are not current, or an empty string. */
let stale = "";

subscribe();
// Ages grow and the chart moves even without events.
setInterval(() => {
  watch();
  reloads.draw(now());
  chart.show(now(), reloads.reloads);
}, 1000);

function subscribe() {
  events?.close();
  since.subscribed = performance.now();
  const source = new EventSource("api/events?figures=true");
  events = source;
  const on = (name, handle) => source.addEventListener(name, (event) => handle(JSON.parse(event.data)));
  on("figures", figures);
  on("reload", reload);
  on("health", health);
  on("gap", catchUp);
  source.addEventListener("open", catchUp);
  // The browser connects again by itself, unless the response was not an event stream: there are too many subscribers,
  // or the balancer is shutting down. Then `watch` does.
  source.addEventListener("error", () => source === events && outdated("connection lost"));
}

/**
 * Subscribes again if nothing has come for too long. An error is no condition: a process that hangs, or a network that is cut,
 * closes no connection.
 */
function watch() {
  if (performance.now() - Math.max(since.news ?? 0, since.subscribed) > silence) {
    outdated(stale || "no response");
    subscribe();
  } else if (stale || performance.now() - since.news > 1500) {
    ages();
  }
}

/** Shows that the figures are not current. */
function outdated(reason) {
  if (!stale) announce(`No news: ${reason}`);
  stale = reason;
  const news = since.news === undefined ? "" : `; no news since ${exact(newsAt)}`;
  link("waiting", `${reason}${news}; reconnecting`);
  document.body.classList.add("stale");
  if (!document.title.startsWith("(no news)")) document.title = `(no news) ${document.title}`;
  ages();
  if (servers.figures) notice(servers.figures);
}

/** Shows ages by the page's own clock, until the next figures come. */
function ages() {
  if (!servers.figures) return;
  servers.figures.now = now();
  applied(servers.figures);
  servers.draw();
}

function applied({ applied_at: at }) {
  set(byId("applied"), `applied ${ago(Date.parse(at), now())}`);
}

/** Fetches the history and the record of reloads from before the first event. */
async function catchUp() {
  try {
    const [history, record] = await Promise.all(["api/history", `api/reloads?limit=${MAX_RELOADS}`].map(fetchJson));
    chart.reset(history.samples);
    const received = reloads.reloads;
    reloads.reset(record.reloads);
    // Reloads that arrived as events during the fetch.
    const newest = Date.parse(record.reloads[0]?.at ?? 0);
    received.filter((reload) => Date.parse(reload.at) > newest).reverse().forEach((reload) => reloads.add(reload));
    redraw();
  } catch {
    // Figures tell whether the connection is alive; the next subscription fetches again.
  }
}

async function fetchJson(path) {
  const response = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(10 * SILENCE) });
  if (!response.ok) throw new Error(`${path} returned ${response.status}`);
  return response.json();
}

function figures(data) {
  clockOffset = Date.parse(data.at) - Date.now();
  data.now = now();
  since.news = performance.now();
  newsAt = Date.now();
  // Twice the time to the next figures, and 3 seconds for the network.
  silence = Math.max(SILENCE, 2000 * data.interval_seconds + 3000);
  stale = "";
  document.body.classList.remove("stale");
  link("live", data.stopping ? "shutting down" : "live");
  set(byId("generation"), count(data.generation));
  set(byId("hash"), data.hash.slice(0, 8));
  applied(data);
  mark(byId("hash"), "title", `SHA-256 of the configuration in force: ${data.hash}`);
  set(byId("file"), data.files[0] ?? "lb.toml");
  mark(byId("applied"), "title", when(Date.parse(data.applied_at), now()));
  headline(data);
  if (data.sample) chart.add(data.sample);
  servers.show(data);
  routes.show(data.routes, (route) => route.name);
  listeners.show(data.listeners, (listener) => `${listener.name} ${listener.address}`);
  certificates.show(data.certificates, (certificate) => certificate.file);
  byId("certificates").hidden = data.certificates.length === 0;
  notice(data);
}

function headline({ total, servers }) {
  const { recent } = total;
  const up = servers.filter((server) => server.status === "up").length;
  const wanted = servers.filter((server) => server.enabled && server.status !== "draining").length;
  set(byId("now-rate"), rate(recent.requests_per_second));
  set(byId("now-errors"), count(recent.errors));
  byId("now-errors").classList.toggle("bad", recent.errors > 0);
  set(byId("now-p50"), duration(recent.p50_seconds));
  set(byId("now-p99"), duration(recent.p99_seconds));
  set(byId("now-open"), count(total.active_requests));
  set(byId("now-up"), `${count(up)} of ${count(wanted)}`);
  byId("now-up").classList.toggle("bad", up < wanted);
  document.title = up < wanted ? `(${count(wanted - up)} down) lb` : "lb";
}

function reload(data) {
  reloads.add(data);
  announce(data.outcome === "applied" ? `Generation ${data.generation} applied: ${summary(data)}` : `Configuration ${summary(data)}`);
  redraw();
}

function health(data) {
  announce(`${data.pool}/${data.server} is ${data.to}${data.error ? `: ${data.error}` : ""}`);
}

function redraw() {
  reloads.draw(now());
  chart.show(now(), reloads.reloads);
  if (servers.figures) notice(servers.figures);
}

/** Shows at the top that the file is not in force, that old servers are held, other warnings, or that the process is stopping. */
function notice({ state, stopping, generation, warnings }) {
  const last = state === "current" ? undefined : reloads.reloads.find((reload) => reload.outcome !== "unchanged");
  const rejected = last?.outcome === "rejected" ? last : undefined;
  const pending = last?.outcome === "pending" ? last : undefined;
  let title = "";
  let body = [];
  if (stopping && stale) {
    title = "It was shutting down when it was last heard of";
  } else if (stopping) {
    title = "Shutting down; open requests may finish";
  } else if (rejected) {
    title = `Edit rejected with ${plural(rejected.problems.length, "problem")}. Generation ${generation} stays in force.`;
    body = details(rejected);
  } else if (pending) {
    title = `Edit pending; it is tried again. Generation ${generation} stays in force.`;
    body = details(pending);
  } else if (state === "last_good") {
    title = `Edit rejected. Generation ${generation} stays in force.`;
  } else if (state === "holding") {
    title = "Holding: old servers keep serving until a new one passes a health check";
  }
  if (warnings.length > 0) {
    title ||= plural(warnings.length, "warning");
    body = [...body, ...warnings.map((warning) => el("p", {}, warning))];
  }
  const key = [title, (rejected ?? pending)?.at ?? "", ...warnings].join("\n");
  if (shownNotice === key) return;
  shownNotice = key;
  byId("notice").hidden = title === "";
  set(byId("notice-title"), title);
  byId("notice-body").replaceChildren(...body);
}

function link(state, text) {
  byId("link").className = state;
  set(byId("link"), text);
}

function routeRow() {
  const [place, name] = [el("b"), el("small")];
  const [pool, ...figure] = ["Pool", "Req/s", "Errors", "p50", "p99"].map((label, i) => cell(label, i ? { class: "number" } : {}));
  const head = el("th", { role: "rowheader", scope: "row", class: "name" }, place, name);
  return {
    node: el("tr", { role: "row" }, head, pool, ...figure),
    update(route) {
      const [requests, errors, p50, p99] = figure;
      const where = `${route.host === "*" ? "any host" : route.host} ${route.path}`;
      set(place, where);
      set(name, route.name === `${route.host}${route.path}` ? "" : route.name);
      set(pool, route.held_by === null ? route.pool : `${route.pool}, held by old servers${route.held_by === route.pool ? "" : ` of ${route.held_by}`}`);
      pool.classList.toggle("held", route.held_by !== null);
      set(requests, rate(route.recent.requests_per_second));
      set(errors, count(route.recent.errors));
      errors.classList.toggle("bad", route.recent.errors > 0);
      set(p50, duration(route.recent.p50_seconds));
      set(p99, duration(route.recent.p99_seconds));
    },
  };
}

function listenerRow() {
  const [address, name] = [el("b"), el("small")];
  const connections = cell("Connections", { class: "number" });
  const head = el("th", { role: "rowheader", scope: "row", class: "name" }, address, name);
  return {
    node: el("tr", { role: "row" }, head, connections),
    update(listener) {
      set(address, listener.address);
      set(name, listener.name === listener.address ? "" : listener.name);
      set(connections, count(listener.connections));
    },
  };
}

/** The words and the colour for a certificate that clients do not accept, or soon will not. */
const VALIDITY = { valid: ["", ""], expires_soon: [", soon", "held"], not_yet_valid: [", not valid yet", "held"], expired: [", expired", "bad"] };

function certificateRow() {
  const [file, note] = [el("b"), el("small")];
  const [names, key, expires] = ["Names", "Key", "Expires"].map((label) => cell(label));
  const head = el("th", { role: "rowheader", scope: "row", class: "name" }, file, note);
  return {
    node: el("tr", { role: "row" }, head, names, key, expires),
    update(certificate) {
      const [words, colour] = VALIDITY[certificate.validity];
      set(file, certificate.file);
      set(note, certificate.default ? "default" : "");
      set(names, certificate.names.join(", "));
      set(key, certificate.key_type);
      set(expires, `${certificate.not_after.slice(0, 10)}${words}`);
      mark(expires, "class", colour || undefined);
      mark(expires, "title", certificate.not_after);
    },
  };
}
