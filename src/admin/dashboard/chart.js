// The chart: traffic above and latency below over the last 15 minutes, with a mark for each reload.

import { Rows, byId, el, icon, mark, set, svg } from "./dom.js";
import { clock, count, duration, exact, rate } from "./format.js";
import { details, keyOf, summary, title } from "./reloads.js";

const SPAN = 15 * 60 * 1000;
/** Points further apart than this are not connected. */
const PAUSE = 15 * 1000;
/** Reloads fewer pixels apart than this share a mark. */
const CLOSE = 16;
const LEFT = 52;
const RIGHT = 40;
/** The panels' upper and lower ends. */
const TRAFFIC = { top: 62, bottom: 190 };
const LATENCY = { top: 230, bottom: 310 };
const HEIGHT = 334;
/** The upper end of the marks' lines, below the marks themselves. */
const MARKS = 28;

export class Chart {
  /** `open` is called with the key of a reload whose mark is clicked. */
  constructor(open) {
    this.samples = [];
    this.reloads = [];
    this.now = Date.now();
    this.root = byId("chart");
    this.lines = {};
    this.svg = svg("svg", { role: "img", height: HEIGHT });
    this.grid = svg("g", { class: "grid" });
    this.rules = svg("g", { class: "rules" });
    this.cross = svg("line", { class: "cross", y1: TRAFFIC.top, y2: LATENCY.bottom });
    this.svg.append(this.grid);
    for (const name of ["area", "rate", "errors", "p99", "p50"]) {
      this.lines[name] = svg("path", { class: name });
      this.svg.append(this.lines[name]);
    }
    this.names = svg("g", { class: "names" });
    this.svg.append(this.rules, this.names, this.cross);
    this.marks = el("div", { class: "marks" });
    this.note = el("div", { class: "note", role: "tooltip", id: "note" });
    this.note.hidden = true;
    this.root.append(this.svg, this.marks, this.note);
    this.rows = new Rows(this.marks, () => this.button(open));
    this.note.addEventListener("pointerenter", () => clearTimeout(this.leaving));
    this.note.addEventListener("pointerleave", () => this.leave());
    new ResizeObserver(() => this.draw()).observe(this.root);
    this.svg.addEventListener("pointermove", (event) => this.point(event));
    this.svg.addEventListener("pointerleave", () => this.rest());
    this.root.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.note.hidden = true;
    });
  }

  /** Replaces all samples. */
  reset(samples) {
    this.samples = samples.map(point);
  }

  /** Adds the newest sample, unless it is there already. */
  add(sample) {
    const newest = point(sample);
    if (newest.at > (this.samples.at(-1)?.at ?? 0)) this.samples.push(newest);
    this.samples = this.samples.filter((sample) => sample.at > newest.at - SPAN - PAUSE);
  }

  show(now, reloads) {
    this.now = now;
    this.reloads = reloads;
    this.draw();
  }

  draw() {
    const width = this.root.clientWidth;
    if (width === 0) return;
    mark(this.svg, "width", String(width));
    const from = this.now - SPAN;
    const x = (at) => LEFT + ((at - from) / SPAN) * (width - LEFT - RIGHT);
    const shown = this.samples.filter((sample) => sample.at >= from);
    const traffic = axis(TRAFFIC, Math.max(1, ...shown.map((sample) => sample.rate)));
    const latency = axis(LATENCY, Math.max(0.001, ...shown.map((sample) => sample.p99 ?? 0)));
    this.x = x;
    this.drawAxes(width, x, traffic, latency);
    const draw = (name, of, y) => mark(this.lines[name], "d", path(shown, (s) => x(s.at), (s) => y(of(s)), (s) => of(s) !== null));
    draw("rate", (sample) => sample.rate, traffic.y);
    const failed = shown.some((sample) => sample.errors > 0);
    draw("errors", (sample) => (failed ? sample.errors : null), traffic.y);
    draw("p99", (sample) => sample.p99, latency.y);
    draw("p50", (sample) => sample.p50, latency.y);
    mark(this.lines.area, "d", area(shown, (s) => x(s.at), (s) => traffic.y(s.rate), TRAFFIC.bottom));
    this.drawNames(width, shown, traffic, latency, failed);
    this.drawMarks(x, from);
    this.describe(shown);
    if (!this.pointed) this.read(undefined);
  }

  /** Grid lines, scales and the panels' names. */
  drawAxes(width, x, traffic, latency) {
    const [parts, names] = [[], []];
    const text = (at, y, label, anchor, kind = "") => svg("text", { x: at, y, "text-anchor": anchor, class: kind }, label);
    for (const [panel, { top, y }, name, show] of [
      [TRAFFIC, traffic, "Requests per second", (value) => (value >= 10 ? count(value) : String(value))],
      [LATENCY, latency, "Latency", duration],
    ]) {
      names.push(text(LEFT, panel.top - 10, name, "start", "name"));
      for (const value of [0, top / 2, top]) {
        const at = Math.round(y(value)) + 0.5;
        parts.push(svg("line", { x1: LEFT, x2: width - RIGHT, y1: at, y2: at, class: value === 0 ? "base" : "" }));
        parts.push(text(LEFT - 10, at + 4, value === 0 ? "0" : show(value), "end"));
      }
    }
    const step = (width < 560 ? 5 : 3) * 60 * 1000;
    for (let at = Math.ceil((this.now - SPAN) / step) * step; at <= this.now; at += step) {
      if (x(at) < LEFT + 14 || x(at) > width - RIGHT - 14) continue;
      parts.push(text(x(at), LATENCY.bottom + 20, clock(at), "middle"));
    }
    this.grid.replaceChildren(...parts);
    this.names.replaceChildren(...names);
  }

  /** Names at the ends of the curves, moved so that they do not overlap. */
  drawNames(width, shown, traffic, latency, failed) {
    const last = shown.at(-1);
    const names = [];
    const name = (text, kind, y) => names.push(svg("text", { x: width - RIGHT + 6, y: y + 4, class: kind }, text));
    if (failed) name("errors", "bad", traffic.y(last.errors));
    if (last && last.p99 !== null) {
      const p50 = latency.y(last.p50);
      name("p50", "", p50);
      name("p99", "", Math.min(latency.y(last.p99), p50 - 13));
    }
    this.names.append(...names);
  }

  /** A mark for each reload, or for several close together. */
  drawMarks(x, from) {
    const groups = [];
    for (const reload of [...this.reloads].reverse()) {
      const at = Date.parse(reload.at);
      if (at < from || at > this.now) continue;
      const last = groups.at(-1);
      if (last && x(at) - x(last.at) < CLOSE) last.reloads.push(reload);
      else groups.push({ at, reloads: [reload] });
    }
    this.rules.replaceChildren(
      ...groups.map(({ at, reloads }) => svg("line", { class: worst(reloads), x1: x(at), x2: x(at), y1: MARKS, y2: LATENCY.bottom })),
    );
    this.rows.show(groups.map((group) => ({ ...group, x: x(group.at) })), (group) => keyOf(group.reloads[0]));
  }

  button(open) {
    const node = el("button", { type: "button", "aria-describedby": "note" });
    let group;
    const explain = () => {
      this.explained = node;
      this.explain(group);
    };
    node.addEventListener("pointerenter", explain);
    node.addEventListener("focus", explain);
    node.addEventListener("pointerleave", () => this.leave());
    node.addEventListener("blur", () => this.leave());
    node.addEventListener("click", () => open(keyOf(group.reloads.at(-1))));
    return {
      node,
      update: (next) => {
        group = next;
        const many = group.reloads.length;
        const kind = worst(group.reloads);
        if (node.dataset.kind !== kind + many) {
          node.dataset.kind = kind + many;
          node.className = kind;
          node.replaceChildren(many > 1 ? String(many) : icon(kind));
          // A reload joined the group whose note is open.
          if (this.explained === node && !this.note.hidden) this.explain(group);
        }
        node.style.left = `${group.x}px`;
        mark(node, "aria-label", `${exact(group.at)}: ${group.reloads.map(summary).join(". ")}`);
      },
    };
  }

  /** Hides the note, unless the pointer moves into it. */
  leave() {
    clearTimeout(this.leaving);
    this.leaving = setTimeout(() => {
      this.note.hidden = true;
    }, 200);
  }

  explain(group) {
    clearTimeout(this.leaving);
    const entry = (reload) => {
      const head = el("p", { class: "summary" }, icon(reload.outcome), el("b", {}, title(reload)), el("small", {}, exact(Date.parse(reload.at))));
      return el("div", {}, head, ...details(reload));
    };
    const newest = group.reloads.slice(-4).reverse();
    const rest = group.reloads.length - newest.length;
    this.note.replaceChildren(...newest.map(entry), ...(rest > 0 ? [el("p", {}, `and ${rest} more`)] : []));
    this.note.hidden = false;
    const room = this.root.clientWidth - this.note.offsetWidth;
    this.note.style.left = `${Math.max(0, Math.min(room, group.x - this.note.offsetWidth / 2))}px`;
  }

  point(event) {
    const at = event.clientX - this.svg.getBoundingClientRect().left;
    const near = (sample) => Math.abs(this.x(sample.at) - at);
    const nearest = this.samples.reduce((best, sample) => (best && near(best) <= near(sample) ? best : sample), undefined);
    this.pointed = nearest && near(nearest) < 30;
    this.read(this.pointed ? nearest : undefined);
  }

  rest() {
    this.pointed = false;
    this.read(undefined);
  }

  read(sample) {
    this.cross.classList.toggle("on", !!sample);
    let text = "";
    if (sample) {
      mark(this.cross, "x1", this.x(sample.at));
      mark(this.cross, "x2", this.x(sample.at));
      const failed = sample.errors > 0 ? `${rate(sample.errors)} errors/s · ` : "";
      text = `${exact(sample.at)} · ${rate(sample.rate)} req/s · ${failed}p50 ${duration(sample.p50)} · p99 ${duration(sample.p99)}`;
    }
    set(byId("readout"), text);
  }

  describe(shown) {
    const newest = shown.at(-1);
    const peak = Math.max(0, ...shown.map((sample) => sample.rate));
    const now = newest ? `, now ${rate(newest.rate)}; p99 now ${duration(newest.p99)}` : "";
    mark(this.svg, "aria-label", `Traffic and latency of the last 15 minutes: at most ${rate(peak)} requests per second${now}`);
  }
}

