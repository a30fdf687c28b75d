// Signing in and out, the own account, and what happens to sessions elsewhere.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { EDGE, PASSWORD, admin, api, closeBrowser, goTo, newUser, open, openBrowser, signedIn, tokenMailedTo, until, visitor } from "./stage.mjs";

before(openBrowser);
after(closeBrowser);

const heading = (page, name) => page.getByRole("heading", { level: 1, name }).waitFor();

test("a stranger registers, keeps a profile, changes the password and signs in again", async (t) => {
  const page = await open(await visitor(t));
  await heading(page, "Sign in");
  await page.getByRole("link", { name: "Create an account" }).click();
  const email = `new-${process.pid}-${Date.now()}@example.com`;
  await page.getByLabel("E-mail").fill(email);
  await page.getByLabel("Password").fill("short");
  await page.getByRole("button", { name: "Create the account" }).click();
  await page.getByText("USER003").waitFor();
  assert.equal(await page.getByLabel("Password").getAttribute("aria-invalid"), "true", "the fault stands beside its input");
  await page.getByLabel("Password").fill(PASSWORD);
  await page.getByRole("button", { name: "Create the account" }).click();
  await heading(page, "Projects");

  await goTo(page, "/account");
  await page.getByLabel("First name").fill("Ada");
  await page.getByLabel("Preferences").fill("[1]");
  await page.getByRole("button", { name: "Save" }).click();
  await page.getByText("must be a JSON object").waitFor();
  await page.getByLabel("Preferences").fill('{"colour":"blue"}');
  await page.getByRole("button", { name: "Save" }).click();
  await page.getByText("Saved.").waitFor();
  await page.reload();
  await heading(page, "Profile");
  assert.equal(await page.getByLabel("First name").inputValue(), "Ada", "a reload keeps who is signed in");

  await page.getByLabel("Current password").fill("not the password");
  await page.getByLabel("New password").fill("another horse battery");
  await page.getByRole("button", { name: "Change the password" }).click();
  await page.getByText("AUTH001").waitFor();
  await page.getByLabel("Current password").fill(PASSWORD);
  await page.getByRole("button", { name: "Change the password" }).click();
  await page.getByText("Password changed; other sessions have ended").waitFor();

  await page.getByRole("button", { name: "Sign out" }).click();
  await heading(page, "Sign in");
  await page.goBack();
  await heading(page, "Sign in");
  await page.getByLabel("E-mail").fill(email);
  await page.getByLabel("Password").fill(PASSWORD);
  await page.getByRole("button", { name: "Sign in" }).click();
  const alert = page.getByRole("alert");
  await alert.getByText("The e-mail address or the password is wrong.").waitFor();
  assert.match(await alert.innerText(), /AUTH001 · HTTP 401 · request [0-9a-f-]{36}/);
  await page.getByLabel("Password").fill("another horse battery");
  await page.getByRole("button", { name: "Sign in" }).click();
  await heading(page, "Profile");
});

test("no token is where a script of another tab or a disk could find it", async (t) => {
  const page = await signedIn(await visitor(t), await newUser());
  const stores = await page.evaluate(() => ({ local: JSON.stringify({ ...localStorage }), session: JSON.stringify({ ...sessionStorage }), cookie: document.cookie }));
  assert.equal(stores.cookie, "");
  assert.ok(!/eyJ|refresh/.test(stores.local), stores.local);
  assert.ok(/refresh/.test(stores.session) && !/eyJ/.test(stores.session), "the access token is in memory alone");
  assert.ok(!page.url().includes("eyJ"));
});

