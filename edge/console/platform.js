// The state of the platform, as far as its public routes tell it. How its parts are is told on the internal listener alone.

import { el, heading, section, facts, state, chip, act } from "./dom.js";
import { get, send, rate } from "./api.js";
import { line } from "./socket.js";

export async function platform({ signal, again }) {
  const asked = performance.now();
  const health = await get("/health", { signal, open: true });
  const took = performance.now() - asked;
  const { keys } = await get("/.well-known/jwks.json", { signal, open: true });
  // An operator can leave the document out.
  const hasDocs = await send("HEAD", "/openapi.json", { signal, open: true }).then(() => true, () => false);
  const limit = rate.perMinute ? `${rate.perMinute} a minute for ${rate.tier}, ${rate.left} left now` : "not limited";
  return [
    heading("Platform", null, act("Ask again", again)),
    section("Edge", facts([
      ["State", state(health.status)], ["Service", health.service], ["Version", health.version], ["Answered in", `${took.toFixed(0)} ms`],
      ["Your requests", limit], ["Your WebSocket", chip(line.state, line.state === "open" ? "good" : "")],
    ])),
    section("Keys of tokens", keys.length
      ? facts(keys.map((key) => [key.kid ?? "–", `${key.kty} ${key.alg ?? ""}`]))
      : el("p", {}, "Tokens are signed with a shared secret (HS256): there are no public keys.")),
    hasDocs ? section("API", el("p", {}, "Every route: ", el("a", { href: "/docs" }, "browse them"), " or ", el("a", { href: "/openapi.json" }, "read the document"), ".")) : null,
    section("More", el("p", {}, "How the services and the database are stands at ", el("code", {}, "/internal/health"),
      " of the internal listener, and numbers at ", el("code", {}, "/internal/metrics"), ". Neither is reachable from here, by design.")),
  ].filter(Boolean);
}
