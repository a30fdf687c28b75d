// Elements are made here, and text only ever becomes text: nothing in this console makes markup of a string.

/** An element. `on…` are listeners, `class` and others attributes; true is an empty attribute, false and null are none. */
export function el(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(key.slice(2), value);
    else if (key === "value") element.value = value;
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const say = (text) => {
  const place = document.getElementById("said");
  place.textContent = "";
  // A reader announces what changes; the same words twice would be none.
  requestAnimationFrame(() => { place.textContent = text; });
};

/** Tells a screen reader what others see. */
export { say };

/** A short word at the edge of the screen. `kind` is "good", "bad" or "info". */
export function notice(text, kind = "good") {
  const close = el("button", { type: "button", class: "quiet small", "aria-label": "Dismiss", onclick: () => box.remove() }, "×");
  const box = el("div", { class: `notice ${kind}` }, el("span", {}, text), close);
  document.getElementById("notices").append(box);
  setTimeout(() => box.remove(), kind === "good" ? 6000 : 15000);
}

const dates = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

/** A time as people read it, with the exact one in its title. */
export function time(text) {
  if (!text) return "–";
  const at = new Date(text);
  return Number.isNaN(at.getTime()) ? text : el("time", { datetime: text, title: text }, dates.format(at));
}

/** A name of a state, coloured by what it means. */
export function chip(text, kind = "") {
  return el("span", { class: `chip ${kind}` }, text);
}

const STATES = {
  fresh: "good", stale: "warn", lost: "bad", silent: "bad",
  active: "good", completed: "good", healthy: "good", enterprise: "accent", premium: "accent", basic: "accent", admin: "accent",
  in_progress: "info", starting: "info", trialing: "info", past_due: "warn", disabled: "bad", failed: "bad", expired: "bad", canceled: "bad",
};

/** A chip for a state of the platform. */
export const state = (name) => chip(String(name).replaceAll("_", " "), STATES[name] ?? "");

/** Names with values. */
export function facts(pairs) {
  return el("dl", { class: "facts" }, pairs.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value ?? "–"))));
}

/** Data as it came. */
export function raw(data, summary = "As answered") {
  const text = typeof data === "string" ? data : JSON.stringify(data, null, 2);
  return el("details", {}, el("summary", {}, summary), el("pre", { tabindex: "0" }, text));
}

/** A part of a page, with its heading. */
export function section(title, ...children) {
  const id = `s-${title.toLowerCase().replace(/[^a-z]+/g, "-")}`;
  return el("section", { class: "card", "aria-labelledby": id }, el("h2", { id }, title), ...children);
}

/** The head of a page. */
export function heading(title, intro, ...actions) {
  return el("header", { class: "head" },
    el("div", {}, el("h1", { tabindex: "-1" }, title), intro && el("p", { class: "muted" }, intro)),
    actions.length ? el("div", { class: "row" }, actions) : null);
}

/**
 * A table. `columns` are `{head, cell(row)}`. On narrow screens each row is a card, and the roles keep it a table for
 * those who do not see it.
 */
export function table(caption, columns, rows, empty = "There is nothing yet.") {
  if (rows.length === 0) return el("p", { class: "empty" }, empty);
  const cells = (row) => columns.map(({ head, cell }) => el("td", { role: "cell", "data-head": head }, el("div", {}, cell(row) ?? "–")));
  return el("table", { role: "table" },
    el("caption", {}, caption),
    el("thead", { role: "rowgroup" }, el("tr", { role: "row" },
      columns.map(({ head }) => el("th", { role: "columnheader", scope: "col" }, head)))),
    el("tbody", { role: "rowgroup" }, rows.map((row) => el("tr", { role: "row" }, cells(row)))));
}

/** Links to the page before and after. `link(page)` is the address of a page. */
export function pager(page, pages, total, link) {
  const to = (target, words, id) => (target >= 1 && target <= pages
    ? el("a", { class: "button quiet", href: link(target), id }, words)
    : el("span", {}));
  return el("nav", { class: "row pager", "aria-label": "Pages" },
    to(page - 1, "← Previous", "page-before"),
    el("span", {}, `Page ${page} of ${Math.max(pages, 1)} · ${total} in all`),
    to(page + 1, "Next →", "page-after"));
}

/** A window above the page. The browser keeps the focus in it and gives it back; Escape closes it. */
export function dialog(title, ...children) {
  const close = el("button", { type: "button", class: "quiet small", "aria-label": "Close", onclick: () => box.close() }, "×");
  const box = el("dialog", { "aria-labelledby": "dialog-title", onclose: () => box.remove() },
    el("div", { class: "head" }, el("h2", { id: "dialog-title" }, title), close), ...children);
  document.body.append(box);
  box.showModal();
  return box;
}

/** Asks before something that cannot be undone; `typed` has to be typed first where it is given. Gives true or false. */
export function confirm({ title, text, action, typed }) {
  return new Promise((decide) => {
    const input = typed && el("input", { id: "confirm-typed", autocomplete: "off", oninput: () => { go.disabled = input.value !== typed; } });
    const go = el("button", { type: "submit", class: "danger", disabled: Boolean(typed) }, action);
    const answer = (yes) => { decide(yes); box.close(); };
    const form = el("form", { onsubmit: (event) => { event.preventDefault(); answer(true); } },
      el("p", {}, text),
      typed && el("p", {}, el("label", { for: "confirm-typed" }, "Type ", el("strong", {}, typed), " to confirm"), input),
      el("div", { class: "row end" }, el("button", { type: "button", class: "quiet", onclick: () => answer(false) }, "Cancel"), go));
    const box = dialog(title, form);
    box.addEventListener("close", () => decide(false));
    (input || form.querySelector("button")).focus();
  });
}

/** A button for one act: busy while it runs, and what went wrong beside it. */
export function act(words, run, { kind = "quiet", label } = {}) {
  const button = el("button", { type: "button", class: kind, "aria-label": label, onclick: async () => {
    button.disabled = true;
    try { await run(); } catch (failure) { if (failure.name !== "AbortError") notice(failure.inWords ?? String(failure), "bad"); }
    button.disabled = false;
  } }, words);
  return button;
}

/** An id for what is made, random also where the page has no secure context. */
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
