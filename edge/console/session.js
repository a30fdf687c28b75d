// Who is signed in. The access token is in memory alone; the refresh token is in this tab's sessionStorage, so that a
// reload does not sign out. A duplicated tab has the same session: only one tab at a time renews it (Web Locks) and tells
// the others (BroadcastChannel), since a refresh token that comes twice looks like a stolen one.

import { call, Failure } from "./api.js";

const KEPT = "persona.session";
/** So many milliseconds before its end a token is renewed, and those in which it is no longer used; less of a short one. */
const AHEAD = 45_000;
const MARGIN = 15_000;
/** How long another tab may take to say what it has, in milliseconds. */
const PATIENCE = 250;

/** `user` is the UserInfo of whoever is signed in, or null. */
export const session = { user: null, access: null, times: null };

const isGood = () => session.access !== null && Date.now() < session.times.good;

/** Fires `change` (who or what the user is), `renew` (another access token) and `end`, with a text in `detail`. */
export const news = new EventTarget();
const tell = (name, detail) => news.dispatchEvent(new CustomEvent(name, { detail }));

const channel = "BroadcastChannel" in globalThis ? new BroadcastChannel("persona-console") : null;
let timer = 0;
let letTabGo = null;

const read = () => {
  try { return JSON.parse(sessionStorage.getItem(KEPT)); } catch { return null; }
};

/** What a token says of itself; the platform verifies it, we only read. */
function claimsOf(token) {
  try { return JSON.parse(atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/"))); } catch { return {}; }
}

const locks = navigator.locks ?? null;
const nameOf = (id) => `persona-session-${id}`;

/** Shows other tabs that this one has the session, for as long as it has. */
function showTab(id) {
  letTabGo?.();
  letTabGo = null;
  if (!locks || !id) return;
  locks.request(`${nameOf(id)}-tab`, { mode: "shared" }, () => new Promise((done) => { letTabGo = done; })).catch(() => {});
}

function adopt({ id, generation, refresh, access, times, user }) {
  const before = session.user;
  Object.assign(session, { access, times, user });
  sessionStorage.setItem(KEPT, JSON.stringify({ id, generation, refresh }));
  clearTimeout(timer);
  // A failure shows with the next request.
  timer = setTimeout(() => renew(true).catch(() => {}), Math.max(times.renew - Date.now(), 1000));
  noteChange(before, user);
  tell("renew");
}

function noteChange(before, user) {
  if (!before || before.id !== user.id) return tell("change");
  const words = [];
  if (before.role !== user.role) words.push(`Your role is now ${user.role}.`);
  if (before.tier !== user.tier) words.push(`Your plan is now ${user.tier}.`);
  if (before.email_verified !== user.email_verified && user.email_verified) words.push("Your e-mail address is verified.");
  const permissions = (who) => [...who.permissions].sort().join(" ");
  if (permissions(before) !== permissions(user)) words.push(`Your permissions are now: ${permissions(user) || "none"}.`);
  if (words.length) tell("change", words.join(" "));
}

/** Takes the TokenResponse of a sign-in. */
export function begin(tokens) {
  const id = claimsOf(tokens.access_token).sid ?? "unknown";
  showTab(id);
  adopt(kept(id, 1, tokens));
}

function kept(id, generation, tokens) {
  const { access_token: access, refresh_token: refresh, expires_in: life, user } = tokens;
  const [end, ms] = [Date.now() + life * 1000, life * 1000];
  const times = { renew: end - Math.min(AHEAD, ms / 3), good: end - Math.min(MARGIN, ms / 6) };
  return { id, generation, refresh, access, user, times };
}

/** Whether there is a session to go on with. */
export const isKept = () => read() !== null;

let renewing = null;

/**
 * A good access token, renewed where it ends soon or where `must` says that it is refused.
 * Throws a Failure; where the session has ended, the console is told.
 */
export function renew(must = false) {
  if (!must && isGood()) return Promise.resolve(session.access);
  renewing ??= renewOnce(must).finally(() => { renewing = null; });
  return renewing;
}

async function renewOnce(must) {
  const before = read();
  if (!before) {
    ended("Please sign in.");
    throw new Failure({ status: 401, code: "AUTH003", message: "You are not signed in." });
  }
  const refused = session.access;
  const work = async () => {
    await askOthers(before.id);
    const now = read();
    // Another tab was faster, or the session ended while this one waited.
    if (!now || (isGood() && session.access !== refused)) return;
    const tokens = await call("POST", "/api/v1/auth/refresh", { body: { refresh_token: now.refresh }, open: true });
    const next = kept(now.id, now.generation + 1, tokens);
    adopt(next);
    channel?.postMessage({ kind: "renewed", ...next });
  };
  try {
    await (locks ? locks.request(nameOf(before.id), work) : work());
  } catch (failure) {
    if (failure.status === 401) ended("Your session has ended.");
    throw failure;
  }
  if (!session.access) throw new Failure({ status: 401, code: "AUTH003", message: "You are not signed in." });
  return session.access;
}

/** Lets tabs of the same session say what they have; without any nobody waits. */
async function askOthers(id) {
  if (!channel || !locks) return;
  const { held } = await locks.query();
  if (held.filter(({ name }) => name === `${nameOf(id)}-tab`).length < 2) return;
  const generation = read()?.generation ?? 0;
  await new Promise((done) => {
    const wait = setTimeout(done, PATIENCE);
    heard = () => { clearTimeout(wait); done(); };
    channel.postMessage({ kind: "asked", id, generation });
  });
  heard = null;
}

let heard = null;

channel?.addEventListener("message", ({ data }) => {
  const own = read();
  if (!own || data.id !== own.id) return;
  if (data.kind === "renewed") {
    if (data.generation > own.generation || (data.generation === own.generation && !session.access)) adopt(data);
    heard?.();
  } else if (data.kind === "asked" && own.generation >= data.generation && session.access) {
    const { access, times, user } = session;
    channel.postMessage({ ...own, access, times, user, kind: "renewed" });
  } else if (data.kind === "ended") {
    forget(data.words);
  }
});

function forget(words) {
  clearTimeout(timer);
  letTabGo?.();
  letTabGo = null;
  sessionStorage.removeItem(KEPT);
  const wasIn = session.user !== null;
  Object.assign(session, { user: null, access: null, times: null });
  tell("end", wasIn ? words : "");
}

/** The session is over, in all tabs that have it. */
export function ended(words) {
  const own = read();
  if (own) channel?.postMessage({ kind: "ended", id: own.id, words });
  forget(words);
}

/** Goes on with the session of this tab, if it has one. */
export async function resume() {
  const own = read();
  if (!own) return;
  showTab(own.id);
  await renew();
}

let looking = null;

/** Something says that the user is not what we know: looks what is true now. Many calls at once are one. */
export function changed() {
  if (!session.access) return Promise.resolve();
  looking ??= look().finally(() => { looking = null; });
  return looking;
}

async function look() {
  try {
    const { user } = await call("POST", "/api/v1/auth/validate", { body: {} });
    const before = session.user;
    if (!before) return;
    session.user = user;
    noteChange(before, user);
  } catch { /* What has ended was told by `call`; anything else shows with the next request. */ }
}

/** Signs out here and at the platform. */
export async function leave() {
  try {
    await call("POST", "/api/v1/auth/logout", { body: {} });
  } catch (failure) {
    if (failure.status !== 401) throw failure;
  }
  ended("You are signed out.");
}
