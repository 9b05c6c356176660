// The pages of one user and of one run, and the figures over a longer time.

import { historyChart, runLine } from "./charts.js";
import { $, ago, api, ask, draw, duration, forget, h, moment, optional, percent, plural, sentence, tag, words } from "./page.js";
import { RANGES, linkTo } from "./place.js";

const HISTORY_EVERY_MS = 60_000;
const CONNECTIONS_EVERY_MS = 5000;
const CONNECTIONS = 50;
const MOST_CONNECTIONS = 1000;
const MAX_RUN = 1000;
const ENDS = ["agent_completed", "agent_failed", "auth_completed", "auth_failed"];

let page = null;
let historyAt = 0;
let historyOf = null;
let told = null; // the last answer about history, for a redraw in another width

/** @param {{mayOperate(): boolean, mayEmit(): boolean, choose(id): void, go(place): void, reread(): void}} given */
export function startViews(given) {
  page = given;
  for (const name of Object.keys(RANGES)) {
    $("ranges").append(h("button", { type: "button", class: "quiet", "data-range": name, onclick: () => page.go({ range: name }) }, name));
  }
  let width = 0;
  new ResizeObserver(([entry]) => {
    if (Math.round(entry.contentRect.width) === width || !told) return;
    width = Math.round(entry.contentRect.width);
    forget("history");
    drawHistory();
  }).observe($("history"));
}

// ---- figures over time

export async function readHistory(range, isMine) {
  for (const button of $("ranges").children) button.setAttribute("aria-pressed", String(button.dataset.range === range));
  if (range === historyOf && Date.now() - historyAt < HISTORY_EVERY_MS) return;
  const to = new Date();
  const from = new Date(to - RANGES[range] * 1000);
  const answer = await api(`v1/history?${new URLSearchParams({ from: from.toISOString(), to: to.toISOString() })}`);
  if (!isMine()) return;
  [historyAt, historyOf, told] = [Date.now(), range, answer];
  drawHistory();
}

export const forgetHistory = () => ([historyAt, historyOf, told, connectionsAt, webhooksAt] = [0, null, null, 0, 0]);

function drawHistory() {
  const share = (value) => percent(value);
  const time = (ms) => (ms === 0 ? "0" : duration(ms));
  const number = (value) => (value < 100 && value % 1 ? value.toFixed(1) : Math.round(value).toLocaleString());
  const charts = [
    ["Events per second", [["events", (x) => x.events_per_s]], number, {}],
    ["Delivered", [["delivered", (x) => x.delivery_rate]], share, { ceiling: 1 }],
    ["Needed a fallback", [["fallback", (x) => x.fallback_share]], share, { ceiling: 0.1 }],
    ["Acknowledged in: median, and p99 (dashed)", [["median", (x) => x.ack_ms.p50], ["p99", (x) => x.ack_ms.p99]], time, {}],
    ["Connections", [["connections", (x) => x.connections]], number, {}],
    ["Dead events", [["dead", (x) => x.dead]], number, { ceiling: 1 }],
  ];
  draw("history", [told], () => charts.map(([title, lines, format, more]) =>
    h("figure", { class: "chart-box" }, h("figcaption", {}, title),
      historyChart(told, { title, lines, format, width: chartWidth(), ...more }))));
}

function chartWidth() {
  const [column] = getComputedStyle($("history")).gridTemplateColumns.split(" ");
  return Math.max(220, Math.floor(parseFloat(column) || 400));
}

// ---- who is connected

let connectionsAt = 0;
let connectionsLimit = CONNECTIONS;

export async function readConnections(isMine) {
  if (Date.now() - connectionsAt < CONNECTIONS_EVERY_MS) return;
  const { connections, next, total } = await api(`v1/connections?limit=${connectionsLimit}`);
  if (!isMine()) return;
  connectionsAt = Date.now();
  $("connections-count").textContent = plural(total, "connection");
  $("connections-empty").hidden = connections.length > 0;
  $("connections-list").hidden = connections.length === 0;
  $("connections-more").hidden = next === null || connectionsLimit >= MOST_CONNECTIONS;
  $("connections-more").onclick = () => {
    connectionsLimit = Math.min(MOST_CONNECTIONS, connectionsLimit * 4);
    connectionsAt = 0;
    page.reread();
  };
  draw("connections", connections, () => connections.map((one) =>
    h("tr", {}, h("td", {}, h("a", { href: linkTo("user", one.user_id) }, one.user_id)), h("td", {}, one.device ?? "–"),
      h("td", {}, one.transport ?? "–"), h("td", {}, one.node), h("td", {}, moment(one.since)), h("td", {}, healthOf(one.health)))));
}

// ---- the application's endpoints

let webhooksAt = 0;
const WEBHOOKS_EVERY_MS = 10_000;

