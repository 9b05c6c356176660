// The dashboard: reads the HTTP API every two seconds and shows what it says.
// Text from the API only ever becomes text nodes, so no event can run in this page.

const POLL_MS = 2000;
const TIMEOUT_MS = 8000;
const KEY = "delivery.token";
const TONES = {
  confirmed: "good", delivered: "good", closed: "good",
  falling_back: "warn", parked: "warn", unknown: "warn", half_open: "warn", expired: "warn",
  dead: "bad", failed: "bad", open: "bad",
};

const $ = (id) => document.getElementById(id);
const shown = new Map(); // element id -> what it was last drawn from

let token = null;
let chosen = null; // id of the event in the detail panel
let reveal = false; // bring the detail panel into view when it is drawn next
let pages = 1;
let timer = 0;
let turn = 0; // answers of an older turn (before a new filter, a sign-out) are dropped

class ApiError extends Error {
  constructor(status, problem) {
    super(problem.detail || problem.title || `HTTP ${status}`);
    this.status = status;
    this.field = problem.field ?? null;
  }
}

async function api(path, options = {}) {
  const response = await fetch(path, {
    ...options,
    headers: { Authorization: `Bearer ${token}` },
    signal: AbortSignal.timeout(TIMEOUT_MS),
    cache: "no-store",
  });
  if (response.ok) return response.json();
  throw new ApiError(response.status, await response.json().catch(() => ({})));
}

/** An answer, or null where this token may not ask or the service has no such thing. */
async function optional(path) {
  try {
    return await api(path);
  } catch (error) {
    if (error instanceof ApiError && [403, 404].includes(error.status)) return null;
    throw error;
  }
}

function h(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined) element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** Redraw only what changed, so that focus, selection and scrolling survive a poll. */
function draw(id, value, make) {
  const print = JSON.stringify(value);
  if (shown.get(id) === print) return;
  shown.set(id, print);
  const focused = document.activeElement?.dataset?.key;
  $(id).replaceChildren(...make());
  if (focused) $(id).querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
}

const words = (name) => name.replaceAll("_", " ");
const tag = (name) => h("span", { class: `tag ${TONES[name] ?? ""}` }, words(name));
const percent = (share) => `${(share * 100).toFixed(share > 0.9995 || share === 0 ? 0 : 1)} %`;
const duration = (ms) =>
  ms === null ? "–" : ms < 1000 ? `${ms.toFixed(ms < 10 ? 1 : 0)} ms` : `${(ms / 1000).toFixed(1)} s`;

function moment(text) {
  if (!text) return document.createTextNode("–");
  const at = new Date(text);
  const today = at.toDateString() === new Date().toDateString();
  const label = today
    ? at.toLocaleTimeString()
    : at.toLocaleString(undefined, { dateStyle: "short", timeStyle: "medium" });
  return h("time", { datetime: text, title: at.toLocaleString() }, label);
}

// ---- what is shown

function drawStats(stats) {
  $("figures").hidden = !stats;
  document.querySelector(".columns").hidden = !stats;
  if (!stats) return;
  const minutes = Math.round(stats.window_s / 60);
  const tiles = [
    ["Delivered", percent(stats.delivery_rate), `last ${minutes} min`],
    ["Needed a fallback", percent(stats.fallback_share), `last ${minutes} min`],
    ["Acknowledged in", duration(stats.ack_ms.p50), `p99 ${duration(stats.ack_ms.p99)}`],
    ["Events", stats.events_per_s.toFixed(1), "per second"],
    ["Connections", stats.connections.toLocaleString(), "live"],
  ];
  draw("tiles", tiles, () =>
    tiles.map(([name, figure, note]) =>
      h("div", { class: "tile" }, h("dt", {}, name), h("dd", {}, `${figure} `, h("small", {}, note))),
    ),
  );
  draw("alerts", stats.alerts, () =>
    stats.alerts.map((alert) =>
      h("p", { class: "alert" },
        h("strong", {}, `${alert.count} ${words(alert.class)} events are dead`),
        ` for ${alert.users} user${alert.users === 1 ? "" : "s"} since `, moment(alert.since)),
    ),
  );
  const states = Object.entries(stats.states);
  const most = Math.max(1, ...states.map(([, count]) => count));
  draw("states", states, () =>
    states.length === 0
      ? [h("li", {}, "Nothing yet")]
      : states.map(([name, count]) =>
          h("li", {}, h("span", {}, tag(name)),
            h("meter", { min: 0, max: most, value: count, "aria-label": `${words(name)}: ${count}` }),
            h("b", {}, count.toLocaleString())),
        ),
  );
  draw("channels", stats.channels, () =>
    Object.entries(stats.channels).map(([name, channel]) =>
      h("tr", {}, h("td", {}, words(name)), h("td", { class: "num" }, channel.attempts.toLocaleString()),
        h("td", { class: "num" }, channel.attempts ? percent(channel.ok / channel.attempts) : "–"),
        h("td", {}, tag(channel.breaker))),
    ),
  );
}

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
        h("td", {}, moment(event.at))),
    ),
  );
  $("events-empty").hidden = events.length > 0;
  $("older").hidden = next === null;
}

