// What developers do: projects, personas, workflows, plans.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { admin, api, closeBrowser, goTo, newUser, openBrowser, signedIn, until, visitor } from "./stage.mjs";

before(openBrowser);
after(closeBrowser);

const newProject = (user, name, status = 201) => api("POST", "/api/v1/projects", { token: user.token, body: { name }, status });
const upgrade = async (user, tier) => api("PUT", `/api/v1/admin/users/${user.id}`, { token: (await admin()).token, body: { subscription_tier: tier } });
const inDialog = (page) => page.getByRole("dialog");

test("projects are made, changed and deleted, and a full plan says what is used", async (t) => {
  const page = await signedIn(await visitor(t), await newUser(), "/projects");
  await page.getByText("You have no project yet.").waitFor();
  for (const name of ["One", "Two", "Three"]) {
    await page.getByRole("button", { name: "New project" }).click();
    await inDialog(page).getByLabel("Name").fill(name);
    await page.keyboard.press("Enter");
    await page.getByRole("cell", { name, exact: true }).waitFor();
  }
  await page.getByRole("button", { name: "Edit One" }).click();
  await inDialog(page).getByLabel("Name").fill("x".repeat(300));
  await inDialog(page).getByRole("button", { name: "Save" }).click();
  await inDialog(page).getByText("REQ001").waitFor();
  assert.equal(await inDialog(page).getByLabel("Name").getAttribute("aria-invalid"), "true", "the field is named by the platform");
  await inDialog(page).getByLabel("Name").fill("First");
  await inDialog(page).getByRole("button", { name: "Save" }).click();
  await page.getByRole("cell", { name: "First", exact: true }).waitFor();
  await page.getByRole("button", { name: "New project" }).click();
  await inDialog(page).getByLabel("Name").fill("Four");
  await inDialog(page).getByRole("button", { name: "Create" }).click();
  await inDialog(page).getByText("Your plan has no place left for this. 3 of 3 projects are used.").waitFor();
  await page.keyboard.press("Escape");
  await page.getByRole("button", { name: "Delete Two" }).click();
  await inDialog(page).getByRole("button", { name: "Delete" }).click();
  await page.getByRole("cell", { name: "Two", exact: true }).waitFor({ state: "detached" });
});

test("a change of the plan shows at the next answer, and pages of projects go back and forth", async (t) => {
  const user = await newUser();
  const page = await signedIn(await visitor(t), user, "/projects");
  await upgrade(user, "premium");
  await until("the plan counts", async () => (await api("POST", "/api/v1/auth/validate", { token: user.token, body: {} })).user.tier === "premium");
  await page.getByRole("link", { name: "Plan and usage" }).click();
  await page.getByText("Your plan is now premium.").waitFor();
  for (let number = 1; number <= 12; number += 1) await newProject(user, `Project ${number}`);
  await page.getByRole("link", { name: "Projects" }).click();
  await page.getByRole("cell", { name: "Project 12", exact: true }).waitFor();
  await page.getByRole("link", { name: "Older →" }).click();
  await page.getByRole("cell", { name: "Project 2", exact: true }).waitFor();
  await page.goBack();
  await page.getByRole("cell", { name: "Project 12", exact: true }).waitFor();
  await page.goForward();
  await page.getByRole("cell", { name: "Project 1", exact: true }).waitFor();
  await page.getByRole("link", { name: "← Newer" }).click();
  await page.getByRole("cell", { name: "Project 12", exact: true }).waitFor();
});

test("personas are core-manager's, shown as it answers", async (t) => {
  const page = await signedIn(await visitor(t), await newUser(), "/personas");
  await page.getByRole("button", { name: "New persona" }).click();
  await inDialog(page).getByLabel("Name").fill("Guide");
  await inDialog(page).getByLabel("Further fields").fill('{"template_id":"t1","mood":"kind"}');
  await inDialog(page).getByRole("button", { name: "Create" }).click();
  await page.getByRole("cell", { name: "Guide", exact: true }).waitFor();
  await page.getByText("Show", { exact: true }).click();
  await page.locator("pre:visible").getByText('"mood": "kind"').waitFor();
  await page.getByRole("button", { name: "Edit Guide" }).click();
  await inDialog(page).getByLabel("Name").fill("Mentor");
  const rest = inDialog(page).getByLabel("Further fields");
  await rest.fill((await rest.inputValue()).replace("kind", "stern"));
  await inDialog(page).getByRole("button", { name: "Save" }).click();
  await page.getByRole("cell", { name: "Mentor", exact: true }).waitFor();
  await page.getByText("Show", { exact: true }).click();
  await page.locator("pre:visible").getByText('"mood": "stern"').waitFor();
  await page.getByRole("button", { name: "New persona" }).click();
  await inDialog(page).getByLabel("Name").fill("Second");
  await inDialog(page).getByRole("button", { name: "Create" }).click();
  await inDialog(page).getByText("1 of 1 personas are used.").waitFor();
  await page.keyboard.press("Escape");
  await page.getByRole("button", { name: "Delete Mentor" }).click();
  await inDialog(page).getByRole("button", { name: "Delete" }).click();
  await page.getByText("You have no persona yet.").waitFor();
});

async function withPersona(t, options) {
  const user = await newUser();
  await newProject(user, "Moon");
  await api("POST", "/api/v1/personas/instances", { token: user.token, body: { name: "Guide" }, status: 201 });
  const page = await signedIn(await visitor(t, options), user, "/workflows");
  await page.getByText("live", { exact: true }).waitFor();
  return { user, page };
}

async function startOne(page, type, parameters) {
  await page.getByLabel("Type").fill(type);
  await page.getByLabel("Parameters").fill(JSON.stringify(parameters));
  await page.getByRole("button", { name: "Start" }).click();
}

