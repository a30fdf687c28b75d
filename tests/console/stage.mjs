// What the tests of the console stand on: a browser that reports every fault, and accounts at the running platform.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const need = (name) => process.env[name] ?? fail(`${name} is not set: run \`cargo xtask console\`, which starts the platform`);
const fail = (words) => { throw new Error(words); };

export const EDGE = need("EDGE");
export const PASSWORD = "correct horse battery";
const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

/** An HTTP answer of the platform, past the console. */
export async function api(method, path, { token, body, status = 200, base = EDGE } = {}) {
  const headers = { ...(token && { authorization: `Bearer ${token}` }), ...(body && { "content-type": "application/json" }) };
  const response = await fetch(base + path, { method, headers, body: body && JSON.stringify(body) });
  const text = await response.text();
  if (response.status !== status) fail(`${method} ${path}: ${response.status} ${text}`);
  return text && JSON.parse(text);
}

let count = 0;

/** A new account: `{email, token, id}`. */
export async function newUser(more = {}) {
  const body = { email: `c${process.pid}-${Date.now()}-${(count += 1)}@example.com`, password: PASSWORD, client_id: "web", ...more };
  const tokens = await api("POST", "/api/v1/auth/register", { body, status: 201 });
  return { email: body.email, password: PASSWORD, token: tokens.access_token, id: tokens.user.id };
}

/** The token of the administrator that the platform was started with. */
export async function admin() {
  const [email, password] = [need("ADMIN_EMAIL"), need("ADMIN_PASSWORD")];
  const { access_token: token, user } = await api("POST", "/api/v1/auth/login", { body: { email, password } });
  return { email, password, token, id: user.id };
}

/** The newest mail to an address with a link to a page, once it has come. */
export async function tokenMailedTo(email, page) {
  return until(`a mail to ${email}`, async () => {
    const mails = await api("GET", `/messages?to=${encodeURIComponent(email)}`, { base: need("MAIL_CATCHER") });
    const found = JSON.stringify(mails).match(new RegExp(`${page}#token=([A-Za-z0-9_-]+)`));
    return found?.[1];
  });
}

/** Waits for something that will be. */
export async function until(what, look, patience = 15_000) {
  const end = Date.now() + patience;
  for (;;) {
    const seen = await look();
    if (seen) return seen;
    if (Date.now() > end) fail(`${what}: not within ${patience} ms`);
    await new Promise((done) => setTimeout(done, 50));
  }
}

let browser;

export async function openBrowser() {
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
      "--disable-component-update", "--disable-sync"],
  });
}

export const closeBrowser = () => browser?.close();

const VIOLATION = "a violation of the policy:";
/** The browser itself writes this for every answer that is no success. */
const ANSWER = /^Failed to load resource: the server responded with a status of (4\d\d|503) /;

/**
 * A browser of somebody, for one test. When the test ends, every fault that the pages had fails it: errors on the console,
 * exceptions, violations of the policy, and requests that left the origin. `allowed` are errors that the test brings about.
 */
export async function visitor(t, { allowed = [], ...options } = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...options });
  context.setDefaultTimeout(15_000);
  const faults = [];
  await context.addInitScript((words) => {
    addEventListener("securitypolicyviolation", (event) => console.error(words, event.violatedDirective, event.blockedURI));
  }, VIOLATION);
  context.on("request", (request) => {
    const { protocol, origin } = new URL(request.url());
    if (origin !== EDGE && protocol !== "data:" && protocol !== "blob:") faults.push(`a request left the origin: ${request.url()}`);
  });
  context.on("console", (message) => {
    const text = message.text();
    if (message.type() === "error" && !ANSWER.test(text) && !allowed.some((pattern) => pattern.test(text))) faults.push(text);
  });
  context.on("weberror", (error) => faults.push(String(error.error().stack)));
  t.after(async () => {
    await context.close();
    if (faults.length) fail(`the pages had faults:\n  ${faults.join("\n  ")}`);
  });
  return context;
}

/** A page of the console. */
export async function open(context, hash = "") {
  const page = await context.newPage();
  await page.goto(`${EDGE}/console/${hash && `#${hash}`}`);
  return page;
}

/** A page of the console, signed in, at an address. */
export async function signedIn(context, user, hash = "/projects") {
  const page = await open(context, `/sign-in?next=${encodeURIComponent(hash)}`);
  await page.getByLabel("E-mail").fill(user.email);
  await page.getByLabel("Password").fill(user.password);
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.waitForFunction((wanted) => location.hash === `#${wanted}` && !document.querySelector("main[aria-busy]"), hash);
  return page;
}

/** Goes to an address of the console and waits until its page is there. */
export async function goTo(page, hash) {
  await page.evaluate((to) => { location.hash = to; }, hash);
  await page.waitForFunction((to) => location.hash === `#${to}` && !document.querySelector("main[aria-busy]"), hash);
}

/** What axe finds that is serious or critical. Over the protocol, as the policy of the page lets nothing be injected. */
export async function findings(page) {
  const protocol = await page.context().newCDPSession(page);
  const evaluate = async (expression) => {
    const { result, exceptionDetails: fault } = await protocol.send("Runtime.evaluate", {
      expression, awaitPromise: true, returnByValue: true, allowUnsafeEvalBlockedByCSP: true,
    });
    if (fault) fail(fault.exception?.description ?? fault.text);
    return result.value;
  };
  await evaluate(`${AXE};0`);
  const found = await evaluate("axe.run(document, { resultTypes: ['violations'] }).then(({ violations }) => violations)");
  await protocol.detach();
  return found.filter(({ impact }) => impact === "serious" || impact === "critical")
    .flatMap(({ id, nodes }) => nodes.map((node) => `${id}: ${node.html.slice(0, 160)} — ${node.failureSummary}`));
}
