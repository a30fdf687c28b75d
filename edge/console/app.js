// The shell: which page an address is, who may see it, and what surrounds it.

import { el, notice, say, chip } from "./dom.js";
import { problem } from "./forms.js";
import { session, news, resume, leave, isKept, changed } from "./session.js";
import { signIn, register, forgot, reset, verify } from "./sign-in.js";
import { account, sessions } from "./account.js";
import { keys } from "./keys.js";
import { projects } from "./projects.js";
import { personas } from "./personas.js";
import { workflows } from "./workflows.js";
import { plan } from "./plan.js";
import { users } from "./users.js";
import { audits } from "./audit.js";
import { edges } from "./edges.js";
import { user } from "./user.js";
import { transfer } from "./transfer.js";
import { subscriptions } from "./subscriptions.js";
import { platform } from "./platform.js";

/** The pages. `for` is who sees one: "anybody", "user" or "admin"; those with a `group` are in the navigation. */
const PAGES = [
  { path: "/sign-in", title: "Sign in", page: signIn, for: "anybody" },
  { path: "/register", title: "Create an account", page: register, for: "anybody" },
  { path: "/forgot-password", title: "Forgotten password", page: forgot, for: "anybody" },
  { path: "/reset-password", title: "New password", page: reset, for: "anybody" },
  { path: "/verify-email", title: "Verify your address", page: verify, for: "anybody" },
  { path: "/projects", title: "Projects", page: projects, for: "user", group: "Build" },
  { path: "/personas", title: "Personas", page: personas, for: "user", group: "Build" },
  { path: "/workflows", title: "Workflows", page: workflows, for: "user", group: "Build" },
  { path: "/plan", title: "Plan and usage", page: plan, for: "user", group: "Account" },
  { path: "/account", title: "Profile", page: account, for: "user", group: "Account" },
  { path: "/sessions", title: "Sessions", page: sessions, for: "user", group: "Account" },
  { path: "/keys", title: "API keys", page: keys, for: "user", group: "Account" },
  { path: "/admin/users", title: "Users", page: users, for: "admin", group: "Administration" },
  { path: "/admin/users/:id", title: "User", page: user, for: "admin", within: "/admin/users" },
  { path: "/admin/transfer", title: "Import and export", page: transfer, for: "admin", group: "Administration" },
  { path: "/admin/subscriptions", title: "Subscriptions", page: subscriptions, for: "admin", group: "Administration" },
  { path: "/admin/audit", title: "Audit", page: audits, for: "admin", group: "Administration" },
  { path: "/admin/edges", title: "Edges", page: edges, for: "admin", group: "Administration" },
  { path: "/platform", title: "Platform", page: platform, for: "user", group: "Administration" },
];
const HOME = "/projects";

const main = document.getElementById("main");
const nav = document.getElementById("nav");
const menu = document.getElementById("menu");
let running = new AbortController();
let shown = "";

/** Goes to an address of the console, such as `/projects`. */
const go = (to) => { if (location.hash === `#${to}`) show(); else location.hash = to; };

function wanted() {
  const [path, query] = (location.hash.slice(1) || HOME).split("?");
  const parts = path === "/" ? HOME : path;
  for (const page of PAGES) {
    const names = [];
    const pattern = page.path.replace(/:([a-z]+)/g, (_, name) => { names.push(name); return "([^/]+)"; });
    const match = new RegExp(`^${pattern}$`).exec(parts);
    if (!match) continue;
    let values;
    try { values = match.slice(1).map(decodeURIComponent); } catch { return { page: null, path: parts }; }
    return { page, path: parts, parameters: Object.fromEntries(names.map((name, i) => [name, values[i]])), query: new URLSearchParams(query) };
  }
  return { page: null, path: parts };
}

function stranger(title, text) {
  return [el("header", { class: "head" }, el("h1", { tabindex: "-1" }, title)), el("p", {}, text), el("p", {}, el("a", { href: "#/" }, "To the first page"))];
}

