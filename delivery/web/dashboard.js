// The operators' page. The service tells it what changed; it then reads the lists that it shows.

import { placeOf, sparkline, timeline } from "./charts.js";
import {
  $, ApiError, api, duration, endSession, follow, h, linked, moment, openSession, percent,
  session as renew, tag, words,
} from "./page.js";

const RETRY_MS = 3000;
const RENEW_MS = 300_000; // far below the half hour of a session
const MAX_SAMPLES = 360;
const SUPPRESSED_EVERY_MS = 10_000;
const ID = /^[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}$/i;
const REPLAYABLE = ["dead", "parked", "expired", "accepted", "sent", "falling_back"];
const CONDITIONS = {
  delivery_rate: ["Delivery rate is fine", "Delivery rate is too low"],
  fallback_share: ["Few events fall back", "Too many events fall back"],
  performance_mode: ["Full delivery effort", "Performance mode is active"],
  breaker_open: ["All channels work", "A breaker stays open"],
  overdue: ["Nothing waits", "What is due waits for workers"],
  dead_events: ["Few events are dead", "Many events are dead"],
  set_aside: ["No event is set aside", "Accepted events are set aside"],
  webhooks_off: ["All webhooks are on", "Webhooks are switched off"],
};
const EXPECTED = ["state", "user_id", "run_id", "type", "id"];

const shown = new Map(); // element id -> what it was last drawn from
const opened = new Map(); // messages that the reader opened or closed

let session = null; // what this browser may do, while it is signed in
let mayOperate = false;
let isStarted = false;
let hasComplained = false;
let chosen = null; // id of the event in the detail panel
let current = null; // that event
let reveal = false; // bring the detail panel into view when it is drawn next
let follows = false; // always show the newest event that fits: the demonstration's view
let pages = 1;
let turn = 0; // answers of an older turn (before a new filter, a sign-out) are dropped
let reading = null;
let isStale = false;
let samples = [];
let messages = [];
let suppressedAt = 0; // when the suppressed addresses were read
let stream = null;

/** Redraw only what changed, so that focus, selection and scrolling survive an update. */
function draw(id, value, make) {
  const print = JSON.stringify(value);
  if (shown.get(id) === print) return;
  shown.set(id, print);
  const focused = document.activeElement?.dataset?.key;
  $(id).replaceChildren(...make());
  if (focused) $(id).querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
}

// ---- figures

function drawFigures({ stats, conditions, nodes, channel_ms: channelMs }) {
  drawConditions(conditions);
  const minutes = Math.round(stats.window_s / 60);
  const last = `last ${minutes} min`;
  const breakers = Object.values(stats.channels).filter(({ breaker }) => breaker !== "closed").length;
  const dead = stats.states.dead ?? 0;
  const tiles = [
    ["Delivered", percent(stats.delivery_rate), last, (x) => x.delivery_rate, { ceiling: 1 }],
    ["Events", stats.events_per_s.toFixed(1), "per second", (x) => x.events_per_s],
    ["Acknowledged in", duration(stats.ack_ms.p50), "median (p50)", (x) => x.p50],
    ["99 of 100 in", duration(stats.ack_ms.p99), "p99", (x) => x.p99],
    ["Needed a fallback", percent(stats.fallback_share), last, (x) => x.fallback_share, { ceiling: 0.1 }],
    ["Connections", stats.connections.toLocaleString(), "live", (x) => x.connections],
    ["Open breakers", String(breakers), "channels", (x) => x.open_breakers, { ceiling: 1 }],
    ["Dead events", dead.toLocaleString(), "unconfirmed", (x) => x.dead, { ceiling: 1 }],
  ];
  draw("tiles", [tiles, samples.length, samples.at(-1)?.at], () =>
    tiles.map(([name, figure, note, pick, range]) =>
      h("div", { class: "tile" }, h("dt", {}, name), h("dd", {}, `${figure} `, h("small", {}, note)),
        h("dd", { class: "chart", "aria-hidden": "true" }, sparkline(samples, pick, range)))),
  );
  draw("alerts", stats.alerts, () =>
    stats.alerts.map((alert) => alert.class === null ?
      h("p", { class: "alert" },
        h("strong", {}, alert.notified_at ? "Operators were told: " : "Not told to operators, as no receiver took it: "),
        alert.conditions.map(({ name, where }) => [CONDITIONS[name]?.[1] ?? words(name), ...where].join(" ")).join("; "),
        " since ", moment(alert.since)) :
      h("p", { class: "alert" },
        h("strong", {}, `${alert.count} ${words(alert.class)} event${alert.count === 1 ? " is" : "s are"} dead`),
        ` for ${alert.users} user${alert.users === 1 ? "" : "s"} since `, moment(alert.since),
        alert.notified_at ? ", operators were told " : ", not told to operators, as no receiver took it ",
        h("button", { type: "button", class: "link", onclick: () => filterBy({ state: "dead" }) }, "Show them")),
    ),
  );
  drawStates(stats.states);
  draw("channels", [stats.channels, channelMs], () =>
    Object.entries(stats.channels).map(([name, channel]) =>
      h("tr", {}, h("td", {}, words(name)), h("td", { class: "num" }, channel.attempts.toLocaleString()),
        h("td", { class: "num" }, channel.attempts ? percent(channel.ok / channel.attempts) : "–"),
        h("td", { class: "num" }, duration(channelMs[name])), h("td", {}, tag(channel.breaker)))),
  );
  draw("nodes", nodes, () =>
    nodes.map((node) =>
      h("tr", {}, h("td", {}, node.node), h("td", {}, node.kind),
        h("td", { class: "num" }, node.connections.toLocaleString()), h("td", {}, moment(node.seen_at)))),
  );
}

