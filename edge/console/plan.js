// The own plan: what it allows, what is used, and other plans.

import { el, heading, section, facts, time, state, chip, confirm, notice, newId } from "./dom.js";
import { problem } from "./forms.js";
import { get, post, rate, withQuery } from "./api.js";

const RESOURCES = [["personas", "Personas"], ["projects", "Projects"], ["content", "Content"]];
const number = new Intl.NumberFormat();
const money = new Intl.NumberFormat(undefined, { style: "currency", currency: "USD" });
const most = (limit) => (limit < 0 ? "unlimited" : number.format(limit));

export async function plan({ signal, again }) {
  const quota = ([resource]) => get(withQuery("/api/v1/subscription/check-quota", { resource }), { signal });
  const [subscription, { tiers }, usage, ...quotas] = await Promise.all([
    get("/api/v1/subscription", { signal }), get("/api/v1/subscription/tiers", { signal }), get("/api/v1/subscription/usage", { signal }),
    ...RESOURCES.map(quota),
  ]);
  const trouble = el("div", { "aria-live": "assertive" });
  const attempt = (run) => async (event) => {
    const button = event.currentTarget;
    button.disabled = true;
    trouble.replaceChildren();
    try { await run(); } catch (failure) { trouble.replaceChildren(problem(failure)); trouble.scrollIntoView({ block: "center" }); }
    button.disabled = false;
  };
  return [
    heading("Plan and usage"),
    trouble,
    el("div", { class: "two" },
      section("Your plan", subscriptionFacts(subscription), cancel(subscription, attempt, again)),
      section("Usage", RESOURCES.map(([, words], i) => meter(words, quotas[i])),
        el("p", { class: "hint" }, "Last counted: ", time(usage.last_updated)))),
    section("Plans", el("div", { class: "cards" }, tiers.map((tier) => card(tier, subscription, attempt)))),
  ];
}

function subscriptionFacts({ tier, status, start_date: start, end_date: end, trial_ends_at: trial, cancelled_at: cancelled, payment_method: method }) {
  const pairs = [["Plan", state(tier)], ["State", state(status)], ["Since", time(start)]];
  if (trial) pairs.push(["Trial until", time(trial)]);
  if (cancelled) pairs.push(["Cancelled", time(cancelled)]);
  if (end) pairs.push(["Ends", time(end)]);
  if (method) pairs.push(["Paid with", method]);
  if (rate.perMinute) pairs.push(["Requests a minute", `${number.format(rate.perMinute)}, ${number.format(rate.left)} left`]);
  return facts(pairs);
}

function meter(words, { limit, used }) {
  const share = limit < 0 ? 0 : limit === 0 ? 1 : used / limit;
  const kind = share >= 1 ? "bad" : share >= 0.8 ? "warn" : "";
  return el("div", { class: "field" },
    el("div", { class: "row apart" }, el("span", {}, words), el("span", { class: "muted" }, `${number.format(used)} of ${most(limit)}`)),
    el("progress", { max: "1", value: Math.min(share, 1), class: kind, "aria-label": `${words}: ${used} of ${most(limit)}` }));
}

function card(tier, subscription, attempt) {
  const isOwn = tier.name === subscription.tier;
  const buy = (interval, words) => el("button", {
    type: "button", class: interval === "month" ? "primary" : "", "aria-label": `${tier.display_name}, paid ${words}`,
    onclick: attempt(() => checkout(tier, interval)),
  }, words);
  return el("article", { class: isOwn ? "card tier own" : "card tier" },
    el("div", { class: "row apart" }, el("h3", {}, tier.display_name), isOwn ? chip("yours", "good") : null),
    el("p", {}, el("span", { class: "price" }, money.format(tier.price_monthly)), el("span", { class: "muted" }, " a month")),
    tier.description ? el("p", { class: "muted" }, tier.description) : null,
    el("ul", {}, [[tier.max_personas, "persona"], [tier.max_projects, "project"], [tier.max_content_items, "content item"]]
      .map(([limit, word]) => el("li", {}, `${most(limit)} ${word}${limit === 1 ? "" : "s"}`)), (tier.features ?? []).map((feature) => el("li", {}, String(feature)))),
    tier.price_monthly > 0 && !isOwn
      ? [el("p", { class: "hint" }, `${money.format(tier.price_yearly)} a year`), el("div", { class: "row" }, buy("month", "monthly"), buy("year", "yearly"))] : null);
}

async function checkout(tier, interval) {
  const { url } = await post("/api/v1/subscription/checkout", { tier: tier.name, interval }, { key: newId() });
  const sure = await confirm({
    title: `Pay for ${tier.display_name}`, text: `Payment is at ${new URL(url).host}. You leave this console.`, action: "Go there",
  });
  if (sure) location.assign(url);
}

function cancel({ tier, status, cancelled_at: cancelled }, attempt, again) {
  if (tier === "free" || cancelled || status === "canceled" || status === "expired") return null;
  return el("div", {}, el("button", { type: "button", class: "bad", onclick: attempt(async () => {
    const sure = await confirm({
      title: "Cancel your plan?", text: "What is paid for lasts to its end; without an end date the plan ends at once.", action: "Cancel the plan",
    });
    if (!sure) return;
    const { end_date: end } = await post("/api/v1/subscription/cancel");
    await again();
    notice(end && Date.parse(end) > Date.now() ? "Your plan is cancelled and lasts to its end date." : "Your plan has ended.");
  }) }, "Cancel the plan …"));
}
