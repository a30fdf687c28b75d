// How the edges are, for administrators: asked again every few seconds while somebody looks.

import { el, heading, section, table, time, state, facts } from "./dom.js";
import { problem } from "./forms.js";
import { get } from "./api.js";

const PATH = "/api/v1/admin/edges";
const INTERVAL = 3000;

const ms = (number) => (number < 10 ? number.toFixed(1) : Math.round(number).toLocaleString());

const COLUMNS = [
  { head: "Edge", cell: (edge) => [el("strong", {}, edge.name), " ", el("span", { class: "muted" }, edge.version)] },
  { head: "State", cell: (edge) => [state(edge.state), edge.state === "silent" ? [" since ", time(edge.reported_at)] : null] },
  { head: "Heard", cell: (edge) => `${ms(edge.staleness_ms)} ms before` },
  { head: "Behind", cell: (edge) => (edge.behind === null ? "another table" : `${edge.behind} at ${edge.sequence}`) },
  { head: "Sockets", cell: (edge) => String(edge.open_sockets) },
  { head: "Enforced after", cell: ({ enforcement: took }) => (took ? `${ms(took.last_ms)} ms; p50 ${ms(took.p50_ms)}, p99 ${ms(took.p99_ms)} ms of ${took.count}` : null) },
  { head: "Since", cell: (edge) => time(edge.started_at) },
];

export async function edges({ signal }) {
  const list = el("div", { class: "field" });
  let failed = null;
  const draw = ({ edges: all, sequence }) => {
    failed = null;
    const sockets = all.filter((edge) => edge.state !== "silent").reduce((sum, edge) => sum + edge.open_sockets, 0);
    list.replaceChildren(
      facts([["Edges", all.length], ["Open sockets", sockets], ["Last event", sequence]].map(([name, number]) => [name, String(number)])),
      table("As each told last", COLUMNS, all, "No edge has told how it is."));
  };
  // What goes on failing alike is said once: whoever listens hears each alert that appears.
  const fail = (failure) => {
    if (failed !== failure.message) list.replaceChildren(problem(failure));
    failed = failure.message;
  };
  const ask = async () => {
    // Nobody looks at a page that is hidden, and nothing is to keep its session alive.
    if (document.visibilityState === "visible") {
      try { draw(await get(PATH, { signal })); } catch (failure) { if (failure.name !== "AbortError") fail(failure); }
    }
    if (!signal.aborted) setTimeout(ask, INTERVAL);
  };
  draw(await get(PATH, { signal }));
  setTimeout(ask, INTERVAL);
  return [
    heading("Edges", "What every edge enforces and how far behind it is. Each tells every three seconds; one that has not for eight is silent, and is forgotten after five minutes."),
    section("Now", list),
    section("What this means", facts([
      ["fresh", "Everything that was changed binds there."], ["stale", "What it knows may be old, so it has each request confirmed."],
      ["lost", "It serves nothing that needs live claims."], ["silent", "It has ended, or reaches no identity-svc."],
    ])),
  ];
}
