// The own projects, page by page.

import { el, heading, section, table, time, dialog, confirm, act, notice } from "./dom.js";
import { form } from "./forms.js";
import { get, post, put, remove, withQuery, part } from "./api.js";

const PAGE = 10;
const PATH = "/api/v1/projects";
/** Cursors of the pages before, by that of the page: the platform only tells the next one. */
const before = new Map();

export async function projects({ query, signal, again }) {
  const cursor = query.get("cursor") ?? "";
  const { projects: list, next_cursor: next } = await get(withQuery(PATH, { limit: PAGE, cursor }), { signal });
  if (next) before.set(next, cursor);
  const edit = act("New project", () => editProject(null, again), { kind: "primary" });
  edit.id = "new-project";
  const columns = [
    { head: "Name", cell: (each) => el("strong", {}, each.name) },
    { head: "Description", cell: (each) => each.description || el("span", { class: "muted" }, "none") },
    { head: "Created", cell: (each) => time(each.created_at) },
    { head: "Actions", cell: (each) => el("div", { class: "row" },
      act("Edit", () => editProject(each, again), { kind: "quiet small", label: `Edit ${each.name}` }),
      act("Delete", () => deleteProject(each, again), { kind: "bad small", label: `Delete ${each.name}` })) },
  ];
  return [
    heading("Projects", "What your workflows belong to.", edit),
    section("Your projects",
      table("Newest first", columns, list, "You have no project yet. Make one: workflows need it."), pages(cursor, next)),
  ];
}

function pages(cursor, next) {
  if (!cursor && !next) return null;
  const link = (to, words) => el("a", { class: "button quiet", href: `#${withQuery("/projects", { cursor: to })}` }, words);
  return el("nav", { class: "row pager", "aria-label": "Pages" },
    cursor ? link(before.get(cursor) ?? "", before.has(cursor) ? "← Newer" : "← Newest") : el("span", {}),
    next ? link(next, "Older →") : el("span", {}));
}

function editProject(project, again) {
  const box = dialog(project ? "Edit the project" : "New project", form({
    submit: project ? "Save" : "Create", busy: "Saving …",
    fields: [
      { name: "name", label: "Name", value: project?.name, required: true, autocomplete: "off" },
      { name: "description", label: "Description", value: project?.description, rows: 3 },
    ],
    run: async (values, key) => {
      if (project) await put(`${PATH}/${part(project.id)}`, values);
      else await post(PATH, values, { key });
      box.close();
      await again();
      notice(project ? "Saved." : "The project is there.");
    },
  }));
}

async function deleteProject(project, again) {
  const sure = await confirm({ title: `Delete ${project.name}?`, text: "Its place in your plan is free again.", action: "Delete" });
  if (!sure) return;
  await remove(`${PATH}/${part(project.id)}`);
  await again();
  notice("The project is deleted.");
}
