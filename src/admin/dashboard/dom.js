// Making and changing what is on the page. Whatever comes from the file or from servers becomes text, never markup.

export const byId = (id) => document.getElementById(id);

/** An element; strings among the children become text. */
export function el(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== undefined) node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}

/** The same in SVG. */
export function svg(name, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

/** One of the page's symbols. It says nothing: the word for it stands beside it. */
export function icon(name) {
  return svg("svg", { class: `icon ${name}`, "aria-hidden": "true" }, svg("use", { href: `#icon-${name}` }));
}

/** Puts another text into a node, if it is another. */
export function set(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Puts another attribute on a node, if it is another; none for `undefined`. */
export function mark(node, name, value) {
  if (value === undefined) node.removeAttribute(name);
  else if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

/** Children that are kept by key, so that what stays is changed in place and neither blinks nor loses the focus. */
export class Rows {
  /** `make` gives a new row for an item: its `node`, and `update`, which shows an item in it. */
  constructor(parent, make) {
    this.parent = parent;
    this.make = make;
    this.rows = new Map();
  }

  /** Shows these items, in this order, and no others. */
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

/** A cell of a table; on narrow screens, where there is no head, its name stands beside it. */
export function cell(label, attributes = {}, ...children) {
  return el("td", { role: "cell", "data-label": label, ...attributes }, ...children);
}

let pending = [];

/** Says something to those who cannot see the page; what comes all at once is summed up. */
export function say(text) {
  pending.push(text);
  if (pending.length > 1) return;
  setTimeout(() => {
    const many = pending.length > 3 ? `${pending.length} changes; the newest: ${pending.at(-1)}` : pending.join(". ");
    set(byId("said"), many);
    pending = [];
  }, 300);
}
