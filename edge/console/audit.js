// The audit log, for administrators: of one account, and of all.

import { act, el, heading, section, table, time, facts, raw } from "./dom.js";
import { get, withQuery, part } from "./api.js";
import { filters } from "./users.js";

const LIMIT = 20;
const ID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

/** What the log keeps; a test compares them with the platform's. */
const ACTIONS = ["registered", "logged_in", "session_ended", "password_changed", "account_deleted", "administrator_made", "tier_changed",
  "account_updated", "account_imported", "permission_granted", "permission_revoked", "password_set", "sessions_ended", "tier_change_approved",
  "subscription_change_approved", "users_exported", "key_rotated", "mail_sent", "email_verified", "password_reset", "api_key_created", "api_key_revoked"];

const FILTERS = [
  { name: "of", label: "Account: its id, or a part of its e-mail", type: "search" },
  { name: "as", label: "As", options: [["user_id", "either way"], ["actor_id", "who did it"], ["target_id", "whom it was done to"]] },
  { name: "action", label: "What", options: [["", "anything"], ...ACTIONS] },
  { name: "from", label: "From (UTC)", type: "date" },
  { name: "to", label: "Until the end of (UTC)", type: "date" },
];

const who = (id) => (id ? el("a", { href: `#/admin/users/${part(id)}`, title: id }, el("code", {}, `…${id.slice(-8)}`)) : el("span", { class: "muted" }, "system"));

const COLUMNS = [
  { head: "When", cell: (entry) => time(entry.at) },
  { head: "What", cell: (entry) => el("code", {}, entry.action) },
  { head: "Who", cell: (entry) => who(entry.actor_id) },
  { head: "Whom", cell: (entry) => who(entry.target_id) },
  { head: "From", cell: (entry) => entry.ip_address || null },
  { head: "More", cell: (entry) => raw({ request_id: entry.request_id, ...entry.details }, "Show") },
];

/** A log, going on as far as is asked. */
async function log(path, asked, signal) {
  const list = el("div", { class: "field" });
  const more = act("Older entries", () => next());
  const entries = [];
  let cursor = "";
  const next = async () => {
    const answer = await get(withQuery(path, { ...asked, limit: LIMIT, cursor }), { signal });
    entries.push(...answer.entries);
    cursor = answer.next_cursor ?? "";
    more.hidden = cursor === "";
    list.replaceChildren(table(`${entries.length} entries`, COLUMNS, entries, "Nothing is in the log."));
  };
  await next();
  return el("div", { class: "field" }, list, el("div", {}, more));
}

/** The audit log of an account. */
export const auditOf = (id, signal) => log(`/api/v1/admin/users/${part(id)}/audit`, {}, signal);

/** The beginning of a day, so many days later. */
function day(text, later = 0) {
  const at = new Date(`${text}T00:00:00Z`);
  if (Number.isNaN(at.getTime())) return "";
  at.setUTCDate(at.getUTCDate() + later);
  return at.toISOString();
}

/** The account that is meant: `{id, email}`, several of them, or none. */
async function meant(text, signal) {
  if (ID.test(text)) return [{ id: text, email: text }];
  const asked = { email: text, page_size: 20, sort_by: "email", sort_order: "asc" };
  return (await get(withQuery("/api/v1/admin/users", asked), { signal })).users;
}

export async function audits({ query, signal, go }) {
  const { of = "", as: asked_as = "user_id", action, from, to } = Object.fromEntries(query);
  // Another name would be a filter that nobody knows, and all accounts under the name of one.
  const as = ["user_id", "actor_id", "target_id"].includes(asked_as) ? asked_as : "user_id";
  const parts = [heading("Audit", "Who did what to whom, newest first."), section("Search", filters("/admin/audit", FILTERS, query, go))];
  let account = null;
  const asked = { action, from: day(from), until: day(to, 1) };
  if (of) {
    const found = await meant(of, signal);
    if (found.length !== 1) {
      const link = (id) => `#${withQuery("/admin/audit", { ...Object.fromEntries(query), of: id })}`;
      const columns = [{ head: "E-mail", cell: (user) => el("a", { href: link(user.id) }, user.email) }, { head: "Client", cell: (user) => user.client_id }];
      return [...parts, section("Which one?", table("The first twenty", columns, found, "No account is like that."))];
    }
    const [{ id, email }] = found;
    asked[as] = id;
    account = facts([["Account", el("a", { href: `#/admin/users/${part(id)}` }, email)]]);
  }
  return [...parts, section("Log", account, await log("/api/v1/admin/audit", asked, signal))];
}