/** What this gateway cannot do now: the service says it in a sentence. */
function drawOutages(outages) {
  draw("outages", outages, () =>
    outages.map(({ service, text, since }) =>
      h("p", { class: "alert" }, h("strong", {}, `${words(service)}: `), text, ", since ", moment(since))));
}

function drawConditions(conditions) {
  draw("conditions", conditions, () =>
    conditions.map(({ name, level, where }) =>
      h("li", { class: level },
        h("span", { class: "lamp", "aria-hidden": "true" }, level === "ok" ? "✓" : "!"),
        h("span", {}, CONDITIONS[name]?.[level === "ok" ? 0 : 1] ?? words(name),
          where.length ? `: ${where.map(words).join(", ")}` : ""))),
  );
}

function drawStates(counts) {
  const states = Object.entries(counts);
  const most = Math.max(1, ...states.map(([, count]) => count));
  draw("states", states, () =>
    states.map(([name, count]) =>
      h("li", {}, h("span", {}, tag(name)),
        h("meter", { min: 0, max: most, value: count, "aria-label": `${words(name)}: ${count}` }),
        h("b", {}, count.toLocaleString()))),
  );
}

// ---- events

function drawEvents(events, next) {
  draw("events", [events, chosen], () =>
    events.map((event) =>
      h("tr", { class: event.id === chosen ? "chosen" : null },
        h("td", {},
          h("button", {
            type: "button", class: "link", "data-key": event.id, title: event.id,
            "aria-pressed": String(event.id === chosen), onclick: () => choose(event.id),
          }, words(event.type))),
        h("td", {}, event.user_id), h("td", {}, event.run_id),
        h("td", { class: "num" }, String(event.seq ?? "–")),
        h("td", {}, tag(event.state), event.state === "falling_back" && event.step ? ` ${words(event.step)}` : ""),
        h("td", {}, moment(event.at)))),
  );
  $("events-empty").hidden = events.length > 0;
  $("older").hidden = next === null;
  $("replay-all").hidden = !mayOperate || !REPLAYABLE.includes(wanted().state) || events.length === 0;
}

function happenings(event) {
  const attempts = event.attempts.map((attempt) => ({
    at: attempt.started_at, place: placeOf(attempt), outcome: attempt.outcome,
    took: attempt.latency_ms,
    note: [`attempt ${attempt.number}`, attempt.error, attempt.provider_id].filter(Boolean).join(" · "),
  }));
  const confirmations = event.confirmations.map((confirmation) => ({
    at: confirmation.at, place: words(confirmation.channel), outcome: "confirmed", took: null,
    note: `by ${confirmation.by} · ${confirmation.evidence}`,
  }));
  const receipts = (event.receipts ?? []).map((receipt) => ({
    at: receipt.at, place: words(receipt.channel), outcome: receipt.status, took: null,
    note: [`reported by ${receipt.provider}`, receipt.code].filter(Boolean).join(" · "),
  }));
  return [...attempts, ...receipts, ...confirmations].sort((a, b) => a.at.localeCompare(b.at));
}