test("a forgotten password is replaced with what was mailed, once", async (t) => {
  const user = await newUser();
  const page = await open(await visitor(t), "/forgot-password");
  await page.getByLabel("E-mail").fill(user.email);
  await page.getByRole("button", { name: "Send me a link" }).click();
  await heading(page, "Sign in");
  const token = await tokenMailedTo(user.email, "reset-password");
  const set = async () => {
    await page.goto(`${EDGE}/console/#/reset-password?token=${token}`);
    await heading(page, "New password");
    assert.ok(!page.url().includes(token), "the token does not stay in the address");
    await page.getByLabel("New password").fill("a third horse battery");
    await page.getByRole("button", { name: "Set the password" }).click();
  };
  await set();
  await heading(page, "Sign in");
  await set();
  await page.getByText("AUTH003").waitFor();
  assert.equal(await page.getByLabel("Token of the mail").getAttribute("aria-invalid"), "true");
});

test("an address is verified with what was mailed", async (t) => {
  const user = await newUser();
  const page = await signedIn(await visitor(t), user, "/account");
  await page.getByText("not verified").waitFor();
  const token = await tokenMailedTo(user.email, "verify-email");
  await page.goto(`${EDGE}/console/#/verify-email?token=${token}`);
  await page.getByRole("button", { name: "Verify the address" }).click();
  await heading(page, "Profile");
  await page.getByText("verified", { exact: true }).waitFor();
});

test("who guesses passwords waits as long as the platform says", async (t) => {
  const { email } = await newUser();
  const page = await open(await visitor(t), "/sign-in");
  await page.getByLabel("E-mail").fill(email);
  const button = page.getByRole("button", { name: "Sign in" });
  const alert = page.getByRole("alert");
  for (let tries = 0; ; tries += 1) {
    assert.ok(tries < 12, "the platform slows down who guesses");
    await page.getByLabel("Password").fill(`wrong ${tries}`);
    const [answer] = await Promise.all([page.waitForResponse(/auth\/login/), button.click()]);
    await alert.waitFor();
    if (answer.status() === 429) break;
  }
  await alert.getByText(/AUTH005 · HTTP 429/).waitFor();
  await alert.getByText(/Try again in \d+ s/).waitFor();
  assert.ok(await button.isDisabled(), "until then the button does nothing");
  await alert.getByText("You can try again now.").waitFor();
  assert.ok(await button.isEnabled());
});

test("a session that ends elsewhere is over at the next answer and says so", async (t) => {
  const user = await newUser();
  const first = await signedIn(await visitor(t), user, "/projects");
  const second = await signedIn(await visitor(t, { userAgent: "Another device" }), user, "/sessions");
  await second.getByRole("button", { name: "End all others" }).click();
  await second.getByRole("dialog").getByRole("button", { name: "End them" }).click();
  await second.getByText("1 open").waitFor();
  await first.getByRole("link", { name: "Personas" }).click();
  await first.getByText("Your session has ended.").waitFor();
  await heading(first, "Sign in");
  assert.equal(await first.evaluate(() => sessionStorage.length), 0);
  // And back to where it was.
  await first.getByLabel("E-mail").fill(user.email);
  await first.getByLabel("Password").fill(user.password);
  await first.getByRole("button", { name: "Sign in" }).click();
  await heading(first, "Personas");
});

test("a session that ends elsewhere is over at once where a socket is open", async (t) => {
  const user = await newUser();
  const page = await signedIn(await visitor(t, { allowed: [/WebSocket connection/] }), user, "/workflows");
  await page.getByText("live", { exact: true }).waitFor();
  const { token } = await admin();
  await api("DELETE", `/api/v1/admin/users/${user.id}/sessions`, { token, status: 204 });
  await page.getByText("Your session has ended.").waitFor();
  await heading(page, "Sign in");
});

test("one session is ended from the list", async (t) => {
  const user = await newUser();
  const page = await signedIn(await visitor(t), user, "/sessions");
  await page.getByText("this one").waitFor();
  await page.getByText("2 open").waitFor();
  await page.getByRole("row").filter({ hasNotText: "this one" }).getByRole("button").click();
  await page.getByText("1 open").waitFor();
  await api("GET", "/api/v1/user/profile", { token: user.token, status: 401 });
});