function happenings(event) {
  const attempts = event.attempts.map((attempt) => ({
    at: attempt.started_at, channel: attempt.channel, outcome: attempt.outcome,
    took: attempt.latency_ms,
    note: [`attempt ${attempt.number}`, attempt.error, attempt.provider_id].filter(Boolean).join(" · "),
  }));
  const proofs = event.confirmations.map((proof) => ({
    at: proof.at, channel: proof.channel, outcome: "confirmed", took: null,
    note: `by ${proof.by} · ${proof.evidence}`,
  }));
  return [...attempts, ...proofs].sort((a, b) => a.at.localeCompare(b.at));
}

function drawDetail(event) {
  $("detail").hidden = !event;
  if (!event) return;
  $("detail-title").textContent = `${words(event.type)} for ${event.user_id}`;
  $("replay").disabled = event.state === "confirmed";
  const facts = [
    ["State", event.state], ["On step", event.step ?? "–"], ["Due", event.due_at],
    ["Expires", event.expires_at], ["Run", event.run_id], ["Number in run", event.seq ?? "–"],
    ["Class", event.class], ["Generation", event.generation], ["Id", event.id],
  ];
  const make = (name, value) => {
    if (name === "State") return tag(value);
    return ["Due", "Expires"].includes(name) ? moment(value) : String(value);
  };
  draw("detail-facts", facts, () =>
    facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, make(name, value)))),
  );
  const rows = happenings(event);
  draw("timeline", rows, () =>
    rows.length === 0
      ? [h("tr", {}, h("td", { colspan: 5 }, "Nothing yet"))]
      : rows.map((row) =>
          h("tr", {}, h("td", {}, moment(row.at)), h("td", {}, words(row.channel)),
            h("td", {}, tag(row.outcome)), h("td", { class: "num" }, duration(row.took)),
            h("td", {}, row.note)),
        ),
  );
  draw("detail-data", event.data, () => [JSON.stringify(event.data, null, 2)]);
  if (reveal) {
    reveal = false;
    $("detail").focus({ preventScroll: true });
    $("detail").scrollIntoView({ block: "nearest" });
  }
}

