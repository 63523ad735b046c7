// Creates and updates elements. Text from the configuration or from servers is never interpreted as markup.

export const byId = (id) => document.getElementById(id);

/** Creates an element; strings among the children become text nodes. */
export function el(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== undefined) node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}

/** Creates an SVG element. */
export function svg(name, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

/** One of the page's symbols, hidden from screen readers because a word always stands beside it. */
export function icon(name) {
  return svg("svg", { class: `icon ${name}`, "aria-hidden": "true" }, svg("use", { href: `#icon-${name}` }));
}

/** Sets a node's text if it differs; setting the same text would cost a layout. */
export function set(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Sets an attribute if it differs; `undefined` removes it. */
export function mark(node, name, value) {
  if (value === undefined) node.removeAttribute(name);
  else if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

/** Children identified by a key and updated in place, so that they neither flicker nor lose the focus. */
export class Rows {
  /** `make` creates a row for an item: its `node`, and `update`, which shows an item in it. */
  constructor(parent, make) {
    this.parent = parent;
    this.make = make;
    this.rows = new Map();
  }

  /** Shows exactly these items, in this order. */
  show(items, key) {
    const before = this.rows;
    this.rows = new Map();
    let next = this.parent.firstChild;
    for (const item of items) {
      const name = key(item);
      const row = before.get(name) ?? this.make(item);
      before.delete(name);
      this.rows.set(name, row);
      row.update(item);
      if (row.node === next) next = next.nextSibling;
      else this.parent.insertBefore(row.node, next);
    }
    for (const row of before.values()) row.node.remove();
  }
}

/** A table cell. Narrow screens show the label in the cell, because they hide the table's header. */
export function cell(label, attributes = {}, ...children) {
  return el("td", { role: "cell", "data-label": label, ...attributes }, ...children);
}

let pending = [];

/** Announces a change to screen readers; several at once are summarized. */
export function announce(text) {
  pending.push(text);
  if (pending.length > 1) return;
  setTimeout(() => {
    const summary = pending.length > 3 ? `${pending.length} changes; the newest: ${pending.at(-1)}` : pending.join(". ");
    set(byId("announcements"), summary);
    pending = [];
  }, 300);
}
