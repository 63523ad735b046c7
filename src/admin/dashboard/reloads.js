// The record of edits: what each changed in words, or why it was refused, as `lb check` prints it.

import { Rows, byId, el, icon, mark, set } from "./dom.js";
import { ago, duration, plural, when } from "./format.js";

/** How many are shown at first. */
const FIRST = 6;
const WORDS = { applied: "Applied", rejected: "Refused", unchanged: "Unchanged" };

export const keyOf = (reload) => `${reload.at} ${reload.outcome} ${reload.generation}`;

export class Reloads {
  constructor() {
    /** The newest first. */
    this.reloads = [];
    this.all = false;
    this.rows = new Rows(byId("reloads"), reloadRow);
    byId("reloads-all").addEventListener("click", () => {
      this.all = !this.all;
      this.draw();
    });
  }

  /** What was told when the page came, or came back. */
  begin(reloads) {
    this.reloads = reloads;
  }

  /** What was told since. */
  add(reload) {
    if (!this.reloads.some((known) => keyOf(known) === keyOf(reload))) this.reloads.unshift(reload);
    this.reloads.length = Math.min(this.reloads.length, 200);
  }

  draw(now = this.now) {
    this.now = now;
    const shown = this.all ? this.reloads : this.reloads.slice(0, FIRST);
    this.rows.show(shown.map((reload) => ({ reload, now })), ({ reload }) => keyOf(reload));
    const button = byId("reloads-all");
    button.hidden = this.reloads.length <= FIRST;
    set(button, this.all ? `Show the newest ${FIRST}` : `Show all ${this.reloads.length}`);
  }

  /** Shows one, wherever it is in the list. */
  open(key) {
    this.all = true;
    this.draw();
    const node = this.rows.rows.get(key)?.node;
    node?.scrollIntoView({ block: "center", behavior: "smooth" });
    node?.focus({ preventScroll: true });
  }
}

/** In a sentence, for where there is little room. */
export function inShort(reload) {
  if (reload.outcome === "rejected") {
    return `refused: ${reload.problems[0]?.message ?? "no reason was given"}`;
  }
  return reload.outcome === "unchanged" ? "read again, unchanged" : reload.changes.join("; ") || first(reload);
}

/** What an edit came to: its changes as a list, or its errors. */
export function details(reload) {
  if (reload.outcome === "rejected") {
    return reload.problems.map((problem) => el("pre", { tabindex: "0" }, problem.text));
  }
  if (reload.outcome === "unchanged") return [el("p", {}, "Read again: the same content as is in force")];
  if (reload.changes.length === 0) return [el("p", {}, first(reload))];
  return [el("ul", {}, ...reload.changes.map((change) => el("li", {}, change.replace(" -> ", " → "))))];
}

function first(reload) {
  return reload.generation === 1 ? "The first configuration" : "No value changed";
}

export function title(reload) {
  const count = reload.outcome === "rejected" ? ` (${plural(reload.problems.length, "problem")})` : "";
  return WORDS[reload.outcome] + count;
}

function reloadRow({ reload }) {
  const time = el("time", { datetime: reload.at });
  const since = el("small");
  const facts = [`generation ${reload.generation}`, reload.hash.slice(0, 8), `in ${duration(reload.seconds)}`];
  const head = el("p", { class: "what" }, icon(reload.outcome), el("b", {}, title(reload)), el("small", {}, facts.filter(Boolean).join(" · ")));
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
