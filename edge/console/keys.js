// API keys, with which machines act for the account. The key itself is told once.

import { el, heading, section, table, time, chip, dialog, confirm, act, notice } from "./dom.js";
import { form } from "./forms.js";
import { get, post, remove, part } from "./api.js";
import { session } from "./session.js";

const PATH = "/api/v1/user/api-keys";
const DAYS = [["30", "30 days"], ["90", "90 days"], ["365", "a year"]];
const DAY = 86_400_000;

export async function keys({ signal, again }) {
  const { api_keys: list } = await get(PATH, { signal });
  return [
    heading("API keys", "For machines that act for you. A key goes where an access token goes.",
      act("New key", () => create(again), { kind: "primary" })),
    section("Your keys", keysTable(PATH, list, again, "You have no key.")),
  ];
}

/** The keys of an account, which are ended at `path`. */
export function keysTable(path, list, again, empty) {
  const columns = [
    { head: "Name", cell: (key) => el("strong", {}, key.name) },
    { head: "Begins with", cell: (key) => el("code", {}, `${key.start}…`) },
    { head: "May", cell: (key) => (key.permissions.length ? el("span", { class: "chips" }, key.permissions.map((name) => chip(name))) : "what every user may") },
    { head: "Last used", cell: (key) => time(key.last_used_at) },
    { head: "Until", cell: (key) => time(key.expires_at) },
    { head: "Actions", cell: (key) => act("End", () => end(path, key, again), { kind: "bad small", label: `End ${key.name}` }) },
  ];
  return table("Newest first", columns, list, empty);
}

function create(again) {
  const held = session.user.permissions;
  const box = dialog("New key", form({
    submit: "Make the key", busy: "Making …",
    fields: [
      { name: "name", label: "Name", required: true, autocomplete: "off", hint: "What it is for." },
      { name: "permissions", label: "Permissions", autocomplete: "off",
        hint: held.length ? `Beyond what every user may, with spaces between; you hold ${held.join(" ")}.` : "You hold none that a key could have." },
      { name: "days", label: "Good for", options: DAYS, value: "90" },
    ],
    run: async ({ name, permissions, days }) => {
      const expires = new Date(Date.now() + Number(days) * DAY - 60_000).toISOString();
      const made = await post(PATH, { name, permissions: permissions.split(/\s+/).filter(Boolean), expires_at: expires });
      box.close();
      await again();
      tell(made.key);
    },
  }));
}

/** Shown this once: nobody can read it again. */
function tell(key) {
  const copy = act("Copy", async () => {
    await navigator.clipboard.writeText(key);
    notice("The key is copied.");
  });
  dialog("Your new key", el("div", { class: "field" },
    el("p", {}, "Keep it now: it is not shown again."), el("pre", { tabindex: "0", id: "new-key" }, key),
    navigator.clipboard ? el("div", {}, copy) : null));
}

async function end(path, key, again) {
  const sure = await confirm({ title: `End ${key.name}?`, text: "Whatever uses it is refused within a second.", action: "End it" });
  if (!sure) return;
  await remove(`${path}/${part(key.id)}`);
  await again();
  notice("The key has ended.");
}
