// Workflows: started over the WebSocket, watched as they go.

import { el, heading, section, state, chip, raw, say } from "./dom.js";
import { form, problem } from "./forms.js";
import { get } from "./api.js";
import { line, wire, workflows as all, open, retry, start } from "./socket.js";
import { listIn, nameOf } from "./personas.js";

const LINES = { off: ["not connected", ""], opening: ["connecting", "info"], open: ["live", "good"], waiting: ["reconnecting", "warn"], stopped: ["stopped", "bad"] };

export async function workflows({ signal }) {
  open();
  const [own, personas] = await Promise.all([
    get("/api/v1/projects?limit=100", { signal }),
    get("/api/v1/personas/instances", { signal }).catch((failure) => {
      if (failure.name === "AbortError") throw failure;
      return failure;
    }),
  ]);
  const list = el("div", { class: "cards", id: "workflows" });
  const connection = el("div", { class: "row", id: "connection" });
  const drawn = new Map();
  const drawLine = () => drawConnection(connection);
  const drawWorkflow = ({ detail: workflow }) => {
    const card = drawn.get(workflow.id) ?? newCard(workflow);
    if (!drawn.has(workflow.id)) { drawn.set(workflow.id, card); list.prepend(card.node); }
    card.draw();
    drawEmpty();
  };
  const empty = el("p", { class: "empty" }, "None was started in this tab.");
  const drawEmpty = () => { empty.hidden = all.length > 0; };
  wire.addEventListener("line", drawLine, { signal });
  wire.addEventListener("workflow", drawWorkflow, { signal });
  wire.addEventListener("workflow", announce, { signal });
  [...all].reverse().forEach((workflow) => drawWorkflow({ detail: workflow }));
  drawLine();
  drawEmpty();
  return [
    heading("Workflows", "Started over one WebSocket, and watched live; several run at once.", connection),
    el("div", { class: "two" },
      section("Start a workflow", own.projects.length
        ? starter(own.projects, personas)
        : el("p", {}, "A workflow belongs to a project: ", el("a", { href: "#/projects" }, "make one first"), ".")),
      section("In this tab", empty, list)),
  ];
}

function drawConnection(place) {
  const [words, kind] = LINES[line.state];
  const again = line.state === "stopped" || line.state === "waiting"
    ? el("button", { type: "button", class: "quiet small", onclick: retry }, "Connect now") : null;
  const parts = [chip(words, kind)];
  if (line.words && line.state !== "open") parts.push(el("span", { class: "muted" }, line.words));
  if (again) parts.push(again);
  place.replaceChildren(...parts);
}

function starter(projects, personas) {
  const known = personas instanceof Error ? [] : listIn(personas);
  const instance = known.length
    ? { options: known.map((each) => [each.id, nameOf(each)]) }
    : { hint: "The id of an instance; core-manager lists none of yours." };
  const enter = form({
    submit: "Start", busy: "Starting …",
    fields: [
      { name: "workflow_type", label: "Type", value: "demo", required: true, autocomplete: "off" },
      { name: "agent_instance_id", label: "Persona", required: true, autocomplete: "off", ...instance },
      { name: "project_id", label: "Project", required: true, options: projects.map(({ id, name }) => [id, name]) },
      { name: "parameters", label: "Parameters", type: "json", rows: 4, value: JSON.stringify({ steps: 8, step_ms: 400 }), hint: "A JSON object. core-manager gets it as it is." },
    ],
    run: async ({ parameters, ...values }) => {
      start({ ...values, parameters: JSON.parse(parameters.trim() || "{}") });
      say("The workflow is on its way.");
    },
  });
  return personas instanceof Error ? [problem(personas), enter] : enter;
}

/** A workflow as a card that is drawn again as it goes on. */
function newCard(workflow) {
  const bar = el("progress", { max: "1", value: 0, "aria-label": `Progress of ${workflow.data.workflow_type}` });
  const head = el("div", { class: "row apart" });
  const step = el("p", { class: "muted" });
  const rest = el("div", {});
  const node = el("article", { class: "card", "data-id": workflow.id }, head, bar, step, rest);
  let shown = "";
  const draw = () => {
    const { status, progress, over, at, result, error } = workflow;
    bar.value = progress;
    bar.className = { completed: "good", failed: "bad", refused: "bad", unknown: "warn" }[status] ?? "";
    const seconds = over ? ` · ${((over - at) / 1000).toFixed(1)} s` : "";
    step.textContent = `${Math.round(progress * 100)} %${workflow.step && ` · ${workflow.step}`}${seconds}`;
    if (workflow.elsewhere && !over) step.textContent += " · asked after a reconnection";
    if (shown === status) return;
    shown = status;
    head.replaceChildren(el("h3", {}, workflow.data.workflow_type), state(status));
    rest.replaceChildren(...[
      error && el("div", { class: "problem" }, el("p", {}, el("strong", {}, error.message ?? "refused")),
        el("p", { class: "muted" }, [error.code, ...Object.entries(error.details ?? {}).map(([name, value]) => `${name}: ${typeof value === "object" ? JSON.stringify(value) : value}`)].filter(Boolean).join(" · "))),
      over && result !== null ? raw(result, "Result") : null,
    ].filter(Boolean));
  };
  return { node, draw };
}

function announce({ detail: workflow }) {
  if (!workflow.over || workflow.told) return;
  workflow.told = true;
  say(`The workflow ${workflow.data.workflow_type}: ${workflow.status}.`);
}