test("two tabs of one session renew it without ending it, and sign out together", async (t) => {
  const context = await visitor(t);
  await context.clock.install();
  const user = await newUser();
  const first = await signedIn(context, user, "/sessions");
  // A tab that a page opens begins with a copy of its sessionStorage, as a duplicated tab does.
  const [second] = await Promise.all([context.waitForEvent("page"), first.evaluate(() => { window.open(location.href); })]);
  await heading(second, "Sessions");
  const kept = (page) => page.evaluate(() => JSON.parse(sessionStorage.getItem("persona.session")));
  const generations = async () => Promise.all([first, second].map(async (page) => (await kept(page)).generation));
  await until("both tabs have the same tokens", async () => { const [a, b] = await generations(); return a === b; });
  const [before] = await generations();
  await Promise.all([first, second].map((page) => page.clock.fastForward("14:30")));
  await until("the session is renewed", async () => { const [a, b] = await generations(); return a === b && a > before; });
  assert.equal((await kept(first)).refresh, (await kept(second)).refresh, "one branch is left");
  await Promise.all([first, second].map((page) => page.clock.fastForward("14:30")));
  await until("and again", async () => { const [a, b] = await generations(); return a === b && a > before + 1; });
  for (const page of [first, second]) {
    await goTo(page, "/account");
    await heading(page, "Profile");
  }
  await first.getByRole("button", { name: "Sign out" }).click();
  for (const page of [first, second]) await heading(page, "Sign in");
});

test("an account is deleted by who types its address", async (t) => {
  const user = await newUser();
  const page = await signedIn(await visitor(t), user, "/account");
  await page.getByRole("button", { name: "Delete my account" }).click();
  const go = page.getByRole("dialog").getByRole("button", { name: "Delete for good" });
  assert.ok(await go.isDisabled());
  await page.getByRole("dialog").getByLabel(/Type/).fill(user.email);
  await go.click();
  await heading(page, "Sign in");
  await api("POST", "/api/v1/auth/login", { body: { email: user.email, password: PASSWORD }, status: 401 });
});

test("a platform that does not answer is said to be away, and the session goes on afterwards", async (t) => {
  const context = await visitor(t, { allowed: [/ERR_INTERNET_DISCONNECTED/] });
  const page = await signedIn(context, await newUser(), "/projects");
  await context.setOffline(true);
  await page.getByRole("link", { name: "Profile" }).click();
  await page.getByText("The platform does not answer.").waitFor();
  await context.setOffline(false);
  await page.getByRole("button", { name: "Try again" }).click();
  await heading(page, "Profile");
});

test("a key for a machine is told once, works, and ends", async (t) => {
  const page = await signedIn(await visitor(t), await newUser(), "/keys");
  await page.getByText("You have no key.").waitFor();
  await page.getByRole("button", { name: "New key" }).click();
  await page.getByRole("dialog").getByLabel("Name").fill("Nightly build");
  await page.getByRole("dialog").getByLabel("Permissions").fill("admin.users");
  await page.getByRole("button", { name: "Make the key" }).click();
  await page.getByRole("dialog").getByRole("alert").waitFor();
  await page.getByRole("dialog").getByLabel("Permissions").fill("");
  await page.getByRole("button", { name: "Make the key" }).click();
  const key = await page.getByRole("dialog").locator("pre").innerText();
  await api("GET", "/api/v1/projects", { token: key });
  await page.keyboard.press("Escape");
  await page.getByRole("cell", { name: "Nightly build", exact: true }).waitFor();
  assert.ok(!(await page.content()).includes(key), "it is not shown again");
  await page.getByRole("button", { name: "End Nightly build" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "End it" }).click();
  await page.getByText("You have no key.").waitFor();
  await until("the key is refused", async () => (await fetch(`${EDGE}/api/v1/projects`, { headers: { authorization: `Bearer ${key}` } })).status === 401);
});
