// Forms: labels, hints, faults beside their inputs, one submission at a time, and an id under which a repeated one is the same.

import { el, say, newId } from "./dom.js";

/** Runs `each` with the seconds that are left, now and every second, down to nought. */
function countDown(seconds, each) {
  const end = Date.now() + seconds * 1000;
  const step = () => {
    const left = Math.max(0, Math.ceil((end - Date.now()) / 1000));
    each(left);
    if (left > 0) setTimeout(step, 250);
  };
  step();
}

/** What went wrong, with all that helps to find out why. `again` is offered where trying again can help. */
export function problem(failure, again) {
  const wait = el("span", { role: "timer" });
  const retry = again && el("button", { type: "button", onclick: () => again() }, "Try again");
  if (failure.retryAfter > 0) {
    countDown(failure.retryAfter, (left) => {
      wait.textContent = left > 0 ? `Try again in ${left} s.` : "You can try again now.";
      if (retry) retry.disabled = left > 0;
    });
  }
  const fields = Object.entries(failure.fields ?? {}).map(([name, fault]) => el("li", {}, el("code", {}, name), ` ${fault}`));
  const ids = [failure.code, failure.status ? `HTTP ${failure.status}` : null].filter(Boolean).join(" · ");
  return el("div", { class: "problem", role: "alert" },
    el("p", {}, el("strong", {}, failure.plain ?? failure.message ?? String(failure))),
    fields.length ? el("ul", {}, fields) : null,
    typeof failure.body === "string" && failure.body && !failure.code ? el("pre", { tabindex: "0" }, failure.body.slice(0, 2000)) : null,
    failure.body && !failure.code && typeof failure.body === "object" ? el("pre", { tabindex: "0" }, JSON.stringify(failure.body, null, 2)) : null,
    el("p", { class: "muted" }, ids, failure.requestId ? [ids ? " · " : "", "request ", el("code", {}, failure.requestId)] : null, " ", wait),
    retry);
}

function inputOf(field, id) {
  const { name, type = "text", value = "", options, rows, ...others } = field;
  const common = { id, name, "aria-describedby": `${id}-hint ${id}-fault`, ...pick(others) };
  if (options) {
    const select = el("select", common, options.map((option) => {
      const [key, words] = Array.isArray(option) ? option : [option, option];
      return el("option", { value: key }, words);
    }));
    // Without a value the first one stands there.
    if ([...select.options].some((option) => option.value === value)) select.value = value;
    return select;
  }
  if (rows) return el("textarea", { ...common, rows, value: value ?? "", spellcheck: type === "json" ? "false" : null });
  if (type === "checkbox") {
    const box = el("input", { ...common, type });
    box.checked = Boolean(value);
    return box;
  }
  return el("input", { ...common, type, value: type === "file" ? null : value ?? "" });
}

const pick = ({ required, autocomplete, placeholder, maxlength, minlength, min, max, accept, inputmode, readonly, list }) => ({
  required, autocomplete, placeholder, maxlength, minlength, min, max, accept, inputmode, readonly, list,
});

/** `of` is the form: the same input has the same id when its page is drawn again, so that it keeps the focus. */
function fieldOf(field, of) {
  const id = `${of}-${field.name}`;
  const input = inputOf(field, id);
  const fault = el("span", { class: "fault", id: `${id}-fault` });
  const hint = el("span", { class: "hint", id: `${id}-hint` }, field.hint ?? "");
  const label = el("label", { for: id }, field.label, field.required ? el("span", { class: "muted" }, " (required)") : null);
  const isBox = field.type === "checkbox";
  const node = el("div", { class: isBox ? "field box" : "field" }, isBox ? [input, label] : [label, input], hint, fault);
  const setFault = (text) => {
    fault.textContent = text;
    if (text) input.setAttribute("aria-invalid", "true"); else input.removeAttribute("aria-invalid");
  };
  input.addEventListener("input", () => setFault(""));
  return { ...field, node, input, setFault };
}

/** The value of an input as JSON bodies have it. */
function valueOf({ type, input }) {
  if (type === "checkbox") return input.checked;
  if (type === "file") return input.files[0] ?? null;
  return input.value;
}

function ownFault(field) {
  const { input, label, type } = field;
  if (type === "json" && input.value.trim() !== "") {
    try {
      const value = JSON.parse(input.value);
      if (typeof value !== "object" || value === null || Array.isArray(value)) return "must be a JSON object";
    } catch (error) { return `is not JSON: ${error.message}`; }
  }
  if (field.same && input.value !== field.same()) return "is not the same";
  if (input.validity.valid) return "";
  return input.validity.valueMissing ? `${label} is required` : input.validationMessage;
}

/**
 * A form. `run(values, key)` submits it; `key` is the same as long as the values are, for `Idempotency-Key`. `codes` says
 * beside which input an error with no field stands.
 */
export function form({ fields, submit, run, codes = {}, kind = "primary", inline = false, extra = [], busy = "…" }) {
  const of = submit.toLowerCase().replace(/[^a-z]+/g, "-");
  const all = fields.map((field) => fieldOf(field, of));
  const trouble = el("div", { "aria-live": "assertive" });
  const button = el("button", { type: "submit", class: kind, id: `${of}-submit` }, submit);
  let isBusy = false;
  // Not `disabled`, which would take the focus away.
  const be = (busyNow) => {
    isBusy = busyNow;
    button.setAttribute("aria-disabled", String(busyNow));
    button.textContent = busyNow ? busy : submit;
  };
  let last = { text: "", key: "" };
  const keyFor = (text) => {
    if (text !== last.text) last = { text, key: newId() };
    return last.key;
  };
  const show = (failure) => {
    const names = new Map(Object.entries(failure.fields ?? {}));
    if (codes[failure.code]) names.set(codes[failure.code], failure.plain ?? failure.message);
    let first = null;
    for (const field of all) {
      const fault = names.get(field.name);
      if (fault === undefined) continue;
      field.setFault(fault);
      first ??= field;
    }
    trouble.replaceChildren(problem(failure));
    if (failure.retryAfter > 0) countDown(failure.retryAfter, (left) => { button.disabled = left > 0; });
    (first?.input ?? button).focus();
  };
  const check = () => {
    let first = null;
    for (const field of all) {
      const fault = ownFault(field);
      field.setFault(fault);
      if (fault) first ??= field;
    }
    first?.input.focus();
    if (first) say(`Please look at ${first.label}.`);
    return first === null;
  };
  const node = el("form", { novalidate: true, class: inline ? "inline" : "", onsubmit: async (event) => {
    event.preventDefault();
    if (isBusy || button.disabled) return;
    trouble.replaceChildren();
    if (!check()) return;
    const values = Object.fromEntries(all.map((field) => [field.name, valueOf(field)]));
    be(true);
    try {
      await run(values, keyFor(JSON.stringify(values)));
      last = { text: "", key: "" };
      be(false);
    } catch (failure) {
      be(false);
      if (failure.name !== "AbortError") show(failure);
    }
  } }, all.map(({ node: field }) => field), el("div", { class: "row" }, button, ...extra), trouble);
  node.inputs = Object.fromEntries(all.map(({ name, input }) => [name, input]));
  return node;
}
