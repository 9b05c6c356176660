// The operators' page. The service tells it what changed; it then reads what it shows.

import { sparkline } from "./charts.js";
import { drawDetail, drawInbox, readKept, revealNext, shownEvent, startDetail } from "./detail.js";
import { complain as complainInList, drawList, note, readList, reset, setFilter, startList } from "./events.js";
import {
  $, ApiError, api, ask, draw, duration, endSession, follow, forget, h, moment, openSession, optional,
  percent, plural, session as renew, tag, words,
} from "./page.js";
import { readPlace, writePlace } from "./place.js";
import { forgetHistory, readConnections, readHistory, readRun, readUser, readWebhooks, startViews } from "./views.js";

const RETRY_MS = 3000;
const RENEW_MS = 300_000; // far below the half hour of a session
const MAX_SAMPLES = 360;
const SUPPRESSED_EVERY_MS = 10_000;
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

let session = null; // what this browser may do, while it is signed in
let mayOperate = false;
let isStarted = false;
let place = readPlace();
let turn = 0; // answers of an older turn (before a new filter, a sign-out) are dropped
let reading = null;
let isStale = false;
let samples = [];
let suppressedAt = 0; // when the suppressed addresses were read
let stream = null;
let openOutages = [];
let lostAt = null; // since when the service does not answer

// ---- figures

function drawFigures({ stats, conditions, nodes, channel_ms: channelMs }) {
  drawVerdict(stats, conditions);
  drawConditions(conditions);
  const minutes = Math.round(stats.window_s / 60);
  const last = `last ${minutes} min`;
  const breakers = Object.values(stats.channels).filter(({ breaker }) => breaker !== "closed").length;
  const dead = stats.states.dead ?? 0;
  const hasEvents = stats.events_per_s > 0;
  const tiles = [
    ["Delivered", hasEvents ? percent(stats.delivery_rate) : "–", last, (x) => (x.events_per_s > 0 ? x.delivery_rate : null), { ceiling: 1 }],
    ["Events", stats.events_per_s.toFixed(1), "per second", (x) => x.events_per_s],
    ["Acknowledged in", duration(stats.ack_ms.p50), "median (p50)", (x) => x.p50],
    ["99 of 100 in", duration(stats.ack_ms.p99), "p99", (x) => x.p99],
    ["Needed a fallback", hasEvents ? percent(stats.fallback_share) : "–", last, (x) => (x.events_per_s > 0 ? x.fallback_share : null), { ceiling: 0.1 }],
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
        h("button", { type: "button", class: "link", onclick: () => go({ view: "board", filter: { state: "dead" } }, true) }, "Show them")),
    ),
  );
  drawStates(stats.states);
  $("channels-empty").hidden = Object.keys(stats.channels).length > 0;
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

/** The page's first sentences: whether all is well, since when not, and what failed. */
function drawVerdict(stats, conditions) {
  const bad = conditions.filter(({ level }) => level !== "ok");
  const dead = stats.states.dead ?? 0;
  const failing = Object.entries(stats.channels)
    .filter(([, channel]) => channel.attempts > channel.ok)
    .map(([name, channel]) => `${words(name)} ${(channel.attempts - channel.ok).toLocaleString()} of ${channel.attempts.toLocaleString()}`);
  const since = [...stats.alerts, ...openOutages].map((one) => one.since).sort()[0] ?? null;
  const isWell = bad.length === 0 && openOutages.length === 0;
  draw("verdict", [isWell, bad, since, dead, failing], () => [
    h("p", { class: `verdict ${isWell ? "good" : "bad"}` },
      h("strong", {}, isWell ? "Healthy" : "Not healthy"),
      isWell ? ": every condition is met." : `: ${bad.map(({ name }) => CONDITIONS[name]?.[1] ?? words(name)).join("; ") || "see above"}`,
      ...(since && !isWell ? [", since ", moment(since)] : [])),
    h("p", { class: "failed" },
      dead ? h("button", { type: "button", class: "link", onclick: () => go({ view: "board", filter: { state: "dead" } }, true) }, `${plural(dead, "event")} dead`) : "No event is dead",
      failing.length ? `. Attempts that failed in the last minutes: ${failing.join(", ")}.` : ". No attempt failed in the last minutes."),
  ]);
}

