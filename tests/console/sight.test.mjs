// What people see, hear and reach: axe on every page in both colours, narrow screens, the keyboard, and the pictures of the
// docs (`cargo xtask console --pictures`).

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { admin, api, closeBrowser, findings, goTo, newUser, open, openBrowser, signedIn, visitor } from "./stage.mjs";

before(openBrowser);
after(closeBrowser);

const OPEN = ["/sign-in", "/register", "/forgot-password", "/reset-password", "/verify-email", "/nowhere"];
const OWN = ["/projects", "/personas", "/workflows", "/plan", "/account", "/sessions", "/keys", "/platform"];
const ADMIN = ["/admin/users", "/admin/transfer", "/admin/subscriptions", "/admin/audit", "/admin/edges"];
const NARROW = { width: 360, height: 740 };

/** An administrator of the tests with something on every page. */
async function somebody(more = {}) {
  const user = await newUser({ first_name: "Ada", last_name: "Lovelace", company: "Analytical Engines", ...more });
  const { token } = await admin();
  await api("PUT", `/api/v1/admin/users/${user.id}`, { token, body: { role: "admin", subscription_tier: "premium" } });
  for (const [name, description] of [["Moon landing", "Guides for visitors of the moon"], ["Tutors", "Patient teachers"], ["Night watch", ""]]) {
    await api("POST", "/api/v1/projects", { token: user.token, body: { name, description }, status: 201 });
  }
  for (const name of ["Guide", "Tutor"]) await api("POST", "/api/v1/personas/instances", { token: user.token, body: { name }, status: 201 });
  return user;
}

async function look(page, where) {
  const found = await findings(page);
  assert.deepEqual(found, [], where);
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  assert.ok(wide <= 0, `${where} is ${wide} pixels too wide`);
  assert.equal(await page.locator("h1").count(), 1, `${where} has one heading of the first level`);
}

for (const colorScheme of ["light", "dark"]) {
  for (const viewport of [{ width: 1280, height: 800 }, NARROW]) {
    test(`axe finds nothing serious on any page: ${colorScheme}, ${viewport.width} pixels`, async (t) => {
      const context = await visitor(t, { colorScheme, viewport, reducedMotion: "reduce" });
      const stranger = await open(context, "/sign-in");
      for (const hash of OPEN) {
        await goTo(stranger, hash);
        await look(stranger, hash);
      }
      await stranger.close();
      const user = await somebody();
      const page = await signedIn(context, user, "/projects");
      for (const hash of [...OWN, ...ADMIN, `/admin/users/${user.id}`, `/admin/audit?of=${user.id}`, "/admin/users?page=0"]) {
        await goTo(page, hash);
        await look(page, hash);
      }
      await goTo(page, "/projects");
      await page.getByRole("button", { name: "New project" }).click();
      await page.getByRole("button", { name: "Create" }).click();
      await look(page, "a dialog with a fault");
      await page.keyboard.press("Escape");
      await goTo(page, "/workflows");
      await page.getByText("live", { exact: true }).waitFor();
      await page.getByLabel("Parameters").fill('{"steps":2,"step_ms":20,"outcome":"failed"}');
      await page.getByRole("button", { name: "Start" }).click();
      await page.getByRole("article").getByText("failed", { exact: true }).waitFor();
      await look(page, "a workflow that has failed");
      await goTo(page, "/plan");
      await page.getByRole("button", { name: /Enterprise, paid monthly/ }).click();
      await page.getByRole("alert").getByText("SUB003").waitFor();
      await look(page, "a refusal");
      if (viewport.width === NARROW.width) {
        await page.getByRole("button", { name: "Menu" }).click();
        await look(page, "the open menu");
      }
    });
  }
}

test("the keyboard reaches everything, and the focus is where the page went", async (t) => {
  const page = await open(await visitor(t), "/sign-in");
  const user = await newUser();
  await page.getByLabel("E-mail").waitFor();
  assert.equal(await page.evaluate(() => document.activeElement.tagName), "H1", "a new page is read from its heading");
  await page.keyboard.press("Tab");
  await page.keyboard.type(user.email);
  await page.keyboard.press("Tab");
  await page.keyboard.type(user.password);
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { level: 1, name: "Projects" }).waitFor();
  await page.waitForFunction(() => document.activeElement.tagName === "H1");
  assert.equal(await page.title(), "Projects · AI Persona Platform");
  await page.waitForFunction(() => document.getElementById("said").textContent === "Projects");
  await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  await page.getByRole("dialog").getByLabel("Name").waitFor();
  await page.keyboard.press("Escape");
  assert.equal(await page.evaluate(() => document.activeElement.id), "new-project", "a window gives the focus back");
  await page.evaluate(() => { document.activeElement.blur(); scrollTo(0, 0); });
  await page.reload();
  await page.getByRole("heading", { level: 1, name: "Projects" }).waitFor();
  await page.locator("body").press("Shift+Tab");
  const skip = page.getByRole("link", { name: "Skip to the content" });
  await skip.focus();
  await page.keyboard.press("Enter");
  assert.equal(await page.evaluate(() => document.activeElement.id), "main");
});

