// What administrators do, and what they must not be able to run into.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { after, before, test } from "node:test";
import { EDGE, admin, api, closeBrowser, goTo, newUser, open, openBrowser, signedIn, until, visitor } from "./stage.mjs";

before(openBrowser);
after(closeBrowser);

const inDialog = (page) => page.getByRole("dialog");
const part = (page, name) => page.getByRole("region", { name });

async function administrator(t, hash, options) {
  return signedIn(await visitor(t, options), await admin(), hash);
}

test("users are searched, filtered, sorted and paged, and Back undoes each", async (t) => {
  const client = `c${Date.now()}`;
  const made = [];
  for (let number = 0; number < 21; number += 1) made.push(await newUser({ client_id: client }));
  const page = await administrator(t, "/admin/users");
  const search = part(page, "Search");
  await search.getByLabel("Client").fill(client);
  await search.getByLabel("Sort by").selectOption("email");
  await search.getByLabel("Order").selectOption("asc");
  await search.getByRole("button", { name: "Show" }).click();
  await page.getByText("21 accounts").waitFor();
  const emails = made.map(({ email }) => email).sort();
  assert.equal(await page.getByRole("table").getByRole("link").first().innerText(), emails[0]);
  await page.getByRole("link", { name: "Next →" }).click();
  await page.getByText("Page 2 of 2").waitFor();
  assert.equal(await page.getByRole("table").getByRole("link").first().innerText(), emails[20]);
  await page.goBack();
  await page.getByText("Page 1 of 2").waitFor();
  assert.equal(await search.getByLabel("Client").inputValue(), client);
  await search.getByLabel("Role").selectOption("moderator");
  await search.getByRole("button", { name: "Show" }).click();
  await page.getByText("No account is like that.").waitFor();
  await goTo(page, "/admin/users?page=0");
  await page.getByText("REQ001").waitFor();
});

test("one user is changed in every way, and feels it at once", async (t) => {
  const user = await newUser();
  const theirs = await signedIn(await visitor(t), user, "/projects");
  const page = await administrator(t, `/admin/users/${user.id}`);
  const change = part(page, "Change");
  await change.getByLabel("Role").selectOption("admin");
  await change.getByLabel("Plan").selectOption("premium");
  await change.getByLabel("The e-mail address is verified").check();
  await change.getByRole("button", { name: "Save" }).click();
  await page.getByText("Saved. It counts from the next request on.").waitFor();
  const roleIs = (role) => until(`the role ${role} counts`, async () => (await api("POST", "/api/v1/auth/validate", { token: user.token, body: {} })).user.role === role);
  await roleIs("admin");
  await theirs.getByRole("link", { name: "Personas" }).click();
  await theirs.getByText(/Your role is now admin/).waitFor();
  await theirs.getByRole("link", { name: "Users" }).waitFor();
  await page.locator("main header").getByText("admin", { exact: true }).waitFor();
  await change.getByLabel("Role").selectOption("user");
  await change.getByRole("button", { name: "Save" }).click();
  await roleIs("user");
  await theirs.getByRole("link", { name: "Users" }).click();
  await theirs.getByText("Your role is now user.").waitFor();
  await theirs.getByRole("heading", { name: "For administrators" }).waitFor();
  // Their page is drawn again, with what is typed into it meanwhile.
  await page.locator("main header").getByText("admin", { exact: true }).waitFor({ state: "detached" });

  const permissions = part(page, "Permissions");
  await permissions.getByLabel("Permission").fill("no such permission!");
  await permissions.getByRole("button", { name: "Grant" }).click();
  await permissions.getByText("REQ001").waitFor();
  await permissions.getByLabel("Permission").fill("projects.manage");
  await permissions.getByRole("button", { name: "Grant" }).click();
  await permissions.getByRole("button", { name: "Take away projects.manage" }).click();
  await permissions.getByText("The account holds none.").waitFor();

  const made = await api("POST", "/api/v1/user/api-keys", { token: user.token, body: { name: "nightly" }, status: 201 });
  await page.reload();
  await part(page, "API keys").getByRole("button", { name: "End nightly" }).click();
  await inDialog(page).getByRole("button", { name: "End it" }).click();
  await part(page, "API keys").getByText("The account has no key.").waitFor();
  await until("the key is refused", async () => (await fetch(`${EDGE}/api/v1/personas/instances`, { headers: { authorization: `Bearer ${made.key}` } })).status === 401);

  await part(page, "Password").getByLabel("New password").fill("a password of an administrator");
  await part(page, "Password").getByRole("button").click();
  await page.getByText("Password set; all sessions and API keys have ended").waitFor();
  await api("POST", "/api/v1/auth/login", { body: { email: user.email, password: "a password of an administrator" } });
  await page.reload();
  await part(page, "Open sessions").getByText("1 open").waitFor();
  await page.getByRole("button", { name: "End all sessions" }).click();
  await inDialog(page).getByRole("button", { name: "End them" }).click();
  await part(page, "Open sessions").getByText("No session is open.").waitFor();
  await part(page, "Usage by day").getByRole("row").nth(7).waitFor();
  await part(page, "Audit").getByText("permission_granted").first().waitFor();
  await change.getByLabel("Active", { exact: true }).uncheck();
  await change.getByRole("button", { name: "Save" }).click();
  await page.getByText("disabled", { exact: true }).waitFor();
  await api("POST", "/api/v1/auth/login", { body: { email: user.email, password: "a password of an administrator" }, status: 401 });

  await page.getByRole("button", { name: "Delete this account" }).click();
  const go = inDialog(page).getByRole("button", { name: "Delete for good" });
  assert.ok(await go.isDisabled());
  await inDialog(page).getByLabel(/Type/).fill(user.email);
  await go.click();
  await page.getByRole("heading", { level: 1, name: "Users" }).waitFor();
  await goTo(page, `/admin/users/${user.id}`);
  await page.getByText("USER001 · HTTP 404").waitFor();
});

