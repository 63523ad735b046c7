// The record of reloads: the changes of each edit, or the problems for which it was rejected, as `lb check` prints them.

import { Rows, byId, el, icon, mark, set } from "./dom.js";
import { ago, duration, plural, when } from "./format.js";

/** The number of reloads shown at first. */
const FIRST = 6;
/** The number of reloads kept. */
export const MAX = 200;
const TITLES = { applied: "Applied", rejected: "Rejected", pending: "Pending", unchanged: "Unchanged" };

export const keyOf = (reload) => `${reload.at} ${reload.outcome} ${reload.generation}`;

export class Reloads {
  constructor() {
    /** Newest first. */
    this.reloads = [];
    this.all = false;
    this.rows = new Rows(byId("reloads"), reloadRow);
    byId("reloads-all").addEventListener("click", () => {
      this.all = !this.all;
      this.draw();
    });
  }

  /** Replaces the record after a (re)connection. */
  reset(reloads) {
    this.reloads = reloads;
  }

  /** Adds a new reload. */
  add(reload) {
    if (!this.reloads.some((other) => keyOf(other) === keyOf(reload))) this.reloads.unshift(reload);
    this.reloads.length = Math.min(this.reloads.length, MAX);
  }

  draw(now = this.now) {
    this.now = now;
    const shown = this.all ? this.reloads : this.reloads.slice(0, FIRST);
    this.rows.show(shown.map((reload) => ({ reload, now })), ({ reload }) => keyOf(reload));
    const button = byId("reloads-all");
    button.hidden = this.reloads.length <= FIRST;
    set(button, this.all ? `Show only the newest ${FIRST}` : `Show all ${this.reloads.length}`);
  }

  /** Scrolls to a reload and focuses it. */
  open(key) {
    this.all = true;
    this.draw();
    const node = this.rows.rows.get(key)?.node;
    node?.scrollIntoView({ block: "center", behavior: "smooth" });
    node?.focus({ preventScroll: true });
  }
}

/** One line about a reload. */
export function summary(reload) {
  if (reload.problems.length > 0) {
    return `${reload.outcome}: ${reload.problems[0].message}`;
  }
  return reload.outcome === "unchanged" ? "unchanged" : reload.changes.join("; ") || withoutChanges(reload);
}

/** The changes of a reload as a list, or its problems. */
export function details(reload) {
  if (reload.problems.length > 0) {
    return reload.problems.map((problem) => el("pre", { tabindex: "0" }, problem.text));
  }
  if (reload.outcome === "unchanged") return [el("p", {}, "Same content as the configuration in force")];
  if (reload.changes.length === 0) return [el("p", {}, withoutChanges(reload))];
  return [el("ul", {}, ...reload.changes.map((change) => el("li", {}, change.replace(" -> ", " → "))))];
}

function withoutChanges(reload) {
  return reload.generation === 1 ? "Initial configuration" : "No value changed";
}

export function title(reload) {
  const count = reload.problems.length > 0 ? ` (${plural(reload.problems.length, "problem")})` : "";
  return TITLES[reload.outcome] + count;
}

function reloadRow({ reload }) {
  const time = el("time", { datetime: reload.at });
  const since = el("small");
  const facts = [`generation ${reload.generation}`, reload.hash.slice(0, 8), `in ${duration(reload.seconds)}`];
  const head = el("p", { class: "summary" }, icon(reload.outcome), el("b", {}, title(reload)), el("small", {}, facts.filter(Boolean).join(" · ")));
  const node = el("li", { class: reload.outcome, tabindex: "-1" });
  node.append(el("p", { class: "when" }, time, since), el("div", {}, head, ...details(reload)));
  return {
    node,
    update({ now }) {
      set(time, when(Date.parse(reload.at), now));
      set(since, ago(Date.parse(reload.at), now));
      mark(node, "data-generation", String(reload.generation));
    },
  };
}
