// One change to many accounts at once, chosen from a list of them.

import { el, section, table, confirm, notice } from "./dom.js";
import { form } from "./forms.js";
import { post } from "./api.js";

const OPERATIONS = [["deactivate", "disable"], ["activate", "enable"], ["upgrade_tier", "move to a higher plan"], ["delete", "delete"]];

/** A box for each account, and the form that changes those that are ticked. Gives the box of an account, and the form. */
export function bulk(accounts, tiers, again) {
  const chosen = new Set();
  const count = el("strong", { "aria-live": "polite" }, "None chosen");
  const choose = ({ id, email }) => el("input", { type: "checkbox", "aria-label": `Choose ${email}`, onchange: (event) => {
    if (event.target.checked) chosen.add(id); else chosen.delete(id);
    count.textContent = chosen.size ? `${chosen.size} chosen` : "None chosen";
  } });
  const results = el("div", { class: "field" });
  const run = async ({ operation, tier, reason }) => {
    if (chosen.size === 0) return notice("Choose accounts in the list first.", "info");
    const words = OPERATIONS.find(([name]) => name === operation)[1];
    const sure = await confirm({
      title: `${chosen.size} accounts: ${words}?`, action: "Go on", typed: operation === "delete" ? String(chosen.size) : undefined,
      text: operation === "delete" ? "All that is theirs goes with them. This cannot be undone." : "It counts from their next request on.",
    });
    if (!sure) return undefined;
    const body = { user_ids: [...chosen], operation, params: operation === "upgrade_tier" ? { tier } : undefined, reason };
    const { succeeded, failed } = await post("/api/v1/admin/users/bulk", body);
    notice(`Done for ${succeeded.length} of ${chosen.size}.`, failed.length ? "info" : "good");
    if (failed.length === 0) return again();
    const emails = new Map(accounts.map((user) => [user.id, user.email]));
    return results.replaceChildren(table("Refused", [
      { head: "Account", cell: (each) => emails.get(each.user_id) ?? each.user_id },
      { head: "Why", cell: ({ error }) => `${error.message} (${error.code})` },
    ], failed));
  };
  const change = form({
    submit: "Change them", inline: true, kind: "", run, extra: [count],
    fields: [
      { name: "operation", label: "What", options: OPERATIONS }, { name: "tier", label: "Which plan", options: tiers },
      { name: "reason", label: "Why, for the log", maxlength: 500, autocomplete: "off" },
    ],
  });
  return { choose, part: section("Change those that are chosen", change, results) };
}
