// Everybody's accounts, for administrators.

import { el, heading, section, table, pager, time, state, chip } from "./dom.js";
import { form } from "./forms.js";
import { get, withQuery, part } from "./api.js";
import { bulk } from "./bulk.js";

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

export async function users({ query, signal, go, again }) {
  const asked = Object.fromEntries(query);
  const page = await get(withQuery("/api/v1/admin/users", asked), { signal });
  const many = bulk(page.users, TIERS, again);
  const columns = [
    { head: "E-mail", cell: (user) => [many.choose(user), " ", el("a", { href: `#/admin/users/${part(user.id)}` }, user.email)] },
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
    page.users.length ? many.part : null,
  ].filter(Boolean);
}