/** While nothing can be known, the page says so in place of a verdict that may be wrong by now. */
function lose(message) {
  health("away", message);
  lostAt ??= new Date().toISOString();
  $("board").classList.add("lost");
  draw("verdict", [message, lostAt], () => [
    h("p", { class: "verdict bad" }, h("strong", {}, "Not known"), `: ${message[0].toLowerCase()}${message.slice(1)}, since `, moment(lostAt)),
    h("p", { class: "failed" }, "All below is as it was then. It is read again as soon as there is an answer."),
  ]);
}

/** What this gateway cannot do now: the service says it in a sentence. */
function drawOutages(outages) {
  openOutages = outages;
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
  const isMine = () => mine === turn;
  const rows = place.view === "board" ? await readList(isMine) : null;
  if (!isMine()) return;
  if (rows && place.follows && rows.length) place.event = rows[0].id;
  const event = place.event ? await optional(`v1/events/${encodeURIComponent(place.event)}`) : null;
  const run = event && (await optional(`v1/runs/${encodeURIComponent(event.run_id)}?${new URLSearchParams({ user_id: event.user_id })}`));
  await readKept(event);
  // After what the ledger kept, whose links are shortened: a local sink that has the message has it by then.
  const inbox = place.view === "board" ? await optional("v1/inbox") : null;
  if (!isMine()) return;
  if (place.view === "user") await readUser(place.id, isMine);
  else if (place.view === "run") await readRun(place.id, isMine);
  else if (!place.tour) {
    await readHistory(place.range, isMine);
    await readConnections(isMine);
    await readSuppressed(mine);
    await readWebhooks(isMine);
  }
  if (!isMine()) return;
  drawInbox(inbox);
  if (rows) drawList();
  drawDetail(event, run);
  drawTitle();
  draw("view-note", "", () => []);
}

/** They change seldom, so not with every event. */
async function readSuppressed(mine) {
  if (Date.now() - suppressedAt < SUPPRESSED_EVERY_MS) return;
  const page = await optional("v1/suppressions?limit=50");
  if (mine !== turn) return;
  suppressedAt = Date.now();
  drawSuppressed(page ?? { suppressions: [], next: null });
}

function complain(error) {
  // A session that may read nothing is no use here; a filter that is wrong is only a filter.
  if (error instanceof ApiError && [401, 403].includes(error.status) && !error.field) return signOut(error.message);
  if (!(error instanceof ApiError)) health("away", "The service does not answer");
  if (place.view === "board") return complainInList(error);
  const text = error instanceof ApiError ? error.message : "The service does not answer: this is as it was before.";
  draw("view-note", text, () => [text]);
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
    lose("The service does not answer");
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
    const first = value.samples[0]?.at ?? new Date().toISOString();
    samples = [...overBy(samples, first), ...value.samples].slice(-MAX_SAMPLES);
    return now();
  }
  drawOutages(value.outages);
  if (!value.stats) return lose("The ledger does not answer");
  lostAt = null;
  $("board").classList.remove("lost");
  health("ok", "Live");
  remember(value.stats);
  drawFigures(value);
  if (!document.hidden) refresh();
}

/** What the ledger has of the last hour: a gateway that was just started has no samples of it. */
async function readLastHour() {
  const { points } = await api("v1/history?step=minute");
  const known = points.map((point) => ({
    at: point.at, until: Date.parse(point.at) + 60_000, delivery_rate: point.delivery_rate, fallback_share: point.fallback_share,
    events_per_s: point.events_per_s, p50: point.ack_ms.p50, p99: point.ack_ms.p99,
    connections: point.connections, dead: point.dead, open_breakers: point.open_breakers,
  }));
  const first = samples[0]?.at ?? new Date().toISOString();
  samples = [...overBy(known, first), ...samples].slice(-MAX_SAMPLES);
}