/** Text with its web addresses as links; each piece is a text node or a checked link. */
function linked(text) {
  return text.split(/(https?:\/\/[^\s<>"]+)/).map((piece) =>
    /^https?:\/\//.test(piece) && URL.canParse(piece)
      ? h("a", { href: piece, rel: "noopener noreferrer", target: "_blank" }, piece)
      : piece,
  );
}

function drawInbox(inbox) {
  $("inbox-panel").hidden = !inbox;
  if (!inbox) return;
  const messages = inbox.messages.slice(0, 50);
  const open = new Set(
    [...$("inbox").querySelectorAll("details[open]")].map((element) => element.dataset.id),
  );
  draw("inbox", messages, () =>
    messages.map((message) =>
      h("details", { "data-id": message.id, open: open.has(message.id) ? "" : null },
        h("summary", { "data-key": `mail-${message.id}` },
          h("span", { class: "tag" }, message.kind),
          h("strong", {}, message.subject || message.text.slice(0, 80)),
          h("span", {}, `to ${message.to}`), moment(message.at)),
        h("pre", {}, ...linked(message.text))),
    ),
  );
  $("inbox-empty").hidden = messages.length > 0;
}

// ---- reading

function eventsPath(after) {
  const query = new URLSearchParams({ limit: "50" });
  for (const [name, value] of new FormData($("filter"))) {
    if (value.trim()) query.set(name, value.trim());
  }
  if (after) query.set("after", after);
  return `v1/events?${query}`;
}

async function readEvents() {
  const events = [];
  let next = null;
  for (let page = 0; page < pages; page += 1) {
    const answer = await api(eventsPath(next));
    events.push(...answer.events);
    next = answer.next;
    if (next === null) break;
  }
  return { events, next };
}

async function refresh() {
  const mine = turn;
  try {
    const [stats, list, event, inbox] = await Promise.all([
      optional("v1/stats"), readEvents(),
      chosen ? optional(`v1/events/${chosen}`) : null, optional("v1/inbox"),
    ]);
    if (mine !== turn) return;
    drawStats(stats);
    drawEvents(list.events, list.next);
    drawDetail(event);
    drawInbox(inbox);
    health("ok", `Updated ${new Date().toLocaleTimeString()}`);
  } catch (error) {
    if (mine !== turn) return;
    // A token that may read nothing is no use here; a filter it may not use is only a filter.
    const refused = error instanceof ApiError && [401, 403].includes(error.status) && !error.field;
    if (refused) signOut(error.message);
    else health("away", error instanceof ApiError ? error.message : "The service does not answer");
  }
}

async function poll() {
  clearTimeout(timer);
  if (!token) return;
  if (!document.hidden) await refresh();
  clearTimeout(timer);
  if (token) timer = setTimeout(poll, POLL_MS);
}

function now() {
  turn += 1;
  poll();
}

function health(tone, message) {
  $("health").className = `health ${tone}`;
  if ($("health").textContent !== message) $("health").textContent = message;
}

// ---- acting

function choose(id) {
  chosen = id;
  reveal = true;
  $("detail-note").textContent = "";
  now();
}

async function replay() {
  const id = chosen;
  try {
    await api(`v1/events/${id}/replay`, { method: "POST" });
    $("detail-note").textContent = "Replayed: the event starts anew.";
  } catch (error) {
    $("detail-note").textContent = error.message;
  }
  now();
}

function closeDetail() {
  const from = chosen;
  chosen = null;
  $("detail").hidden = true;
  document.querySelector(`[data-key="${CSS.escape(from ?? "")}"]`)?.focus();
  now();
}

function signIn(value) {
  token = value;
  sessionStorage.setItem(KEY, value);
  $("gate").hidden = true;
  $("board").hidden = false;
  $("sign-out").hidden = false;
  health("", "Connecting…");
  now();
}

function signOut(reason = "") {
  turn += 1;
  token = null;
  chosen = null;
  clearTimeout(timer);
  sessionStorage.removeItem(KEY);
  shown.clear();
  $("board").hidden = true;
  $("sign-out").hidden = true;
  $("gate").hidden = false;
  $("gate-error").textContent = reason;
  health("", "Not signed in");
  $("token").focus();
}

/** A token in the fragment (`#token=…`) is taken and removed: it must not stay in the history. */
function fromFragment() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) history.replaceState(null, "", location.pathname + location.search);
  return given;
}

$("gate-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const value = $("token").value.trim();
  $("token").value = "";
  $("gate-error").textContent = "";
  if (value) signIn(value);
});
$("sign-out").addEventListener("click", () => signOut());
$("filter").addEventListener("submit", (event) => event.preventDefault());
$("filter").addEventListener("input", () => {
  pages = 1;
  now();
});
$("older").addEventListener("click", () => {
  pages = Math.min(pages + 1, 10);
  now();
});
$("replay").addEventListener("click", replay);
$("detail-close").addEventListener("click", closeDetail);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && chosen) closeDetail();
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) now();
});

const start = fromFragment() ?? sessionStorage.getItem(KEY);
if (start) signIn(start);
else signOut();