test("several workflows run at once, each with its progress, its end and its result", async (t) => {
  const { page } = await withPersona(t);
  const card = (type) => page.getByRole("article").filter({ has: page.getByRole("heading", { name: type, exact: true }) });
  await startOne(page, "slow", { steps: 6, step_ms: 500, result: { answer: 42 } });
  await startOne(page, "bad", { steps: 2, step_ms: 50, outcome: "failed" });
  await startOne(page, "refused", { refuse: true });
  await startOne(page, "broken", { steps: 2, step_ms: 50, result: "<img src=x onerror=alert(1)>" });
  const bar = card("slow").getByRole("progressbar");
  const seen = new Set();
  await until("progress that grows", async () => {
    seen.add(await bar.evaluate((each) => each.value));
    return seen.size >= 3;
  });
  await card("bad").getByText("failed", { exact: true }).waitFor();
  await card("refused").getByText("refused as asked").waitFor();
  await card("slow").getByText("completed").waitFor();
  await card("slow").getByText("Result", { exact: true }).click();
  await card("slow").getByText('"answer": 42').waitFor();
  await card("broken").getByText("Result", { exact: true }).click();
  await card("broken").getByText("<img src=x onerror=alert(1)>").waitFor();
  // Another page and back: what runs in the tab is still there.
  await goTo(page, "/projects");
  await goTo(page, "/workflows");
  assert.equal(await page.getByRole("article").count(), 4);
});

test("a socket that core-manager breaks is opened again, and what ran is asked after", async (t) => {
  const { user, page } = await withPersona(t, { allowed: [/WebSocket connection/] });
  await upgrade(user, "enterprise");
  await until("the plan counts", async () => (await api("POST", "/api/v1/auth/validate", { token: user.token, body: {} })).user.tier === "enterprise");
  const sockets = [];
  page.on("websocket", (socket) => sockets.push(socket));
  await startOne(page, "long", { steps: 40, step_ms: 400 });
  const card = page.getByRole("article");
  await card.getByText(/step [2-9] of 40/).waitFor();
  await api("DELETE", "/stub/sockets?tier=enterprise", { base: process.env.CORE_MANAGER_URL, status: 204 });
  await until("another socket", () => sockets.length > 0);
  await page.getByText("live", { exact: true }).waitFor();
  const starts = [];
  sockets[0].on("framesent", ({ payload }) => { if (payload.includes("start_workflow")) starts.push(payload); });
  await until("the start is asked after under its id", () => starts.length > 0);
  await card.getByText("asked after a reconnection").waitFor();
  assert.equal(await page.getByRole("article").count(), 1);
});

test("a socket outlives its token by auth.refresh", async (t) => {
  const context = await visitor(t);
  await context.clock.install();
  const user = await newUser();
  const page = await signedIn(context, user, "/projects");
  const said = { sent: [], received: [] };
  page.on("websocket", (socket) => {
    socket.on("framesent", ({ payload }) => said.sent.push(payload));
    socket.on("framereceived", ({ payload }) => said.received.push(payload));
  });
  await goTo(page, "/workflows");
  await page.getByText("live", { exact: true }).waitFor();
  await page.clock.fastForward("14:30");
  await until("the socket has the new token", () => said.received.some((frame) => frame.includes("auth.refreshed")));
  assert.ok(said.sent.some((frame) => frame.includes("auth.refresh") && frame.includes("access_token")));
  await page.getByText("live", { exact: true }).waitFor();
});

test("a plan shows what is used of it, and says in plain words that nothing can be bought here", async (t) => {
  const user = await newUser();
  await newProject(user, "Moon");
  const page = await signedIn(await visitor(t), user, "/plan");
  await page.getByText("1 of 3").waitFor();
  for (const tier of ["Free", "Basic", "Premium", "Enterprise"]) await page.getByRole("heading", { level: 3, name: tier }).waitFor();
  await page.getByRole("button", { name: /Basic, paid monthly/ }).click();
  const alert = page.getByRole("alert");
  await alert.getByText(/Nothing can be bought here/).waitFor();
  await alert.getByText(/SUB003 · HTTP 503/).waitFor();
  await upgrade(user, "basic");
  await until("the plan counts", async () => (await api("GET", "/api/v1/subscription", { token: user.token })).tier === "basic");
  await goTo(page, "/projects");
  await goTo(page, "/plan");
  await page.getByRole("button", { name: "Cancel the plan" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Cancel the plan" }).click();
  await page.getByText("Your plan has ended.").waitFor();
});

test("a limit that is reached is counted down, and then the page can be had", async (t) => {
  const page = await signedIn(await visitor(t), await newUser(), "/projects");
  // The platform of the tests limits nobody; this answer is what it gives with limits.
  await page.route("**/api/v1/user/profile", (route) => route.fulfill({
    status: 429, headers: { "retry-after": "2", "x-request-id": "r-1" }, contentType: "application/json",
    body: JSON.stringify({ error: { code: "RATE001", message: "Too many requests" }, request_id: "r-1" }),
  }), { times: 1 });
  await page.getByRole("link", { name: "Profile" }).click();
  const alert = page.getByRole("alert");
  await alert.getByText(/RATE001 · HTTP 429 · request r-1/).waitFor();
  await alert.getByText(/Try again in [12] s/).waitFor();
  assert.ok(await alert.getByRole("button", { name: "Try again" }).isDisabled());
  await alert.getByText("You can try again now.").waitFor();
  await alert.getByRole("button", { name: "Try again" }).click();
  await page.getByRole("heading", { level: 1, name: "Profile" }).waitFor();
});
