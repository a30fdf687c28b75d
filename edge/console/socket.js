// One WebSocket for the console: opened when it is first needed, kept while somebody is signed in, and opened again by
// what the close code says. Workflows outlive it: after a reconnection each start is sent again under its id, to which
// the platform answers where the workflow stands.

import { newId } from "./dom.js";
import { session, news, renew, ended, changed } from "./session.js";

/** What a close code says, and what a client does: `again` (with back-off), `renew` the token first, or nothing. */
const CODES = {
  1001: ["the platform is shutting down", "again"],
  1012: ["core-manager has restarted", "again"],
  1013: ["the platform asks to come back later", "again"],
  4408: ["the heartbeat was lost", "again"],
  1011: ["an internal error", "again"],
  1006: ["the connection was lost", "again"],
  4401: ["the token has expired", "renew"],
  4403: ["the session has ended", "end"],
  4429: ["you have too many connections; close another one first", "stop"],
  1002: ["a fault of this console (protocol)", "stop"],
  1003: ["a fault of this console (binary frame)", "stop"],
  1007: ["a fault of this console (text)", "stop"],
  1008: ["too many messages, or none were read", "stop"],
  1009: ["a message was too big", "stop"],
};
const FIRST_PAUSE = 500;
const LAST_PAUSE = 30_000;
/** After so many milliseconds without a pong the connection is given up. */
const PONG = 10_000;
/** A browser does not say why a handshake failed. */
const REFUSED = "the connection was not opened; if that lasts, the operator has to name this origin in ALLOWED_ORIGINS";
/** Between two questions where a workflow stands that another connection has started, in milliseconds; and how many. */
const ASK = 4_000;
const QUESTIONS = 30;

/** `state` is "off", "opening", "open", "waiting" or "stopped"; `words` say why. */
export const line = { state: "off", words: "", since: 0 };
/** All workflows of this tab, the newest first. */
export const workflows = [];
/** Fires `line` and `workflow` (with the workflow in `detail`). */
export const wire = new EventTarget();

let socket = null;
let tries = 0;
let wait = 0;
let beat = 0;
const pongs = new Map();

const fire = (name, detail) => wire.dispatchEvent(new CustomEvent(name, { detail }));

function be(state, words = "") {
  Object.assign(line, { state, words, since: Date.now() });
  fire("line");
}

/** Opens the socket unless it is open or being opened. */
export async function open() {
  if (socket || !session.user) return;
  clearTimeout(wait);
  be("opening");
  let token;
  try { token = await renew(); } catch (failure) { return again(failure.plain ?? failure.message); }
  if (socket) return;
  const { protocol, host } = location;
  const own = new WebSocket(`${protocol === "https:" ? "wss" : "ws"}://${host}/ws`, ["persona.v1", `bearer.${token}`]);
  socket = own;
  own.onmessage = ({ data }) => { if (own === socket) take(JSON.parse(data)); };
  own.onclose = ({ code }) => { if (own === socket) closed(code); };
}

function send(type, data, id = newId()) {
  if (socket?.readyState !== WebSocket.OPEN) return false;
  socket.send(JSON.stringify({ type, id, ...(data ? { data } : {}) }));
  return true;
}

function take(message) {
  const { type, correlation_id: of, data, error } = message;
  if (type === "connected") {
    tries = 0;
    be("open");
    startBeating(data.heartbeat_s ?? 25);
    for (const each of workflows) if (!each.over) ask(each);
  } else if (type === "pong") {
    clearTimeout(pongs.get(of));
    pongs.delete(of);
  } else if (type === "error" && error?.code?.startsWith("AUTH")) {
    changed();
  }
  const workflow = workflows.find(({ id }) => id === of);
  if (!workflow) return;
  if (type === "workflow_status") update(workflow, data ?? {});
  else if (type === "error") finish(workflow, { status: workflow.elsewhere ? "unknown" : "refused", error });
}