/** @param {() => boolean} isMine */
export async function readWebhooks(isMine) {
  if (Date.now() - webhooksAt < WEBHOOKS_EVERY_MS) return;
  const answer = await optional("v1/webhooks");
  if (!isMine()) return;
  webhooksAt = Date.now();
  const { webhooks } = answer ?? { webhooks: [] };
  $("webhooks-panel").hidden = webhooks.length === 0;
  draw("webhooks", [webhooks, page.mayOperate()], () => webhooks.map((one) =>
    h("tr", {},
      h("td", {}, one.name), h("td", {}, tag(one.state), one.reason ? ` ${one.reason}` : ""),
      h("td", { class: "num" }, one.waiting.toLocaleString()), h("td", { class: "num" }, one.failed.toLocaleString()),
      h("td", {}, one.last_error ? h("span", { title: one.last_error }, one.last_error.slice(0, 120)) : "–",
        one.last_error_at ? h("small", {}, " ", moment(one.last_error_at)) : ""),
      h("td", {}, one.url ?? "–"),
      h("td", {}, ...(page.mayOperate() ? [
        webhookButton(one, one.state === "on" ? "Switch off…" : "Switch on…", one.state === "on" ? "disable" : "enable"), " ",
        webhookButton(one, "Replay a day…", "replay"),
      ] : ["–"])))));
}

const MEANT = {
  enable: ["Switch this webhook on?", "What waits is sent now. What happened while it was off is not told, unless you replay it.", "Switch on"],
  disable: ["Switch this webhook off?", "It is told nothing until it is switched on again.", "Switch off"],
  replay: ["Tell this webhook once more?", "All that happened within the last 24 hours is told again, with the ids that it had.", "Replay"],
};

function webhookButton(one, label, verb) {
  return h("button", {
    type: "button", class: "link", "data-key": `webhook-${one.name}-${verb}`,
    "aria-label": `${label.replace("…", "")}: ${one.name}`, onclick: () => changeWebhook(one, verb),
  }, label);
}

async function changeWebhook({ name }, verb) {
  const [title, text, yes] = MEANT[verb];
  if (!(await ask(title, `${name}: ${text}`, yes))) return;
  const path = `v1/webhooks/${encodeURIComponent(name)}/${verb}`;
  try {
    if (verb === "replay") $("webhooks-note").textContent = `${name}: ${plural(await replayDay(path), "message")} told again.`;
    else $("webhooks-note").textContent = `${name} is ${(await api(path, {})).state}.`;
  } catch (error) {
    $("webhooks-note").textContent = `${name}: ${error.message}`;
  }
  webhooksAt = 0;
  page.reread();
}

/** A long replay is asked for piece by piece. */
async function replayDay(path) {
  let [count, since] = [0, new Date(Date.now() - 86_400_000).toISOString()];
  while (since) {
    const done = await api(path, { since });
    [count, since] = [count + done.messages, done.next];
  }
  return count;
}

// ---- one user

export async function readUser(id, isMine) {
  const user = await api(`v1/users/${encodeURIComponent(id)}`);
  if (!isMine()) return;
  draw("user-title", id, () => [`User ${id}`]);
  const isAway = user.connections.length === 0;
  draw("user-facts", [user.open, user.contact, user.connections.length], () => {
    const open = Object.entries(user.open);
    const contact = user.contact ?? {};
    const facts = [
      ["Connected", isAway ? "no" : plural(user.connections.length, "connection")],
      ["Unconfirmed", open.length ? open.map(([state, count]) => `${count.toLocaleString()} ${words(state)}`).join(", ") : "none"],
      ["Mail", contact.email ?? "–"], ["Phone", contact.phone ?? "–"],
      ["Push targets", contact.push?.length ? contact.push.join(", ") : "–"],
      ["Language", contact.locale ?? "–"], ["Time zone", contact.time_zone ?? "–"],
      ["Quiet hours", contact.quiet_hours ? `${contact.quiet_hours.from}–${contact.quiet_hours.to}` : "–"],
      ["Opted out", contact.opt_out?.length ? contact.opt_out.join(", ") : "–"],
      ["Not verified", contact.unverified?.length ? contact.unverified.join(", ") : "–"],
      ["Suppressed", contact.suppressed?.length ? contact.suppressed.map((one) => `${words(one.channel)}: ${words(one.reason)}`).join(", ") : "–"],
    ];
    return facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)));
  });
  draw("user-connections", user.connections, () => user.connections.map((one) =>
    h("tr", {}, h("td", {}, one.device ?? "–"), h("td", {}, one.transport ?? "–"), h("td", {}, one.node),
      h("td", {}, moment(one.since)), h("td", {}, healthOf(one.health)))));
  draw("user-events", [user.events, page.chosen()], () => user.events.map((event) =>
    h("tr", { class: event.id === page.chosen() ? "chosen" : null },
      h("td", {}, h("button", { type: "button", class: "link", "data-key": event.id, onclick: () => page.choose(event.id) }, words(event.type))),
      h("td", {}, h("a", { href: linkTo("run", event.run_id) }, event.run_id)), h("td", {}, tag(event.state)), h("td", {}, moment(event.at)))));
  $("user-empty").hidden = user.events.length > 0;
  $("user-events-list").hidden = user.events.length === 0;
  $("user-all").href = `#${new URLSearchParams({ user_id: id })}`;
  $("user-connections-list").hidden = isAway;
  $("user-away").hidden = !isAway;
  $("user-disconnect").hidden = !page.mayOperate() || isAway;
  $("user-test").hidden = !page.mayEmit();
  $("user-disconnect").onclick = () => disconnect(id);
  $("user-test").onclick = () => sendTest(id);
}

