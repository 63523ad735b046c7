// The page: gets what the balancer tells and hands it on. It asks, and changes nothing.

import { Chart } from "./chart.js";
import { Rows, byId, cell, el, mark, say, set } from "./dom.js";
import { ago, count, duration, plural, rate, when } from "./format.js";
import { Reloads, details, inShort } from "./reloads.js";
import { Servers } from "./servers.js";

/** How long to wait before the events are asked for again, if the browser does not do so itself. */
const AGAIN = 5000;

const servers = new Servers();
const reloads = new Reloads();
const chart = new Chart((key) => reloads.open(key));
const routes = new Rows(byId("route-table").tBodies[0], routeRow);
const listeners = new Rows(byId("listener-table").tBodies[0], listenerRow);

/** How far the balancer's clock is ahead of the browser's. */
let ahead = 0;
let noticed;
const now = () => Date.now() + ahead;

follow();
// Times are told as so long ago, and the chart moves on.
setInterval(() => {
  reloads.draw(now());
  chart.show(now(), reloads.reloads);
}, 1000);

function follow() {
  const events = new EventSource("api/events?figures=true");
  const on = (name, take) => events.addEventListener(name, (event) => take(JSON.parse(event.data)));
  on("figures", figures);
  on("reload", reload);
  on("health", health);
  on("gap", catchUp);
  events.addEventListener("open", catchUp);
  events.addEventListener("error", () => {
    link("waiting", "connection lost, trying again");
    if (events.readyState !== EventSource.CLOSED) return;
    // It was answered, but not with events: too many are following, or it is shutting down.
    events.close();
    setTimeout(follow, AGAIN);
  });
}

/** Gets what came before the events that are followed. */
async function catchUp() {
  try {
    const [history, record] = await Promise.all(["api/history", "api/reloads?limit=200"].map(ask));
    chart.begin(history.samples);
    const seen = reloads.reloads;
    reloads.begin(record.reloads);
    // What came in while this was asked for.
    const newest = Date.parse(record.reloads[0]?.at ?? 0);
    seen.filter((known) => Date.parse(known.at) > newest).reverse().forEach((known) => reloads.add(known));
    redraw();
  } catch (error) {
    link("waiting", `connection lost: ${error.message}`);
  }
}

async function ask(path) {
  const answer = await fetch(path, { cache: "no-store" });
  if (!answer.ok) throw new Error(`${path} answered ${answer.status}`);
  return answer.json();
}

function figures(told) {
  ahead = Date.parse(told.at) - Date.now();
  told.now = now();
  link("live", told.stopping ? "shutting down" : "live");
  set(byId("generation"), count(told.generation));
  set(byId("hash"), told.hash.slice(0, 8));
  set(byId("applied"), `applied ${ago(Date.parse(told.applied_at), now())}`);
  mark(byId("hash"), "title", `SHA-256 of the configuration in force: ${told.hash}`);
  set(byId("file"), told.files[0] ?? "lb.toml");
  mark(byId("applied"), "title", when(Date.parse(told.applied_at), now()));
  headline(told);
  if (told.sample) chart.add(told.sample);
  servers.show(told);
  routes.show(told.routes, (route) => route.name);
  listeners.show(told.listeners, (listener) => `${listener.name} ${listener.address}`);
  notice(told);
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

function reload(told) {
  reloads.add(told);
  say(told.outcome === "applied" ? `Generation ${told.generation}: ${inShort(told)}` : `The file was ${inShort(told)}`);
  redraw();
}

function health(told) {
  say(`${told.pool}/${told.server} is ${told.to}${told.error ? `: ${told.error}` : ""}`);
}

function redraw() {
  reloads.draw(now());
  chart.show(now(), reloads.reloads);
  if (servers.figures) notice(servers.figures);
}

/** What everybody should see at once: the file is not what is in force. */
function notice({ state, stopping, generation }) {
  const refused = state === "current" ? undefined : reloads.reloads.find((known) => known.outcome !== "unchanged");
  const bad = refused?.outcome === "rejected" ? refused : undefined;
  let title = "";
  let body = [];
  if (stopping) {
    title = "Shutting down: open requests finish";
  } else if (bad) {
    title = `The file was refused, ${plural(bad.problems.length, "problem")}. Generation ${generation} stays in force.`;
    body = details(bad);
  } else if (state === "last_good") {
    title = `The file was refused. Generation ${generation} stays in force.`;
  } else if (state === "holding") {
    title = "Old servers still serve: no new one has passed its check yet";
  }
  const key = title + (bad?.at ?? "");
  if (noticed === key) return;
  noticed = key;
  byId("notice").hidden = title === "";
  set(byId("notice-title"), title);
  byId("notice-body").replaceChildren(...body);
}

function link(state, words) {
  byId("link").className = state;
  set(byId("link"), words);
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
      set(pool, route.pool);
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
  const clients = cell("Clients", { class: "number" });
  const head = el("th", { role: "rowheader", scope: "row", class: "name" }, address, name);
  return {
    node: el("tr", { role: "row" }, head, clients),
    update(listener) {
      set(address, listener.address);
      set(name, listener.name === listener.address ? "" : listener.name);
      set(clients, count(listener.connections));
    },
  };
}
