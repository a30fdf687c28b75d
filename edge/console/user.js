// One account, for administrators. Each part is asked for by itself: what is away leaves out its part and not the page.

import { el, heading, section, facts, time, state, chip, table, confirm, act, notice } from "./dom.js";
import { form, problem } from "./forms.js";
import { get, post, put, remove, part } from "./api.js";
import { session } from "./session.js";
import { sessionsTable } from "./account.js";
import { keysTable } from "./keys.js";
import { ROLES, TIERS } from "./users.js";
import { auditOf } from "./audit.js";

const KNOWN = ["personas.create", "personas.delete", "projects.manage", "admin.users", "admin.subscriptions", "*"];
const count = (number) => (number === null || number === undefined ? el("span", { class: "muted" }, "not known now") : String(number));

export async function user(page) {
  const { parameters, signal, go, again } = page;
  const path = `/api/v1/admin/users/${part(parameters.id)}`;
  const { user: who, stats } = await get(path, { signal });
  const isSelf = who.id === session.user.id;
  const marks = [state(who.role), state(who.subscription_tier), state(who.is_active ? "active" : "disabled"),
    who.email_verified ? chip("verified", "good") : chip("unverified", "warn"), isSelf ? chip("you", "info") : null];
  return [
    el("p", {}, el("a", { href: "#/admin/users" }, "← Users")),
    heading(who.email, null, el("span", { class: "chips" }, marks)),
    el("div", { class: "two" },
      section("Change", changeForm(path, who, again)),
      section("About", about(who, stats))),
    el("div", { class: "two" },
      section("Permissions", permissions(path, who, again)),
      section("Password", passwordForm(path))),
    await partOf("Open sessions", signal, async () => sessionsPart(path, await get(`${path}/sessions`, { signal }), again)),
    await partOf("API keys", signal, async () => keysPart(`${path}/api-keys`, signal, again)),
    await partOf("Usage by day", signal, async () => usage(await get(`${path}/usage`, { signal }))),
    await partOf("Audit", signal, () => auditOf(who.id, signal)),
    section("Delete the account", el("p", {}, isSelf
      ? "Nobody deletes the own account here." : "Projects, sessions and the subscription go with it. This cannot be undone."),
    isSelf ? null : el("div", {}, act("Delete this account …", () => deleteUser(path, who, go), { kind: "bad" }))),
  ];
}

async function partOf(title, signal, make) {
  try {
    return section(title, await make());
  } catch (failure) {
    if (signal.aborted || failure.name === "AbortError") throw failure;
    return section(title, problem(failure));
  }
}

function about(who, stats) {
  const { first_name: first, last_name: last, company, phone } = who.profile;
  return facts([
    ["Id", el("code", {}, who.id)], ["Name", [first, last].filter(Boolean).join(" ") || "–"], ["Company", company ?? "–"], ["Phone", phone ?? "–"],
    ["Client", who.client_id], ["Created", time(who.created_at)], ["Changed", time(who.updated_at)], ["Last sign-in", time(stats.last_login_at)],
    ["Projects", count(stats.projects_count)], ["Personas", count(stats.personas_count)], ["Content", count(stats.content_count)],
    ["Open sessions", count(stats.active_sessions)], ["Failed sign-ins", count(stats.failed_sign_ins)],
  ]);
}

/** Sends what was changed and nothing else: a value that somebody else has set meanwhile stays. */
function changeForm(path, who, again) {
  const before = { role: who.role, subscription_tier: who.subscription_tier, is_active: who.is_active, email_verified: who.email_verified };
  return form({
    submit: "Save", busy: "Saving …", codes: { USER004: "role" },
    fields: [
      { name: "role", label: "Role", options: ROLES, value: before.role },
      { name: "subscription_tier", label: "Plan", options: TIERS, value: before.subscription_tier },
      { name: "is_active", label: "Active", type: "checkbox", value: before.is_active, hint: "Who is not active is signed out everywhere, at once." },
      { name: "email_verified", label: "The e-mail address is verified", type: "checkbox", value: before.email_verified },
    ],
    run: async (values) => {
      const changes = Object.fromEntries(Object.entries(values).filter(([name, value]) => value !== before[name]));
      if (Object.keys(changes).length === 0) return notice("Nothing was changed.", "info");
      await put(path, changes);
      await again();
      notice("Saved. It counts from the next request on.");
    },
  });
}

function permissions(path, who, again) {
  const takeAway = (name) => act("Take away", async () => {
    await remove(`${path}/permissions/${part(name)}`);
    await again();
    notice(`${name} is taken away.`);
  }, { kind: "bad small", label: `Take away ${name}` });
  const columns = [{ head: "Name", cell: (name) => el("code", {}, name) }, { head: "Actions", cell: takeAway }];
  const known = el("datalist", { id: "known-permissions" }, KNOWN.filter((name) => !who.permissions.includes(name)).map((name) => el("option", { value: name })));
  return [
    table("Held by the account", columns, who.permissions, "The account holds none."),
    known,
    form({
      submit: "Grant", inline: true, kind: "", fields: [{ name: "permission_name", label: "Permission", required: true, autocomplete: "off", list: "known-permissions" }],
      run: async (values) => {
        await post(`${path}/permissions`, values);
        await again();
        notice(`${values.permission_name} is granted.`);
      },
    }),
  ];
}

function passwordForm(path) {
  const set = form({
    submit: "Set the password", codes: { USER003: "new_password" },
    fields: [{ name: "new_password", label: "New password", type: "password", required: true, autocomplete: "new-password", hint: "All sessions and API keys of the account end." }],
    run: async (values) => {
      notice((await post(`${path}/password`, values)).message);
      set.reset();
    },
  });
  return set;
}

function sessionsPart(path, { sessions }, again) {
  const end = act("End all sessions", async () => {
    const sure = await confirm({ title: "End all sessions?", text: "The account is signed out everywhere, at once.", action: "End them" });
    if (!sure) return;
    await remove(`${path}/sessions`);
    await again();
    notice("All sessions have ended.");
  }, { kind: "bad" });
  return el("div", { class: "field" }, sessionsTable(sessions), sessions.length ? el("div", {}, end) : null);
}

async function keysPart(path, signal, again) {
  const { api_keys: list } = await get(path, { signal });
  return keysTable(path, list, again, "The account has no key.");
}

function usage({ days }) {
  const columns = [
    { head: "Day", cell: (day) => day.date }, { head: "Personas", cell: (day) => String(day.personas) },
    { head: "Projects", cell: (day) => String(day.projects) }, { head: "Content", cell: (day) => String(day.content) },
  ];
  const last = [...days].reverse();
  return el("div", { class: "field" },
    table("The last seven days", columns, last.slice(0, 7), "Nothing is counted yet."),
    last.length > 7 ? el("details", {}, el("summary", {}, `${last.length - 7} days before`), table("Before", columns, last.slice(7))) : null);
}

async function deleteUser(path, who, go) {
  const sure = await confirm({
    title: "Delete this account?", text: "All that is the account's is deleted, now and for good.", action: "Delete for good", typed: who.email,
  });
  if (!sure) return;
  await remove(path);
  notice(`${who.email} is deleted.`);
  go("/admin/users");
}
