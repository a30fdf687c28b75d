// Personas: core-manager's, through the gateway. Its answers are shown as they are, whatever their shape.

import { el, heading, section, table, time, state, dialog, confirm, act, notice, raw } from "./dom.js";
import { form } from "./forms.js";
import { get, post, put, remove, part } from "./api.js";

const PATH = "/api/v1/personas/instances";

/** The first list of objects with an id in an answer. */
export function listIn(answer) {
  const lists = Array.isArray(answer) ? [answer] : Object.values(answer ?? {}).filter(Array.isArray);
  return lists.find((list) => list.every((each) => typeof each?.id === "string")) ?? [];
}

/** What a persona is called. */
export const nameOf = (each) => (typeof each.name === "string" && each.name ? each.name : each.id);

export async function personas({ signal, again }) {
  const answer = await get(PATH, { signal });
  const list = listIn(answer);
  const columns = [
    { head: "Name", cell: (each) => el("strong", {}, nameOf(each)) },
    { head: "State", cell: (each) => (typeof each.status === "string" ? state(each.status) : null) },
    { head: "Created", cell: (each) => (typeof each.created_at === "string" ? time(each.created_at) : null) },
    { head: "All", cell: (each) => raw(each, "Show") },
    { head: "Actions", cell: (each) => el("div", { class: "row" },
      act("Edit", () => edit(each, again), { kind: "quiet small", label: `Edit ${nameOf(each)}` }),
      act("Delete", () => deletePersona(each, again), { kind: "bad small", label: `Delete ${nameOf(each)}` })) },
  ];
  return [
    heading("Personas", "Instances that core-manager keeps for you, reached through the gateway.",
      act("New persona", () => create(again), { kind: "primary" })),
    section("Your personas", table("As core-manager lists them", columns, list, "You have no persona yet."), raw(answer, "The whole answer of core-manager")),
  ];
}

function create(again) {
  write({ title: "New persona", submit: "Create", name: "", rest: "", done: "The persona is there.", again, send: (body, key) => post(PATH, body, { key }) });
}

/** What core-manager keeps of a persona is replaced as a whole, with what it had shown. */
function edit(persona, again) {
  const { id, name, ...rest } = persona;
  write({ title: "Edit the persona", submit: "Save", name, rest: JSON.stringify(rest, null, 2), done: "Saved.", again,
    send: (body) => put(`${PATH}/${part(id)}`, body) });
}

function write({ title, submit, name, rest, done, again, send }) {
  const box = dialog(title, form({
    submit, busy: "Saving …",
    fields: [
      { name: "name", label: "Name", value: name, required: true, autocomplete: "off" },
      { name: "more", label: "Further fields", type: "json", rows: 4, value: rest, hint: "A JSON object, such as {\"template_id\": \"…\"}. core-manager gets it as it is." },
    ],
    run: async (values, key) => {
      await send({ ...JSON.parse(values.more.trim() || "{}"), name: values.name }, key);
      box.close();
      await again();
      notice(done);
    },
  }));
}

async function deletePersona(persona, again) {
  const sure = await confirm({ title: `Delete ${nameOf(persona)}?`, text: "Its place in your plan is free again.", action: "Delete" });
  if (!sure) return;
  await remove(`${PATH}/${part(persona.id)}`);
  await again();
  notice("The persona is deleted.");
}
