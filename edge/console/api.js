// Requests to the platform, and what comes back: an answer, or a failure with the code, the words and the id of the error.

import { session, renew, changed } from "./session.js";

/** What this console says for codes whose own words are for programs. */
const PLAIN = {
  AUTH001: "The e-mail address or the password is wrong.",
  SUB002: "Your plan has no place left for this.",
  SUB003: "Nothing can be bought here: the operator of this platform has not connected a payment provider. An administrator can change your plan all the same.",
  GW001: "The service that does this cannot be reached at the moment.",
  GW002: "The service that does this took too long to answer.",
  GW003: "The platform is very busy at the moment.",
  AUTH005: "Too many attempts. Please wait a little.",
  RATE001: "You have used up the requests of this minute.",
  SRV001: "Something went wrong on our side. The operator finds the cause by the request id.",
};

/** A request that did not succeed. `status` 0 means that there was no answer. */
export class Failure extends Error {
  constructor({ status, code = "", message, details = {}, requestId = "", retryAfter = 0, body = null }) {
    super(message);
    Object.assign(this, { name: "Failure", status, code, details, requestId, retryAfter, body });
    this.fields = details.fields ?? {};
  }

  get plain() {
    const quota = this.code === "SUB002" && this.details.limit !== undefined
      ? ` ${this.details.used} of ${this.details.limit} ${this.details.resource ?? ""} are used.` : "";
    return (PLAIN[this.code] ?? this.message) + quota;
  }

  /** All in one line. */
  get inWords() {
    const fields = Object.entries(this.fields).map(([name, fault]) => `${name} ${fault}`).join("; ");
    const id = this.requestId && `request ${this.requestId}`;
    const facts = [this.code, id].filter(Boolean).join(", ");
    return `${this.plain}${fields && ` ${fields}.`}${facts && ` (${facts})`}`;
  }
}

async function failureOf(response) {
  const text = await response.text().catch(() => "");
  let body = text;
  try { body = JSON.parse(text); } catch { /* core-manager may answer with anything. */ }
  const error = body?.error ?? {};
  const retryAfter = Number.parseInt(response.headers.get("retry-after") ?? "", 10) || 0;
  return new Failure({
    status: response.status,
    code: typeof error.code === "string" ? error.code : "",
    message: typeof error.message === "string" ? error.message : `The answer was ${response.status} ${response.statusText}`.trim(),
    details: error.details ?? {},
    requestId: body?.request_id ?? response.headers.get("x-request-id") ?? "",
    retryAfter, body,
  });
}

/** How the caller stands with the limit of the tier, as the last answer said. */
export const rate = { tier: null, perMinute: null, left: null };

function noteRate(headers) {
  const policy = /^"([a-z]+)";q=(\d+)/.exec(headers.get("ratelimit-policy") ?? "");
  const left = /;r=(\d+)/.exec(headers.get("ratelimit") ?? "");
  if (!policy || !left) return;
  Object.assign(rate, { tier: policy[1], perMinute: Number(policy[2]), left: Number(left[1]) });
  if (session.user && session.user.tier !== rate.tier) changed();
}

/**
 * Sends a request and gives the response; `open` ones go without a token. A body is JSON unless it is a form.
 * Throws a Failure.
 */
export async function send(method, path, { body, open = false, key, accept, signal, keepalive = false } = {}) {
  const headers = {};
  if (body !== undefined && !(body instanceof FormData)) headers["content-type"] = "application/json";
  if (key) headers["idempotency-key"] = key;
  if (accept) headers.accept = accept;
  const go = async (token) => {
    if (token) headers.authorization = `Bearer ${token}`;
    const text = body === undefined || body instanceof FormData ? body : JSON.stringify(body);
    try {
      return await fetch(path, { method, headers, body: text, signal, keepalive, credentials: "omit", cache: "no-store", redirect: "manual" });
    } catch (cause) {
      if (cause.name === "AbortError") throw cause;
      throw new Failure({ status: 0, message: "The platform does not answer. Is the network there?" });
    }
  };
  let response = await go(open ? null : await renew());
  if (response.status === 401 && !open) {
    // The token may have ended in between; whether the session has, the refresh token says.
    const failure = await failureOf(response.clone());
    if (failure.code === "AUTH002" || failure.code === "AUTH003") response = await go(await renew(true));
  }
  noteRate(response.headers);
  if (response.ok) return response;
  if (response.status === 403 && !open) changed();
  throw await failureOf(response);
}

/** Like `send`, and gives the JSON of the answer; null where there is none. */
export async function call(method, path, options) {
  const response = await send(method, path, options);
  const text = await response.text();
  if (text === "") return null;
  try { return JSON.parse(text); } catch { return text; }
}

export const get = (path, options) => call("GET", path, options);
export const post = (path, body, options) => call("POST", path, { body: body ?? {}, ...options });
export const put = (path, body, options) => call("PUT", path, { body, ...options });
export const remove = (path, options) => call("DELETE", path, options);

/** A path with parameters, without those that are empty. */
export function withQuery(path, parameters) {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value !== "" && value !== null && value !== undefined));
  const text = query.toString();
  return text ? `${path}?${text}` : path;
}

const part = encodeURIComponent;
export { part };