/** Tokens and cost that a run's events reported. */
function tokensOf(run) {
  if (!run?.tokens) return [];
  const { input_tokens: into, output_tokens: out, cost } = run.tokens;
  return [["Tokens of the run", `${into} in, ${out} out, cost ${cost}`]];
}

function drawDetail(event, run) {
  // In the demonstration: from the mail back to the timeline, where its confirmation has come in.
  const isConfirmed = follows && current?.id === event?.id && event?.confirmations.length > current?.confirmations.length;
  current = event;
  $("detail").hidden = !event;
  if (!event) return;
  $("detail-title").textContent = `${words(event.type)} for ${event.user_id}`;
  $("replay").hidden = !mayOperate || event.state === "confirmed";
  drawWay();
  drawSent(event);
  if (isConfirmed) window.scrollTo(0, 0);
  const confirmation = event.confirmations[0];
  const facts = [
    ["State", event.state],
    ["Confirmed by", confirmation ? `${confirmation.by} over ${words(confirmation.channel)}` : "–"],
    ["On step", event.step ? words(event.step) : "–"], ["Due", event.due_at],
    ["Run", event.run_id], ["Number in run", event.seq ?? "–"], ["Class", event.class],
    ...tokensOf(run),
    ["Expires", event.expires_at], ["Generation", event.generation], ["Id", event.id],
  ];
  const make = (name, value) => {
    if (name === "State") return tag(value);
    return ["Due", "Expires"].includes(name) ? moment(value) : String(value);
  };
  draw("detail-facts", facts, () =>
    facts.map(([name, value]) => h("div", { class: name === "Id" ? "long" : null }, h("dt", {}, name), h("dd", {}, make(name, value)))),
  );
  const rows = happenings(event);
  draw("timeline", rows, () =>
    rows.length === 0
      ? [h("tr", {}, h("td", { colspan: 5 }, "Nothing yet"))]
      : rows.map((row) =>
          h("tr", {}, h("td", {}, moment(row.at)), h("td", {}, row.place),
            h("td", {}, tag(row.outcome)), h("td", { class: "num" }, duration(row.took)),
            h("td", {}, row.note))),
  );
  draw("detail-data", event.data, () => [JSON.stringify(event.data, null, 2)]);
  if (reveal) {
    reveal = false;
    $("detail").focus({ preventScroll: true });
    $("detail").scrollIntoView({ block: "nearest" });
  }
}

function drawWay() {
  const width = Math.max(320, Math.floor($("way").parentElement.clientWidth) - 2);
  const { attempts, confirmations, state, step, due_at: due } = current;
  draw("way", [current.id, attempts, confirmations, state, step, due, width], () => [timeline(current, width)]);
}

/** The messages that carried this event: a digest's id is part of its mail's Message-ID. */
function drawSent(event) {
  const names = event.attempts.flatMap((a) => [a.digest_id, a.provider_id]).filter(Boolean);
  const carried = messages.filter(({ id }) => names.some((name) => id.includes(name)));
  const had = $("sent").childElementCount;
  draw("sent", carried, () => carried.map((message) => messageBox(message, "sent")));
  // Not scrollIntoView: inside the demonstration it would move the page around as well.
  if (follows && carried.length > had) window.scrollBy(0, $("sent").getBoundingClientRect().top - 4);
}

function messageBox(message, place) {
  const key = `${place}-${message.id}`;
  const isOpen = opened.get(key) ?? (follows && place === "sent");
  const box = h("details", { class: "message", open: isOpen ? "" : null },
    h("summary", { "data-key": key },
      h("span", { class: "tag" }, message.kind === "sms" ? "SMS" : "mail"),
      h("strong", {}, message.subject || message.text),
      h("span", { class: "to" }, `to ${message.to}`), moment(message.at)));
  const fill = () => {
    if (box.open && box.childElementCount === 1) box.append(messageBody(message));
  };
  box.addEventListener("toggle", () => {
    opened.set(key, box.open);
    fill();
  });
  fill();
  return box;
}