test("on a narrow screen the menu opens, leads somewhere, and closes", async (t) => {
  const page = await signedIn(await visitor(t, { viewport: NARROW }), await newUser(), "/projects");
  const menu = page.getByRole("button", { name: "Menu" });
  assert.equal(await page.getByRole("link", { name: "Personas" }).isVisible(), false);
  await menu.click();
  assert.equal(await menu.getAttribute("aria-expanded"), "true");
  await page.keyboard.press("Escape");
  assert.equal(await menu.getAttribute("aria-expanded"), "false");
  await menu.click();
  await page.getByRole("link", { name: "Personas" }).click();
  await page.getByRole("heading", { level: 1, name: "Personas" }).waitFor();
  assert.equal(await menu.getAttribute("aria-expanded"), "false");
});

test("the colours follow the system until they are chosen, and the choice stays", async (t) => {
  const page = await open(await visitor(t, { colorScheme: "dark" }), "/sign-in");
  const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const dark = await ground();
  const button = page.getByRole("button", { name: /^Colours/ });
  await button.click();
  assert.notEqual(await ground(), dark);
  await page.reload();
  assert.notEqual(await ground(), dark, "the choice stays");
  await button.click();
  assert.equal(await ground(), dark);
});

test("pictures for the docs", { skip: !process.env.CONSOLE_PICTURES && "only with --pictures" }, async (t) => {
  const folder = process.env.CONSOLE_PICTURES;
  const [client, host] = [`studio-${Date.now() % 1e6}`, `studio${Date.now() % 1e6}.example`];
  const { token } = await admin();
  for (const [first_name, last_name, changes] of [["Grace", "Hopper", { role: "moderator", subscription_tier: "premium" }], ["Alan", "Turing", { is_active: false }], ["Mary", "Jackson", { subscription_tier: "basic", email_verified: true }], ["Edsger", "Dijkstra", {}]]) {
    const { id } = await newUser({ email: `${first_name.toLowerCase()}@${host}`, first_name, last_name, client_id: client });
    await api("PUT", `/api/v1/admin/users/${id}`, { token, body: changes });
  }
  const user = await somebody({ email: `ada@${host}`, client_id: client });
  await api("PUT", `/api/v1/admin/users/${user.id}`, { token, body: { email_verified: true } });
  const shoot = async (name, hash, options, prepare = async () => {}) => {
    const context = await visitor(t, { viewport: { width: 1120, height: 720 }, reducedMotion: "reduce", ...options });
    const page = await signedIn(context, user, hash);
    await prepare(page);
    await page.evaluate(() => document.activeElement?.blur());
    await page.screenshot({ path: `${folder}/console-${name}.png`, animations: "disabled" });
    await page.close();
  };
  const run = async (page) => {
    await page.getByText("live", { exact: true }).waitFor();
    for (const [type, parameters] of [["summary", { steps: 2, step_ms: 20, result: { pages: 3 } }], ["translate", { steps: 3, step_ms: 20, outcome: "failed" }], ["interview", { steps: 8, step_ms: 1500 }]]) {
      await page.getByLabel("Type").fill(type);
      await page.getByLabel("Parameters").fill(JSON.stringify(parameters));
      await page.getByRole("button", { name: "Start" }).click();
    }
    await page.getByText(/step 4 of 8/).waitFor();
    await page.getByText("completed").waitFor();
  };
  await shoot("workflows", "/workflows", {}, run);
  await shoot("users-dark", `/admin/users?client_id=${client}`, { colorScheme: "dark" });
  await shoot("plan", "/plan", {});
  await shoot("edges", "/admin/edges", {}, async (page) => { await page.getByText("fresh").first().waitFor(); });
  await shoot("audit", `/admin/audit?of=${user.email}`, { viewport: { width: 1120, height: 900 } });
  await shoot("user", `/admin/users/${user.id}`, {});
  await shoot("projects-phone", "/projects", { viewport: { width: 390, height: 780 } });
  await shoot("workflows-phone-dark", "/workflows", { viewport: { width: 390, height: 780 }, colorScheme: "dark" }, async (page) => {
    await run(page);
    await page.getByRole("article").first().scrollIntoViewIfNeeded();
  });
});