const point = (sample) => ({
  at: Date.parse(sample.at),
  rate: sample.requests_per_second,
  errors: sample.errors_per_second,
  p50: sample.p50_seconds,
  p99: sample.p99_seconds,
});

const worst = (reloads) => ["rejected", "pending", "applied", "unchanged"].find((kind) => reloads.some((reload) => reload.outcome === kind));

/** A panel's scale, from 0 to a round number of at least `max`. */
function axis({ top, bottom }, max) {
  const power = 10 ** Math.floor(Math.log10(max));
  const round = [1, 2, 4, 5, 6, 8, 10].find((step) => step * power >= max * 0.999) * power;
  return { top: round, y: (value) => bottom - (value / round) * (bottom - top) };
}

/** Splits samples into runs without a pause or a missing value. */
function runs(samples, exists) {
  const runs = [];
  let before;
  for (const sample of samples) {
    if (exists(sample)) {
      if (!before || sample.at - before.at > PAUSE) runs.push([]);
      runs.at(-1).push(sample);
    }
    before = exists(sample) ? sample : undefined;
  }
  return runs;
}

const coordinates = (x, y) => (sample) => `${x(sample).toFixed(1)} ${y(sample).toFixed(1)}`;

function path(samples, x, y, exists) {
  // The round line ends draw a single point as a dot.
  return runs(samples, exists).map((run) => `M${run.map(coordinates(x, y)).join("L")}${run.length === 1 ? "h0" : ""}`).join("");
}

function area(samples, x, y, base) {
  const outline = (run) => `M${x(run[0])} ${base}L${run.map(coordinates(x, y)).join("L")}L${x(run.at(-1))} ${base}Z`;
  return runs(samples, () => true).map(outline).join("");
}