function messageBody(message) {
  if (!message.view) return h("p", { class: "sms" }, ...linked(message.text));
  return h("iframe", {
    src: message.view, title: `Mail: ${message.subject}`, loading: "lazy",
    sandbox: "allow-popups allow-popups-to-escape-sandbox",
  });
}

function drawInbox(inbox) {
  $("inbox-panel").hidden = !inbox;
  if (!inbox) return;
  messages = inbox.messages.slice(0, 50);
  draw("inbox", messages.map(({ id }) => id), () => messages.map((message) => messageBox(message, "inbox")));
  $("inbox-empty").hidden = messages.length > 0;
}

function drawSuppressed({ suppressions, next }) {
  $("suppressed-panel").hidden = suppressions.length === 0 && !$("suppressed-note").textContent;
  $("suppressed-more").hidden = next === null;
  draw("suppressed", [suppressions, mayOperate], () =>
    suppressions.map((one) =>
      h("tr", {}, h("td", {}, one.address), h("td", {}, words(one.channel)),
        h("td", {}, words(one.reason)), h("td", {}, one.code ?? "–"), h("td", {}, moment(one.since)),
        h("td", {}, one.expires_at ? moment(one.expires_at) : "taken off"),
        h("td", {}, mayOperate ? h("button", {
          type: "button", class: "link", "data-key": `suppressed-${one.channel}-${one.address}`,
          "aria-label": `Allow messages to ${one.address}`, onclick: () => unsuppress(one),
        }, "Allow…") : "–"))),
  );
}

// ---- reading

function wanted() {
  const found = {};
  for (const [name, value] of new FormData($("filter"))) if (value.trim()) found[name] = value.trim();
  return found;
}

async function readEvents() {
  const { id, ...filter } = wanted();
  if (id) {
    if (!ID.test(id)) return { events: [], next: null };
    const event = await optional(`v1/events/${id.toLowerCase()}`);
    return { events: event ? [event] : [], next: null };
  }
  const events = [];
  let next = null;
  for (let page = 0; page < pages; page += 1) {
    const query = new URLSearchParams({ limit: "50", ...filter, ...(next ? { after: next } : {}) });
    const answer = await api(`v1/events?${query}`);
    events.push(...answer.events);
    next = answer.next;
    if (next === null) break;
  }
  return { events, next };
}

/** An answer, or null where the service has no such thing. */
async function optional(path) {
  try {
    return await api(path);
  } catch (error) {
    if (error instanceof ApiError && error.status === 404) return null;
    throw error;
  }
}

/** Read what is shown; one reading at a time, and once more if something changed meanwhile. */
async function refresh() {
  if (!session) return;
  if (reading) {
    isStale = true;
    return;
  }
  isStale = false;
  const mine = turn;
  reading = read(mine);
  try {
    await reading;
  } catch (error) {
    if (mine === turn) complain(error);
  } finally {
    reading = null;
  }
  if (isStale) await refresh();
}

async function read(mine) {
  const [list, inbox] = await Promise.all([readEvents(), optional("v1/inbox")]);
  if (mine !== turn) return;
  if (follows && list.events.length) chosen = list.events[0].id;
  const event = chosen ? await optional(`v1/events/${chosen}`) : null;
  if (mine !== turn) return;
  const run = event && (await optional(`v1/runs/${encodeURIComponent(event.run_id)}?${new URLSearchParams({ user_id: event.user_id })}`));
  if (mine !== turn) return;
  if (hasComplained) note("");
  await readSuppressed(mine);
  if (mine !== turn) return;
  drawInbox(inbox);
  drawEvents(list.events, list.next);
  drawDetail(event, run);
}

/** They change seldom, so not with every event. */
async function readSuppressed(mine) {
  if (Date.now() - suppressedAt < SUPPRESSED_EVERY_MS) return;
  const page = await optional("v1/suppressions?limit=50");
  if (mine !== turn) return;
  suppressedAt = Date.now();
  drawSuppressed(page ?? { suppressions: [], next: null });
}

/** What happened to the list; a complaint goes with the next list that can be read. */
function note(text, isComplaint = false) {
  $("events-note").textContent = text;
  hasComplained = isComplaint;
}

