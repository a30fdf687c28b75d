// Signing in, registering, and what comes by mail.

import { el, heading, notice } from "./dom.js";
import { form } from "./forms.js";
import { post } from "./api.js";
import { begin, session, changed } from "./session.js";

const email = { name: "email", label: "E-mail", type: "email", required: true, autocomplete: "username", inputmode: "email" };
const newPassword = {
  type: "password", required: true, autocomplete: "new-password", hint: "8 to 128 characters; none that everybody uses.",
};

const links = (...pairs) => el("p", { class: "row" }, pairs.map(([words, to]) => el("a", { href: `#${to}` }, words)));

/** Where to go after a sign-in. Only addresses of the console. */
function next(query, go) {
  const to = query.get("next") ?? "";
  go(to.startsWith("/") ? to : "/projects");
}

export function signIn({ query, go }) {
  if (session.user) { next(query, go); return []; }
  const enter = form({
    submit: "Sign in", busy: "Signing in …",
    fields: [email, { name: "password", label: "Password", type: "password", required: true, autocomplete: "current-password" }],
    run: async (values) => {
      begin(await post("/api/v1/auth/login", values, { open: true }));
      next(query, go);
    },
  });
  return [
    heading("Sign in", "The console of the AI Persona Platform."),
    el("section", { class: "card" }, enter, links(["Create an account", "/register"], ["Forgotten password", "/forgot-password"])),
  ];
}

export function register({ query, go }) {
  const enter = form({
    submit: "Create the account", busy: "Creating …", codes: { USER002: "email", USER003: "password" },
    fields: [
      email,
      { ...newPassword, name: "password", label: "Password" },
      { name: "client_id", label: "Client", value: "web", required: true, hint: "Which application the account belongs to." },
      { name: "first_name", label: "First name", autocomplete: "given-name" },
      { name: "last_name", label: "Last name", autocomplete: "family-name" },
      { name: "company", label: "Company", autocomplete: "organization" },
    ],
    run: async (values) => {
      const given = Object.fromEntries(Object.entries(values).filter(([, value]) => value !== ""));
      begin(await post("/api/v1/auth/register", given, { open: true }));
      notice("Welcome! A mail with a link to verify your address is on its way, where this platform sends mails.");
      next(query, go);
    },
  });
  return [heading("Create an account"), el("section", { class: "card" }, enter, links(["I have an account", "/sign-in"]))];
}

export function forgot({ go }) {
  const ask = form({
    submit: "Send me a link", fields: [email],
    run: async (values) => {
      const { message } = await post("/api/v1/auth/password/forgot", values, { open: true });
      notice(message, "info");
      go("/sign-in");
    },
  });
  return [
    heading("Forgotten password", "A mail with a link to a new password goes to your address, if there is an account with it."),
    el("section", { class: "card" }, ask, links(["Back to sign in", "/sign-in"])),
  ];
}

/** The token of a link, which does not stay in the address or the history. */
function tokenOf(query, path) {
  const token = query.get("token") ?? "";
  if (token) history.replaceState(null, "", `#${path}`);
  return token;
}

const token = (value) => ({
  name: "token", label: "Token of the mail", required: true, value, autocomplete: "off", hint: "From the link that was mailed to you.",
});

export function reset({ query, go }) {
  const given = tokenOf(query, "/reset-password");
  const change = form({
    submit: "Set the password", codes: { USER003: "new_password", AUTH003: "token" },
    fields: [token(given), { ...newPassword, name: "new_password", label: "New password" }],
    run: async (values) => {
      await post("/api/v1/auth/password/reset", values, { open: true });
      notice("The password is set, and all sessions have ended. Sign in with the new one.");
      go("/sign-in");
    },
  });
  return [heading("New password"), el("section", { class: "card" }, change, links(["Send another link", "/forgot-password"]))];
}

export function verify({ query, go }) {
  const given = tokenOf(query, "/verify-email");
  const send = form({
    submit: "Verify the address", codes: { AUTH003: "token" }, fields: [token(given)],
    run: async (values) => {
      await post("/api/v1/auth/email/verify", values, { open: true });
      notice("Your e-mail address is verified.");
      if (session.user) await changed();
      go(session.user ? "/account" : "/sign-in");
    },
  });
  return [heading("Verify your address"), el("section", { class: "card" }, send)];
}