/** Those that are over at an instant: a minute that samples cover as well would be drawn twice. */
const overBy = (list, first) => list.filter(({ at, until }) => (until ?? Date.parse(at)) <= Date.parse(first));

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

/** Go to another place: `step` can be gone back from. */
function go(changes, step = false) {
  const before = place;
  place = { ...place, ...changes };
  if (changes.view === "board") place.id = null;
  writePlace(place, { step });
  arrive(before);
}

function arrive(before) {
  const isOther = before.view !== place.view || before.id !== place.id;
  document.body.dataset.view = place.view;
  document.body.classList.toggle("tour", place.tour);
  for (const name of ["user", "run"]) $(`${name}-view`).hidden = place.view !== name;
  if (place.view === "board") setFilter(place.filter);
  if (isOther) {
    forget("user-title", "user-facts", "user-connections", "user-events", "run-title", "run-verdict", "run-way", "run-events", "view-note");
    $("user-note").textContent = "";
    window.scrollTo(0, 0);
  }
  drawTitle();
  now();
}

/** What the tab, the history and a bookmark are called. */
function drawTitle() {
  const filtered = Object.values(place.filter).map(words).join(", ");
  const named = { user: `User ${place.id}`, run: `Run ${place.id}`, board: filtered ? `Events: ${filtered}` : "" }[place.view];
  const event = shownEvent();
  const shown = place.event ? (event?.id === place.event ? `${words(event.type)} for ${event.user_id}` : "Event") : "";
  document.title = [shown, named, "Delivery"].filter(Boolean).join(" – ");
}

function choose(id) {
  revealNext();
  go({ event: id, follows: false });
}

function closeDetail() {
  const from = place.event;
  $("detail").hidden = true;
  document.querySelector(`[data-key="${CSS.escape(from ?? "")}"], [data-key="run-${CSS.escape(from ?? "")}"]`)?.focus();
  go({ event: null, follows: false });
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

function signIn(opened) {
  session = opened;
  suppressedAt = 0;
  samples = [];
  mayOperate = session.scopes.includes("operate");
  $("gate").hidden = true;
  $("board").hidden = false;
  $("sign-out").hidden = false;
  health("", "Connecting…");
  arrive(place);
  readLastHour().catch(complain).finally(listen);
  if (mayOperate && window === window.top) {
    api("v1/demo/session", {}).then(() => ($("to-demo").hidden = false), () => ($("to-demo").hidden = true));
  }
}

function signOut(reason = "") {
  turn += 1;
  stream?.abort();
  session = null;
  forget();
  reset();
  forgetHistory();
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

/** The address was changed, by a link, by hand or by going back; see ``place.js``. */
function onAddress() {
  const fragment = new URLSearchParams(location.hash.slice(1));
  if (fragment.has("link") && !session && isStarted) return enter();
  const before = place;
  place = readPlace();
  if (place.event && place.event !== before.event) revealNext();
  arrive(before);
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
startList({
  mayOperate: () => mayOperate,
  chosen: () => place.event,
  choose,
  changed: (filter, step) => go({ filter: Object.fromEntries(Object.entries(filter).filter(([, value]) => value)) }, step),
  reread: async () => {
    now();
    await reading;
  },
});
startDetail({ mayOperate: () => mayOperate, follows: () => place.follows, close: closeDetail, reread: now });
startViews({
  mayOperate: () => mayOperate,
  mayEmit: () => session?.scopes.includes("emit"),
  chosen: () => place.event,
  choose,
  go,
  reread: now,
});
for (const back of document.querySelectorAll(".back")) back.addEventListener("click", () => go({ view: "board", event: null }, true));
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && place.event && !$("ask").open) closeDetail();
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  isRenewed();
  now();
});
window.addEventListener("hashchange", onAddress);
window.addEventListener("popstate", onAddress);

setInterval(isRenewed, RENEW_MS);

onAddress();
isStarted = true;
enter();
