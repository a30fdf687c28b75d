// Everybody's accounts and the audit log, for administrators.

import { el, heading, section, table, pager, time, state, chip, facts, raw } from "./dom.js";
import { form } from "./forms.js";
import { get, withQuery, part } from "./api.js";

export const ROLES = ["user", "moderator", "admin"];
export const TIERS = ["free", "basic", "premium", "enterprise"];
const ANY = ["", "any"];

const FILTERS = [
  { name: "email", label: "E-mail has", type: "search" },
  { name: "client_id", label: "Client" },
  { name: "role", label: "Role", options: [ANY, ...ROLES] },
  { name: "tier", label: "Plan", options: [ANY, ...TIERS] },
  { name: "is_active", label: "Active", options: [ANY, ["true", "yes"], ["false", "no"]] },
  { name: "sort_by", label: "Sort by", options: [
    ["created_at", "created"], ["updated_at", "changed"], ["last_login_at", "last sign-in"], "email", "role", ["tier", "plan"], ["client_id", "client"]] },
  { name: "sort_order", label: "Order", options: [["desc", "descending"], ["asc", "ascending"]] },
  { name: "page_size", label: "Rows", options: ["20", "50", "100"] },
];

/** Filters as a form whose values are the address, so that Back undoes them. */
export function filters(path, fields, query, go) {
  const filled = fields.map((field) => ({ ...field, value: query.get(field.name) ?? field.value ?? (field.options ? [field.options[0]].flat()[0] : "") }));
  return form({
    fields: filled, submit: "Show", inline: true, kind: "",
    run: async (values) => go(withQuery(path, values)),
    extra: [el("a", { href: `#${path}` }, "All")],
  });
}

export async function users({ query, signal, go }) {
  const asked = Object.fromEntries(query);
  const page = await get(withQuery("/api/v1/admin/users", asked), { signal });
  const columns = [
    { head: "E-mail", cell: (user) => el("a", { href: `#/admin/users/${part(user.id)}` }, user.email) },
    { head: "Name", cell: ({ profile }) => [profile.first_name, profile.last_name].filter(Boolean).join(" ") || null },
    { head: "Role", cell: (user) => state(user.role) },
    { head: "Plan", cell: (user) => state(user.subscription_tier) },
    { head: "Client", cell: (user) => user.client_id },
    { head: "State", cell: (user) => el("span", { class: "chips" }, state(user.is_active ? "active" : "disabled"), user.email_verified ? null : chip("unverified", "warn")) },
    { head: "Created", cell: (user) => time(user.created_at) },
  ];
  const link = (to) => `#${withQuery("/admin/users", { ...asked, page: to })}`;
  return [
    heading("Users", null, el("a", { class: "button quiet", href: "#/admin/transfer" }, "Import and export")),
    section("Search", filters("/admin/users", FILTERS, query, go)),
    section("Found", table(`${page.total_count} accounts`, columns, page.users, "No account is like that."),
      pager(page.page, page.total_pages, page.total_count, link)),
  ];
}

const LIMIT = 20;

/** The audit log of an account, going on as far as is asked. */
export function auditOf(id, signal) {
  const list = el("div", { class: "field" });
  const more = el("button", { type: "button", class: "quiet", onclick: () => next() }, "Older entries");
  const entries = [];
  let cursor = "";
  const next = async () => {
    const answer = await get(withQuery(`/api/v1/admin/users/${part(id)}/audit`, { limit: LIMIT, cursor }), { signal });
    entries.push(...answer.entries);
    cursor = answer.next_cursor ?? "";
    more.hidden = cursor === "";
    list.replaceChildren(table(`${entries.length} entries`, COLUMNS, entries, "Nothing is in the log."));
  };
  return next().then(() => el("div", { class: "field" }, list, el("div", {}, more)));
}

const COLUMNS = [
  { head: "When", cell: (entry) => time(entry.at) },
  { head: "What", cell: (entry) => el("code", {}, entry.action) },
  { head: "Who", cell: (entry) => who(entry.actor_id) },
  { head: "Whom", cell: (entry) => who(entry.target_id) },
  { head: "From", cell: (entry) => entry.ip_address || null },
  { head: "More", cell: (entry) => raw({ request_id: entry.request_id, ...entry.details }, "Show") },
];

const who = (id) => (id ? el("a", { href: `#/admin/users/${part(id)}`, title: id }, el("code", {}, `…${id.slice(-8)}`)) : el("span", { class: "muted" }, "system"));

/** The log is kept per account: first the account is found, by its id or a part of its e-mail. */
export async function audits({ query, signal, go }) {
  const wanted = query.get("of") ?? "";
  const search = filters("/admin/audit", [{ name: "of", label: "Account: its id, or a part of its e-mail", type: "search" }], query, go);
  const parts = [heading("Audit", "Who did what, account by account."), section("Account", search)];
  if (!wanted) return parts;
  const isId = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(wanted);
  const found = isId ? [{ id: wanted, email: wanted }] : (await get(withQuery("/api/v1/admin/users", { email: wanted, page_size: 20, sort_by: "email", sort_order: "asc" }), { signal })).users;
  if (found.length === 1) {
    const [{ id, email }] = found;
    return [...parts, section("Log", facts([["Account", el("a", { href: `#/admin/users/${part(id)}` }, email)]]), await auditOf(id, signal))];
  }
  const columns = [{ head: "E-mail", cell: (user) => el("a", { href: `#${withQuery("/admin/audit", { of: user.id })}` }, user.email) }, { head: "Client", cell: (user) => user.client_id }];
  return [...parts, section("Which one?", table("The first twenty", columns, found, "No account is like that."))];
}
