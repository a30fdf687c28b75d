// Accounts in bulk: an import, tried first, and an export.

import { el, heading, section, table, facts, notice, say } from "./dom.js";
import { form } from "./forms.js";
import { send, withQuery, Failure } from "./api.js";
import { ROLES, TIERS } from "./users.js";

const FIELDS = ["id", "email", "role", "client_id", "subscription_tier"];

export async function transfer({ signal }) {
  return [
    heading("Import and export"),
    el("div", { class: "two" }, section("Import", ...importPart(signal)), section("Export", exportForm())),
  ];
}

function importPart(signal) {
  const outcome = el("div", { class: "field", role: "status", "aria-live": "polite" });
  let tried = null;
  const enter = form({
    submit: "Upload", busy: "Reading …",
    fields: [
      { name: "file", label: "CSV file", type: "file", required: true, accept: ".csv,text/csv", hint: "Columns: email; if wanted password or password_hash, first_name, last_name, company, email_verified, is_active, created_at." },
      { name: "client_id", label: "Client", required: true, value: "web" },
      { name: "dry_run", label: "Only try", type: "checkbox", value: true, hint: "Says what would happen and changes nothing." },
    ],
    run: async ({ file, client_id: client, dry_run: isTrial }) => {
      const body = new FormData();
      body.append("client_id", client);
      body.append("file", file);
      outcome.replaceChildren();
      const response = await send("POST", withQuery("/api/v1/admin/users/import", { dry_run: isTrial }), { body, accept: "application/x-ndjson", signal });
      const tally = await follow(response, (progress) => outcome.replaceChildren(el("p", {}, `${progress.total} rows so far …`)));
      outcome.replaceChildren(...report(tally));
      say(isTrial ? "The trial is done." : "The import is done.");
      if (!isTrial) notice(`${tally.created} accounts are made.`);
      tried = isTrial ? file : tried;
      if (isTrial) enter.inputs.dry_run.checked = false;
    },
  });
  enter.addEventListener("change", ({ target }) => {
    // Another file is tried first, too.
    if (target === enter.inputs.file && target.files[0] !== tried) enter.inputs.dry_run.checked = true;
  });
  return [enter, outcome];
}

/** Reads lines of JSON as they come; the last has the result or the error. */
async function follow(response, each) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let result = null;
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    const lines = (rest + part.value).split("\n");
    rest = lines.pop();
    for (const line of lines.filter(Boolean).map(JSON.parse)) {
      if (line.error) {
        const { code, message, details = {} } = line.error;
        throw new Failure({ status: 200, code, message: `${message}. ${details.rows_done ?? 0} rows were done.`, details, requestId: line.request_id });
      }
      if (line.result) result = line.result; else if (line.progress) each(line.progress);
    }
  }
  if (!result) throw new Failure({ status: 0, message: "The answer broke off. An import may be repeated as a whole: what is there stays." });
  return result;
}

function report(tally) {
  const columns = [
    { head: "Row", cell: (error) => String(error.row) }, { head: "Field", cell: (error) => el("code", {}, error.field) }, { head: "Fault", cell: (error) => error.message },
  ];
  const words = tally.dry_run ? ["Would be made", "This was a trial; nothing is changed. Upload again to import."] : ["Made", "The accounts are there."];
  return [
    el("p", { class: "note" }, words[1]),
    facts([["Rows", String(tally.total)], [words[0], String(tally.created)], ["There already", String(tally.unchanged)], ["Refused", String(tally.failed)]]),
    tally.errors.length ? table("What was refused", columns, tally.errors) : null,
  ].filter(Boolean);
}

function exportForm() {
  return form({
    submit: "Download", busy: "Collecting …",
    fields: [
      { name: "format", label: "Format", options: ["csv", "json"] },
      { name: "email", label: "E-mail has" },
      { name: "client_id", label: "Client" },
      { name: "role", label: "Role", options: [["", "any"], ...ROLES] },
      { name: "tier", label: "Plan", options: [["", "any"], ...TIERS] },
      { name: "is_active", label: "Active", options: [["", "any"], ["true", "yes"], ["false", "no"]] },
      { name: "fields", label: "Columns", options: [["all", "all"], ["few", FIELDS.join(", ")]] },
    ],
    run: async ({ format, fields, ...wanted }) => {
      const filters = Object.fromEntries(Object.entries(wanted).filter(([, value]) => value !== ""));
      if (filters.is_active) filters.is_active = filters.is_active === "true";
      const response = await send("POST", "/api/v1/admin/users/export", { body: { format, filters, fields: fields === "few" ? FIELDS : [] } });
      const name = /filename="([^"]+)"/.exec(response.headers.get("content-disposition") ?? "")?.[1] ?? `users.${format}`;
      // What breaks off in the middle rejects here, so that nobody takes a part for the whole.
      const file = await response.blob().catch(() => { throw new Failure({ status: 0, message: "The export broke off. Please try again." }); });
      const address = URL.createObjectURL(file);
      el("a", { href: address, download: name }).click();
      setTimeout(() => URL.revokeObjectURL(address), 60_000);
      notice(`${name} is downloaded.`);
    },
  });
}