test("text of users is text wherever it is shown", async (t) => {
  const evil = `<img src=x onerror="document.title='broken'"><script>document.title='broken'</script>`;
  const user = await newUser({ first_name: evil.slice(0, 60), company: evil, client_id: "web" });
  await api("POST", "/api/v1/projects", { token: user.token, body: { name: evil, description: evil }, status: 201 });
  await api("POST", "/api/v1/personas/instances", { token: user.token, body: { name: evil, status: evil }, status: 201 });
  const page = await administrator(t, `/admin/users/${user.id}`);
  await part(page, "About").getByText("<img src=x").first().waitFor();
  await goTo(page, "/admin/users");
  await page.getByRole("cell", { name: "<img src=x" }).first().waitFor();
  const theirs = await signedIn(await visitor(t), user, "/projects");
  await theirs.getByText(evil).first().waitFor();
  for (const hash of ["/personas", "/workflows", "/account", "/%3Cimg%20src=x%20onerror=alert(1)%3E"]) {
    await goTo(theirs, hash);
  }
  // Who is signed in is led on, and only to a page of the console.
  await theirs.evaluate(() => { location.hash = "/sign-in?next=javascript:alert(1)"; });
  await theirs.getByRole("heading", { level: 1, name: "Projects" }).waitFor();
  for (const each of [page, theirs]) {
    const made = await each.evaluate(() => ({ title: document.title, images: document.querySelectorAll("main img").length, scripts: document.scripts.length }));
    assert.ok(!made.title.includes("broken"));
    assert.equal(made.images, 0);
    assert.equal(made.scripts, 2);
  }
});

test("markup could not be made by mistake: the browser refuses", async (t) => {
  const page = await open(await visitor(t, { allowed: [/TrustedHTML/, /require-trusted-types-for/] }), "/sign-in");
  const refusal = await page.evaluate(() => {
    try { document.createElement("div")[["inner", "HTML"].join("")] = "<b>x</b>"; return "none"; } catch (error) { return error.name; }
  });
  assert.equal(refusal, "TypeError");
});