async function show() {
  const { page, path, parameters, query } = wanted();
  if (page && page.for !== "anybody" && !session.user) {
    const back = location.hash.slice(1);
    return go(back && back !== "/" ? `/sign-in?next=${encodeURIComponent(back)}` : "/sign-in");
  }
  running.abort();
  running = new AbortController();
  const { signal } = running;
  const focused = path === shown ? document.activeElement?.id : null;
  const isSame = path === shown;
  shown = path;
  drawShell(page);
  const title = page?.title ?? "No such page";
  document.title = `${title} · AI Persona Platform`;
  main.setAttribute("aria-busy", "true");
  if (!isSame) main.replaceChildren(el("p", { class: "loading" }, "Loading …"));
  let content;
  if (!page) content = stranger("No such page", "This address leads nowhere.");
  else if (page.for === "admin" && session.user.role !== "admin") {
    content = stranger("For administrators", "This page is for administrators. Should you be one, sign in again or wait a moment.");
    changed();
  } else {
    try {
      content = await page.page({ parameters, query, signal, go, again: show });
    } catch (failure) {
      if (signal.aborted || failure.name === "AbortError") return;
      if (!session.user && page.for !== "anybody") return;
      content = [el("header", { class: "head" }, el("h1", { tabindex: "-1" }, title)), problem(failure, show)];
      if (!failure.code && failure.status === undefined) console.error(failure);
    }
  }
  if (signal.aborted) return;
  main.replaceChildren(...[content].flat());
  main.removeAttribute("aria-busy");
  main.dataset.shows = location.hash;
  const place = (focused && document.getElementById(focused)) || main.querySelector("[autofocus]") || main.querySelector("h1");
  place?.focus({ preventScroll: isSame });
  if (!isSame) { scrollTo(0, 0); say(title); }
}

function drawShell(page) {
  const { user: who } = session;
  main.classList.toggle("narrow", page?.for === "anybody");
  document.getElementById("leave").hidden = !who;
  document.getElementById("who").replaceChildren(...(who
    ? [el("b", { title: who.email }, who.email), chip(who.tier, "accent"), who.role === "user" ? "" : chip(who.role, "info")] : []));
  nav.hidden = menu.hidden = !who || page?.for === "anybody";
  closeMenu();
  const groups = new Map();
  for (const each of PAGES) {
    if (!each.group || !who || (each.for === "admin" && who.role !== "admin")) continue;
    const group = each.group === "Administration" && who.role !== "admin" ? "Account" : each.group;
    groups.set(group, [...(groups.get(group) ?? []), each]);
  }
  const own = page?.within ?? page?.path;
  nav.replaceChildren(...[...groups].flatMap(([group, pages]) => [
    el("h2", {}, group),
    el("ul", {}, pages.map((each) => el("li", {},
      el("a", { href: `#${each.path}`, "aria-current": own === each.path ? "page" : null }, each.title)))),
  ]));
}

function closeMenu() {
  nav.classList.remove("open");
  menu.setAttribute("aria-expanded", "false");
}

menu.addEventListener("click", () => {
  menu.setAttribute("aria-expanded", String(nav.classList.toggle("open")));
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || !nav.classList.contains("open")) return;
  closeMenu();
  menu.focus();
});

const THEMES = ["system", "light", "dark"];
const themeButton = document.getElementById("theme");

function drawTheme() {
  const theme = document.documentElement.dataset.theme ?? "system";
  themeButton.textContent = { system: "◐", light: "☀", dark: "☾" }[theme];
  themeButton.setAttribute("aria-label", `Colours: ${theme}. Change`);
  themeButton.title = `Colours: ${theme}`;
}

themeButton.addEventListener("click", () => {
  const root = document.documentElement;
  const next = THEMES[(THEMES.indexOf(root.dataset.theme ?? "system") + 1) % THEMES.length];
  if (next === "system") delete root.dataset.theme; else root.dataset.theme = next;
  try { localStorage.setItem("theme", next); } catch { /* Then it lasts as long as the page. */ }
  drawTheme();
  say(`Colours: ${next}`);
});

document.getElementById("leave").addEventListener("click", () => leave().catch((failure) => notice(failure.inWords, "bad")));

news.addEventListener("change", ({ detail }) => {
  if (!detail) return;
  notice(detail, "info");
  // The page may be another one for the new role or plan; what is being typed is not thrown away.
  if (main.querySelector("form :focus")) drawShell(wanted().page); else show();
});
news.addEventListener("end", ({ detail }) => {
  document.querySelectorAll("dialog").forEach((box) => box.close());
  if (detail) notice(detail, "info");
  show();
});
addEventListener("hashchange", () => {
  document.querySelectorAll("dialog").forEach((box) => box.close());
  // What the platform knows of the user by now; at most one question at a time.
  changed();
  show();
});
document.addEventListener("visibilitychange", () => { if (document.visibilityState === "visible") changed(); });
// The main part, not the address: the address is the page.
document.querySelector(".skip").addEventListener("click", (event) => { event.preventDefault(); main.focus(); });

async function start() {
  main.replaceChildren(el("p", { class: "loading" }, "Loading …"));
  try {
    if (isKept()) await resume();
  } catch (failure) {
    // What has ended is forgotten by now; with anything else the session may go on later.
    if (isKept()) return main.replaceChildren(problem(failure, start));
  }
  return show();
}

drawTheme();
start();
