// Everybody's subscriptions, for administrators.

import { el, heading, section, table, pager, time, state, dialog, act, notice } from "./dom.js";
import { form } from "./forms.js";
import { get, post, put, withQuery, part } from "./api.js";
import { filters, TIERS } from "./users.js";

const PATH = "/api/v1/admin/subscriptions";
const STATES = ["active", "trialing", "past_due", "canceled", "expired"];
const FILTERS = [
  { name: "tier", label: "Plan", options: [["", "any"], ...TIERS] },
  { name: "status", label: "State", options: [["", "any"], ...STATES] },
  { name: "page_size", label: "Rows", options: ["20", "50", "100"] },
];

export async function subscriptions({ query, signal, go, again }) {
  const asked = Object.fromEntries(query);
  const page = await get(withQuery(PATH, asked), { signal });
  const columns = [
    { head: "Account", cell: (each) => el("a", { href: `#/admin/users/${part(each.user_id)}`, title: each.user_id }, el("code", {}, `…${each.user_id.slice(-12)}`)) },
    { head: "Plan", cell: (each) => state(each.tier) },
    { head: "State", cell: (each) => state(each.status) },
    { head: "Since", cell: (each) => time(each.start_date) },
    { head: "Ends", cell: (each) => time(each.end_date ?? each.trial_ends_at) },
    { head: "Paid with", cell: (each) => each.payment_method },
    { head: "Actions", cell: (each) => act("Change", () => change(each, again), { kind: "quiet small", label: `Change the subscription of ${each.user_id}` }) },
  ];
  const link = (to) => `#${withQuery("/admin/subscriptions", { ...asked, page: to })}`;
  return [
    heading("Subscriptions", null, act("New subscription", () => create(again), { kind: "primary" })),
    section("Search", filters("/admin/subscriptions", FILTERS, query, go)),
    section("Found", table(`${page.total_count} subscriptions`, columns, page.subscriptions, "No subscription is like that."),
      pager(page.page, page.total_pages, page.total_count, link)),
  ];
}

function change(before, again) {
  const box = dialog("Change the subscription", form({
    submit: "Save", busy: "Saving …",
    fields: [
      { name: "tier", label: "Plan", options: TIERS, value: before.tier },
      { name: "status", label: "State", options: STATES, value: before.status, hint: "Cancelled or expired also ends payments." },
    ],
    run: async (values) => {
      const changes = Object.fromEntries(Object.entries(values).filter(([name, value]) => value !== before[name]));
      if (Object.keys(changes).length > 0) await put(`${PATH}/${part(before.user_id)}`, changes);
      box.close();
      await again();
      notice("Saved. It counts within a second.");
    },
  }));
}

function create(again) {
  const box = dialog("New subscription", form({
    submit: "Create", busy: "Creating …", codes: { USER001: "user_id" },
    fields: [
      { name: "user_id", label: "Account", required: true, autocomplete: "off", hint: "The id of the account." },
      { name: "tier", label: "Plan", options: TIERS, value: "basic" },
      { name: "trial_days", label: "Days of trial", type: "number", min: "0", inputmode: "numeric" },
    ],
    run: async ({ user_id: user, tier, trial_days: days }, key) => {
      await post(PATH, { user_id: user.trim(), tier, ...(days ? { trial_days: Number(days) } : {}) }, { key });
      box.close();
      await again();
      notice("The subscription is there.");
    },
  }));
}