test("accounts are imported, tried first, and exported", async (t) => {
  const client = `i${Date.now()}`;
  const rows = ["email,first_name", ...[1, 2, 3].map((number) => `row${number}-${client}@example.com,Row ${number}`), "no address,X"];
  const file = { name: "users.csv", mimeType: "text/csv", buffer: Buffer.from(rows.join("\n")) };
  const page = await administrator(t, "/admin/transfer");
  const upload = part(page, "Import");
  await upload.getByLabel("CSV file").setInputFiles(file);
  await upload.getByLabel("Client").fill(client);
  await upload.getByRole("button", { name: "Upload" }).click();
  await upload.getByText("This was a trial; nothing is changed.").waitFor();
  await upload.getByRole("row", { name: /5 email/ }).waitFor();
  const { token } = await admin();
  const listed = () => api("GET", `/api/v1/admin/users?client_id=${client}`, { token });
  assert.equal((await listed()).total_count, 0);
  assert.ok(!(await upload.getByLabel("Only try").isChecked()), "the next upload is the real one");
  await upload.getByRole("button", { name: "Upload" }).click();
  await upload.getByText("The accounts are there.").waitFor();
  assert.equal((await listed()).total_count, 3);
  const download = part(page, "Export");
  await download.getByLabel("Client").fill(client);
  const [got] = await Promise.all([page.waitForEvent("download"), download.getByRole("button", { name: "Download" }).click()]);
  assert.match(got.suggestedFilename(), /^users-.*\.csv$/);
  const text = await readFile(await got.path(), "utf8");
  assert.equal(text.trim().split("\n").length, 4, text);
  assert.ok(text.includes(`row2-${client}@example.com`));
});

test("subscriptions are filtered and changed, and the log says by whom", async (t) => {
  const user = await newUser();
  const { token } = await admin();
  await api("GET", "/api/v1/subscription", { token: user.token });
  const page = await administrator(t, "/admin/subscriptions?tier=free");
  await page.getByRole("button", { name: "New subscription" }).click();
  await inDialog(page).getByLabel("Account").fill("nobody");
  await inDialog(page).getByRole("button", { name: "Create" }).click();
  await inDialog(page).getByText(/REQ001|USER001/).waitFor();
  assert.equal(await inDialog(page).getByLabel("Account").getAttribute("aria-invalid"), "true");
  await page.keyboard.press("Escape");
  await page.getByRole("button", { name: `Change the subscription of ${user.id}` }).click();
  await inDialog(page).getByLabel("Plan").selectOption("basic");
  await inDialog(page).getByRole("button", { name: "Save" }).click();
  await page.getByText("Saved. It counts within a second.").waitFor();
  await until("the plan counts", async () => (await api("GET", "/api/v1/subscription", { token: user.token })).tier === "basic");
  await goTo(page, "/admin/audit");
  await page.getByLabel(/Account: its id/).fill(user.email);
  await page.getByRole("button", { name: "Show" }).click();
  await part(page, "Log").getByText("subscription_change_approved").waitFor();
  assert.ok(token);
});

test("the log of all accounts is searched by what was done, by whom, to whom and when, and goes on", async (t) => {
  const [user, { token, id: own }] = [await newUser(), await admin()];
  for (let round = 0; round < 11; round += 1) {
    await api("POST", `/api/v1/admin/users/${user.id}/permissions`, { token, body: { permission_name: "projects.manage" } });
    await api("DELETE", `/api/v1/admin/users/${user.id}/permissions/projects.manage`, { token, status: 204 });
  }
  const page = await administrator(t, "/admin/audit");
  const [search, log] = [part(page, "Search"), part(page, "Log")];
  await log.getByText("20 entries").waitFor();
  await log.getByRole("button", { name: "Older entries" }).click();
  await log.getByText("40 entries").waitFor();
  await search.getByLabel("What", { exact: true }).selectOption("permission_revoked");
  await search.getByLabel(/Account: its id/).fill(user.email);
  await search.getByRole("button", { name: "Show" }).click();
  await log.getByText("11 entries").waitFor();
  await search.getByLabel("As", { exact: true }).selectOption("actor_id");
  await search.getByRole("button", { name: "Show" }).click();
  await log.getByText("Nothing is in the log.").waitFor();
  const today = new Date().toISOString().slice(0, 10);
  await goTo(page, `/admin/audit?of=${own}&as=actor_id&action=permission_revoked&from=${today}&to=${today}`);
  // With what other journeys took away today.
  await log.getByText(/(1[1-9]|20) entries/).waitFor();
  await goTo(page, `/admin/audit?action=permission_revoked&to=2020-01-01`);
  await log.getByText("Nothing is in the log.").waitFor();
  await page.goBack();
  assert.equal(await search.getByLabel("What", { exact: true }).inputValue(), "permission_revoked");
});

