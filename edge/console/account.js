// The own account: profile, password, sessions.

import { el, heading, section, facts, time, chip, state, table, confirm, act, notice } from "./dom.js";
import { form } from "./forms.js";
import { get, post, put, remove, part } from "./api.js";
import { session, ended } from "./session.js";

export async function account({ signal }) {
  const user = await get("/api/v1/user/profile", { signal });
  return [heading("Profile", user.email), el("div", { class: "two" },
    section("About you", profileForm(user)),
    section("Account", accountFacts(user), resend(user)),
    section("Password", passwordForm()),
    section("Delete the account", el("p", {}, "Your projects, sessions and subscription go with it. This cannot be undone."),
      el("div", {}, act("Delete my account …", () => deleteAccount(user), { kind: "bad" }))))];
}

function accountFacts(user) {
  return facts([
    ["Id", el("code", {}, user.id)], ["Role", state(user.role)], ["Plan", state(user.subscription_tier)], ["Client", user.client_id],
    ["Address", user.email_verified ? chip("verified", "good") : chip("not verified", "warn")],
    ["Permissions", user.permissions.length ? el("span", { class: "chips" }, user.permissions.map((name) => chip(name))) : "none"],
    ["Created", time(user.created_at)], ["Last sign-in", time(user.last_login_at)],
  ]);
}

function resend(user) {
  if (user.email_verified) return null;
  return el("div", { class: "row" },
    act("Send the link again", async () => notice((await post("/api/v1/auth/email/resend")).message, "info")),
    el("a", { href: "#/verify-email" }, "I have a token"));
}

function profileForm({ profile }) {
  return form({
    submit: "Save", busy: "Saving …",
    fields: [
      { name: "first_name", label: "First name", value: profile.first_name, autocomplete: "given-name" },
      { name: "last_name", label: "Last name", value: profile.last_name, autocomplete: "family-name" },
      { name: "company", label: "Company", value: profile.company, autocomplete: "organization" },
      { name: "phone", label: "Phone", value: profile.phone, type: "tel", autocomplete: "tel" },
      { name: "avatar_url", label: "Address of a picture", value: profile.avatar_url, inputmode: "url" },
      { name: "preferences", label: "Preferences", value: JSON.stringify(profile.preferences, null, 2), type: "json", rows: 4, hint: "A JSON object, for applications." },
    ],
    run: async ({ preferences, ...values }) => {
      await put("/api/v1/user/profile", { ...values, preferences: JSON.parse(preferences.trim() || "{}") });
      notice("Saved.");
    },
  });
}

function passwordForm() {
  const change = form({
    submit: "Change the password", codes: { AUTH001: "current_password", USER003: "new_password" },
    fields: [
      { name: "current_password", label: "Current password", type: "password", required: true, autocomplete: "current-password" },
      { name: "new_password", label: "New password", type: "password", required: true, autocomplete: "new-password", hint: "Your other sessions end." },
    ],
    run: async (values) => {
      const { message } = await post("/api/v1/user/password", values);
      notice(message);
      change.reset();
    },
  });
  return change;
}

async function deleteAccount(user) {
  const sure = await confirm({
    title: "Delete your account?", text: "All that is yours here is deleted, now and for good.", action: "Delete for good", typed: user.email,
  });
  if (!sure) return;
  await remove("/api/v1/user/delete");
  ended("Your account is deleted.");
}

/** A list of sessions, shared with the page of a user. */
export function sessionsTable(list, actions) {
  const columns = [
    { head: "Device", cell: (each) => el("span", {}, each.user_agent || "unknown", " ", each.current ? chip("this one", "good") : null) },
    { head: "Address", cell: (each) => each.ip_address },
    { head: "Signed in", cell: (each) => time(each.created_at) },
    { head: "Last seen", cell: (each) => time(each.last_seen_at) },
    { head: "Until", cell: (each) => time(each.expires_at) },
  ];
  if (actions) columns.push({ head: "Actions", cell: actions });
  return table(`${list.length} open`, columns, list, "No session is open.");
}

export async function sessions({ signal, again }) {
  const { sessions: list } = await get("/api/v1/auth/sessions", { signal });
  const end = (each) => act(each.current ? "Sign out" : "End", async () => {
    await remove(`/api/v1/auth/sessions/${part(each.id)}`);
    if (each.current) return ended("You are signed out.");
    await again();
    notice("The session has ended.");
  }, { kind: "quiet small", label: each.current ? "Sign out here" : `End the session of ${each.user_agent || "an unknown device"}` });
  const endOthers = act("End all others", async () => {
    const sure = await confirm({ title: "End all other sessions?", text: "Every other device has to sign in again.", action: "End them" });
    if (!sure) return;
    await remove("/api/v1/auth/sessions");
    await again();
    notice("All other sessions have ended.");
  });
  if (list.length < 2) endOthers.disabled = true;
  return [
    heading("Sessions", `Where ${session.user.email} is signed in. What ends here ends at once, everywhere.`, endOthers),
    section("Open sessions", sessionsTable(list, end)),
  ];
}