function update(workflow, data) {
  const { status, step, progress, result, repeated } = data;
  // An answer to a question tells what is known, which may be older than what was seen.
  const isOlder = repeated && status === "in_progress" && (progress ?? 0) < workflow.progress;
  if (!isOlder) Object.assign(workflow, { step: String(step ?? ""), progress: Math.min(Math.max(Number(progress) || 0, 0), 1) });
  if (result !== undefined && result !== null) workflow.result = result;
  if (status === "completed" || status === "failed") return finish(workflow, { status });
  // What was given up may report all the same.
  Object.assign(workflow, { status: "in_progress", elsewhere: Boolean(repeated), over: 0, error: null });
  fire("workflow", workflow);
}

function finish(workflow, changes) {
  Object.assign(workflow, changes, { over: Date.now() });
  if (workflow.status === "completed") workflow.progress = 1;
  fire("workflow", workflow);
}

/** Sends a start, or asks under its id where it stands; goes on asking as long as nobody else tells. */
function ask(workflow) {
  clearTimeout(workflow.asking);
  if (workflow.over || !send("start_workflow", workflow.data, workflow.id)) return;
  if (workflow.sent) workflow.elsewhere = true;
  workflow.sent = true;
  workflow.asking = setTimeout(() => {
    if (workflow.over || !workflow.elsewhere) return;
    workflow.questions += 1;
    if (workflow.questions < QUESTIONS) ask(workflow);
    else finish(workflow, { status: "unknown", error: { code: "", message: "Nothing more is known of it: it reports to a connection that is gone." } });
  }, ASK);
}

/** Starts a workflow, now or once the socket is open. */
export function start(data) {
  const workflow = {
    id: newId(), data, status: "starting", step: "", progress: 0, result: null, error: null, at: Date.now(),
    over: 0, sent: false, elsewhere: false, questions: 0, asking: 0,
  };
  workflows.unshift(workflow);
  fire("workflow", workflow);
  if (line.state === "open") ask(workflow);
  else open();
  return workflow;
}

function startBeating(seconds) {
  clearInterval(beat);
  beat = setInterval(() => {
    const id = newId();
    if (!send("ping", null, id)) return;
    pongs.set(id, setTimeout(() => drop(4408), PONG));
  }, seconds * 1000);
}

function quiet() {
  clearInterval(beat);
  for (const timer of pongs.values()) clearTimeout(timer);
  pongs.clear();
}

/** Gives a connection up that does not answer: closing it in order would wait for the other side. */
function drop(code) {
  const own = socket;
  if (!own) return;
  own.onclose = null;
  own.close();
  closed(code);
}

function closed(code) {
  const wasOpen = line.state === "open";
  socket = null;
  quiet();
  const [said, then] = CODES[code] ?? [`close code ${code}`, "again"];
  const words = code === 1006 && !wasOpen ? REFUSED : said;
  if (!session.user) return be("off");
  if (then === "stop") return be("stopped", `${words} (${code})`);
  if (then === "end") {
    // Also an account that was disabled; the refresh token is the last word.
    be("off", words);
    return renew(true).then(open, (failure) => { if (failure.status === 401) ended("Your session has ended."); else again(words); });
  }
  if (then === "renew") return renew(true).then(open, () => again(words));
  return again(`${words} (${code})`);
}

/** Comes back later: twice as late each time, and not all clients at once. */
function again(words) {
  if (!session.user) return be("off");
  const most = Math.min(FIRST_PAUSE * 2 ** tries, LAST_PAUSE);
  tries += 1;
  const pause = most / 2 + (Math.random() * most) / 2;
  be("waiting", words);
  clearTimeout(wait);
  wait = setTimeout(open, pause);
}

/** Tries at once, after the user has asked for it. */
export function retry() {
  tries = 0;
  open();
}

news.addEventListener("renew", () => { if (session.access) send("auth.refresh", { access_token: session.access }); });
news.addEventListener("end", () => {
  clearTimeout(wait);
  workflows.forEach(({ asking }) => clearTimeout(asking));
  workflows.length = 0;
  if (socket) {
    socket.onclose = null;
    socket.close(1000);
  }
  socket = null;
  quiet();
  be("off");
});
addEventListener("online", () => { if (line.state === "waiting") retry(); });