function healthOf(score) {
  if (score === null) return "–";
  const tone = score >= 70 ? "good" : score >= 30 ? "warn" : "bad";
  return h("span", { class: `tag ${tone}` }, `${score} of 100`);
}

async function disconnect(id) {
  const isMeant = await ask(`Disconnect ${id}?`,
    "Every connection of this user is closed, on every node, and does not come back by itself. The token stays good.", "Disconnect");
  if (!isMeant) return;
  await act(() => api(`v1/users/${encodeURIComponent(id)}/disconnect`, {}), "Disconnected.");
}

async function sendTest(id) {
  const isMeant = await ask(`Send ${id} a test event?`,
    "An event of type dashboard.test goes to this user's clients. Without an acknowledgement the chain of its class begins.", "Send");
  if (!isMeant) return;
  const run = `dashboard-${new Date().toISOString().slice(0, 10)}`;
  await act(async () => {
    const answer = await api("v1/events", {
      type: "dashboard.test", user_id: id, run_id: run,
      data: { title: "A test", text: "Sent from the dashboard" },
    });
    page.choose(answer.accepted[0].id);
  }, "Sent: its way is below.");
}

async function act(work, done) {
  try {
    await work();
    $("user-note").textContent = done;
  } catch (error) {
    $("user-note").textContent = error.message;
  }
  page.reread();
}

// ---- one run

export async function readRun(id, isMine) {
  const answer = await api(`v1/events?${new URLSearchParams({ run_id: id, limit: String(MAX_RUN) })}`);
  if (!isMine()) return;
  const events = answer.events.toReversed();
  draw("run-title", id, () => [`Run ${id}`]);
  $("run-empty").hidden = events.length > 0;
  $("run-cut").hidden = answer.next === null;
  if (!events.length) {
    draw("run-way", [], () => []);
    draw("run-events", [], () => []);
    draw("run-verdict", [], () => []);
    return;
  }
  const last = events.at(-1);
  const stuck = events.find(({ state }) => !["confirmed"].includes(state));
  const cause = stuck ? (await api(`v1/events/${stuck.id}`)).cause : null;
  if (!isMine()) return;
  draw("run-verdict", [last, cause, stuck?.id, events.length, Math.floor(Date.now() / 60_000)], () => verdictOf(events, stuck, cause));
  draw("run-way", [events, $("run-way").clientWidth], () => [runLine(events, Math.max(300, $("run-way").clientWidth - 2))]);
  const start = Date.parse(events[0].at);
  draw("run-events", [events, page.chosen()], () => events.map((event, at) =>
    h("tr", { class: event.id === page.chosen() ? "chosen" : null },
      h("td", { class: "num" }, String(event.seq ?? "–")),
      h("td", {}, h("button", { type: "button", class: "link", "data-key": `run-${event.id}`, onclick: () => page.choose(event.id) }, words(event.type))),
      h("td", { class: "num" }, at === 0 ? "0" : `+${duration(Date.parse(event.at) - start)}`),
      h("td", {}, tag(event.state)), h("td", {}, h("a", { href: linkTo("user", event.user_id) }, event.user_id)),
      h("td", {}, moment(event.at)))));
}

function verdictOf(events, stuck, cause) {
  const last = events.at(-1);
  const took = Date.parse(last.at) - Date.parse(events[0].at);
  const isOver = ENDS.includes(last.type);
  const end = isOver
    ? `Ended with ${words(last.type)} after ${duration(took)}, ${plural(events.length, "event")}.`
    : `The last word is ${words(last.type)}, ${ago(last.at)} ago: ${plural(events.length, "event")}, and no end yet.`;
  return [
    h("p", {}, end),
    stuck
      ? h("p", { class: "cause warn" }, h("button", { type: "button", class: "link", onclick: () => page.choose(stuck.id) }, words(stuck.type)), " is the first that did not arrive. ", ...sentence(cause ?? ""))
      : h("p", { class: "cause good" }, "Every event of it reached its user."),
  ];
}