test("edges are shown as they are, and the page follows them", async (t) => {
  const [page, user] = [await administrator(t, "/admin/edges"), await newUser()];
  // Beside those that ran here before and are silent.
  const row = page.getByRole("row").filter({ hasText: "fresh" });
  await row.waitFor();
  const sockets = async () => Number(await row.getByRole("cell").nth(4).innerText());
  const before = await sockets();
  const theirs = await signedIn(await visitor(t), user, "/workflows");
  await theirs.getByText("live", { exact: true }).waitFor();
  await until("the socket is shown", async () => (await sockets()) > before);
  await theirs.close();
  await until("its end is shown", async () => (await sockets()) <= before);
});

test("many accounts are changed at once, and those that are refused are named", async (t) => {
  const client = `b${Date.now()}`;
  const [one, other] = [await newUser({ client_id: client }), await newUser({ client_id: client })];
  const { token } = await admin();
  await api("PUT", `/api/v1/admin/users/${other.id}`, { token, body: { subscription_tier: "enterprise" } });
  const page = await administrator(t, `/admin/users?client_id=${client}`);
  const change = part(page, "Change those that are chosen");
  await change.getByRole("button", { name: "Change them" }).click();
  await page.getByText("Choose accounts in the list first.").waitFor();
  for (const { email } of [one, other]) await page.getByLabel(`Choose ${email}`).check();
  await change.getByText("2 chosen").waitFor();
  await change.getByLabel("What").selectOption("upgrade_tier");
  await change.getByLabel("Which plan").selectOption("premium");
  await change.getByRole("button", { name: "Change them" }).click();
  await inDialog(page).getByRole("button", { name: "Go on" }).click();
  await page.getByText("Done for 1 of 2.").waitFor();
  await change.getByRole("row", { name: other.email }).waitFor();
  await change.getByLabel("What").selectOption("deactivate");
  await change.getByLabel("Why, for the log").fill("a test");
  await change.getByRole("button", { name: "Change them" }).click();
  await inDialog(page).getByRole("button", { name: "Go on" }).click();
  await page.getByText("Done for 2 of 2.").waitFor();
  await page.getByRole("cell", { name: "disabled" }).nth(1).waitFor();
  await page.getByLabel(`Choose ${one.email}`).check();
  await change.getByLabel("What").selectOption("delete");
  await change.getByRole("button", { name: "Change them" }).click();
  const go = inDialog(page).getByRole("button", { name: "Go on" });
  assert.ok(await go.isDisabled());
  await inDialog(page).getByLabel(/Type/).fill("1");
  await go.click();
  await page.getByText("1 accounts").waitFor();
});

test("who is no administrator is told so, and an address that leads nowhere, too", async (t) => {
  const page = await signedIn(await visitor(t), await newUser(), "/projects");
  assert.equal(await page.getByRole("link", { name: "Users" }).count(), 0);
  await goTo(page, "/admin/users");
  await page.getByRole("heading", { name: "For administrators" }).waitFor();
  await goTo(page, "/nowhere");
  await page.getByRole("heading", { name: "No such page" }).waitFor();
  await goTo(page, "/platform");
  await page.getByText("auth-service").waitFor();
});