function complain(error) {
  // A session that may read nothing is no use here; a filter that is wrong is only a filter.
  if (error instanceof ApiError && [401, 403].includes(error.status) && !error.field) signOut(error.message);
  else if (error instanceof ApiError) note(error.message, true);
  else health("away", "The service does not answer");
}

function now() {
  turn += 1;
  isStale = true;
  refresh();
}

/** The service says when something changed. Ends with the sign-out. */
async function listen() {
  const mine = (stream = new AbortController());
  while (!mine.signal.aborted) {
    try {
      await follow("v1/stats/stream", mine.signal, onPush);
      if (await isRenewed()) continue; // it ends with the session, as it was when the stream began
    } catch (error) {
      if (mine.signal.aborted) return;
      if (error instanceof ApiError && [401, 403].includes(error.status)) return signOut(error.message);
    }
    if (mine.signal.aborted) return;
    health("away", "The service does not answer");
    await new Promise((go) => setTimeout(go, RETRY_MS * (0.5 + Math.random())));
  }
}

/** Make the session last longer while its page is looked at. */
async function isRenewed() {
  if (!session || document.hidden) return false;
  try {
    session = await renew();
    return true;
  } catch (error) {
    if (session && error instanceof ApiError && error.status === 401) signOut(error.message);
    return false;
  }
}

function onPush(name, value) {
  if (name === "history") {
    samples = value.samples;
    return now();
  }
  drawOutages(value.outages);
  if (!value.stats) return health("away", "The ledger does not answer");
  health("ok", "Live");
  remember(value.stats);
  drawFigures(value);
  if (!document.hidden) refresh();
}

/** Between the service's samples: one of our own every ten seconds. */
function remember(stats) {
  const last = samples.at(-1);
  if (last && Date.now() - Date.parse(last.at) < 10_000) return;
  samples = [...samples, {
    at: new Date().toISOString(), delivery_rate: stats.delivery_rate, fallback_share: stats.fallback_share,
    events_per_s: stats.events_per_s, p50: stats.ack_ms.p50, p99: stats.ack_ms.p99,
    connections: stats.connections, dead: stats.states.dead ?? 0,
    open_breakers: Object.values(stats.channels).filter(({ breaker }) => breaker !== "closed").length,
  }].slice(-MAX_SAMPLES);
}

function health(tone, message) {
  $("health").className = `health ${tone}`;
  if ($("health").textContent !== message) $("health").textContent = message;
}

// ---- acting

function choose(id) {
  follows = false;
  chosen = id;
  reveal = true;
  $("detail-note").textContent = "";
  now();
}

function filterBy(values) {
  for (const name of EXPECTED) $("filter").elements[name].value = values[name] ?? "";
  pages = 1;
  now();
}

/** A question before anything is done; resolves to whether the answer was yes. */
function ask(title, text, yes = "Replay") {
  $("ask-title").textContent = title;
  $("ask-yes").textContent = yes;
  $("ask-text").textContent = text;
  $("ask").showModal();
  return new Promise((answer) => {
    const done = new AbortController();
    const end = (value) => {
      done.abort();
      if ($("ask").open) $("ask").close();
      answer(value);
    };
    $("ask-yes").addEventListener("click", () => end(true), { signal: done.signal });
    $("ask-no").addEventListener("click", () => end(false), { signal: done.signal });
    $("ask").addEventListener("close", () => end(false), { signal: done.signal });
  });
}

async function replay() {
  const { id, type, user_id: user } = current;
  const isMeant = await ask("Replay this event?",
    `${words(type)} for ${user} starts anew: it is pushed again, and without an acknowledgement the chain begins from its first step.`);
  if (!isMeant) return;
  try {
    await api(`v1/events/${id}/replay`, {});
    $("detail-note").textContent = "Replayed: the event starts anew.";
  } catch (error) {
    $("detail-note").textContent = error.message;
  }
  now();
}

async function unsuppress({ address, reason }) {
  const isMeant = await ask("Allow messages to this address?",
    `${address} is suppressed (${words(reason)}). The next event that needs it is sent there again.`, "Allow");
  if (!isMeant) return;
  try {
    await api(`v1/suppressions/${encodeURIComponent(address)}`, undefined, "DELETE");
    $("suppressed-note").textContent = `${address} gets messages again.`;
  } catch (error) {
    $("suppressed-note").textContent = error.message;
  }
  suppressedAt = 0;
  now();
}

async function replayAll() {
  const { id: _id, type, ...filter } = wanted();
  if (type) {
    $("events-note").textContent = "Events of one type cannot be replayed together: clear the type first.";
    return;
  }
  try {
    const { matched } = await api("v1/replay", { ...filter, dry_run: true });
    const isMeant = await ask(`Replay ${matched} event${matched === 1 ? "" : "s"}?`,
      `Every ${words(filter.state)} event${filter.user_id ? ` of ${filter.user_id}` : ""} starts anew: pushed again, and without an acknowledgement the chain begins from its first step.`);
    if (!isMeant) return;
    const { replayed } = await api("v1/replay", { ...filter, dry_run: false });
    now();
    await reading;
    note(`${replayed} replayed.`);
  } catch (error) {
    $("events-note").textContent = error.message;
  }
}

function closeDetail() {
  const from = chosen;
  chosen = null;
  follows = false;
  $("detail").hidden = true;
  document.querySelector(`[data-key="${CSS.escape(from ?? "")}"]`)?.focus();
  now();
}

function signIn(opened) {
  session = opened;
  suppressedAt = 0;
  mayOperate = session.scopes.includes("operate");
  $("gate").hidden = true;
  $("board").hidden = false;
  $("sign-out").hidden = false;
  health("", "Connecting…");
  now();
  listen();
  if (mayOperate && window === window.top) {
    api("v1/demo/session", {}).then(() => ($("to-demo").hidden = false), () => ($("to-demo").hidden = true));
  }
}

function signOut(reason = "") {
  turn += 1;
  stream?.abort();
  session = null;
  chosen = null;
  shown.clear();
  $("board").hidden = true;
  $("sign-out").hidden = true;
  $("to-demo").hidden = true;
  $("gate").hidden = false;
  $("gate-error").textContent = reason;
  health("", "Not signed in");
  $("token").focus();
}

/** By a token, by the address's link, or by the session that is open; without any, to the door. */
async function enter(token = null) {
  const isAsked = token !== null || /[#&](link|token)=/.test(location.hash);
  try {
    signIn(await openSession(token));
  } catch (error) {
    const isExpected = !isAsked && error instanceof ApiError && error.status === 401;
    signOut(isExpected ? "" : error.message);
  }
}

/** `#event=ID` opens one event; `#run_id=…&state=…` filters; `follow` shows the newest that fits. */
function readFragment() {
  const fragment = new URLSearchParams(location.hash.slice(1));
  if (fragment.has("link") && !session && isStarted) enter();
  document.body.classList.toggle("tour", fragment.has("tour"));
  follows = fragment.has("follow");
  const values = Object.fromEntries(EXPECTED.filter((name) => fragment.get(name)).map((name) => [name, fragment.get(name)]));
  if (fragment.get("event")) choose(fragment.get("event"));
  if (Object.keys(values).length || follows) filterBy(values);
}

$("gate-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const value = $("token").value.trim();
  $("token").value = "";
  $("gate-error").textContent = "";
  if (value) enter(value);
});
$("sign-out").addEventListener("click", () => {
  endSession().catch((error) => ($("gate-error").textContent = `The session may still be open: ${error.message}`));
  signOut();
});
$("filter").addEventListener("submit", (event) => event.preventDefault());
$("filter").addEventListener("input", () => {
  note("");
  pages = 1;
  now();
});
$("older").addEventListener("click", () => {
  pages = Math.min(pages + 1, 10);
  now();
});
$("replay").addEventListener("click", replay);
$("replay-all").addEventListener("click", replayAll);
$("detail-close").addEventListener("click", closeDetail);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && chosen && !$("ask").open) closeDetail();
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  isRenewed();
  now();
});
window.addEventListener("hashchange", readFragment);
new ResizeObserver(() => current && !$("detail").hidden && drawWay()).observe($("way").parentElement);

setInterval(isRenewed, RENEW_MS);

readFragment();
isStarted = true;
enter();
