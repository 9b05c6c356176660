// What the pages share: elements, words, the HTTP API, the figures' stream.
// Text from the API only ever becomes text nodes, so no event can run in these pages.

const TIMEOUT_MS = 8000;
const SILENT_MS = 40_000; // the figures' stream says something every 15 s

export const TONES = {
  confirmed: "good", delivered: "good", closed: "good", ok: "good", on: "good",
  falling_back: "warn", parked: "warn", unknown: "warn", half_open: "warn", expired: "warn", warn: "warn", off: "warn",
  dead: "bad", failed: "bad", open: "bad", bad: "bad",
  bounced: "bad", undelivered: "bad", complained: "bad", deferred: "warn",
};

export const $ = (id) => document.getElementById(id);
export const words = (name) => name.replaceAll("_", " ");
export const tag = (name) => h("span", { class: `tag ${TONES[name] ?? ""}` }, words(name));
export const percent = (share) =>
  `${(share * 100).toFixed(share > 0.9995 || share === 0 ? 0 : 1)}\u00a0%`;

export function duration(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms < 1000) return `${ms.toFixed(ms < 10 ? 1 : 0)} ms`;
  return ms < 120_000 ? `${(ms / 1000).toFixed(1)} s` : `${Math.round(ms / 60_000)} min`;
}

export function moment(text) {
  if (!text) return document.createTextNode("–");
  const at = new Date(text);
  const today = at.toDateString() === new Date().toDateString();
  const label = today
    ? at.toLocaleTimeString()
    : at.toLocaleString(undefined, { dateStyle: "short", timeStyle: "medium" });
  return h("time", { datetime: text, title: at.toLocaleString() }, label);
}

/** The parts of a sentence of the service, its instants as the page shows all others. */
export const sentence = (text) =>
  text.split(/(\d{4}-\d\d-\d\dT[\d:.]+Z)/).map((part, at) => (at % 2 ? moment(part) : part));

export function h(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** The same for SVG. */
export function s(name, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function fill(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined) element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** Text with its web addresses as links; each piece is a text node or a checked link. */
export function linked(text) {
  return text.split(/(https?:\/\/[^\s<>"]+)/).map((piece) =>
    /^https?:\/\//.test(piece) && URL.canParse(piece)
      ? h("a", { href: piece, rel: "noopener noreferrer", target: "_blank" }, piece)
      : piece,
  );
}

// ---- drawing

const shown = new Map(); // element id -> what it was last drawn from

/** Redraw only what changed, so that focus, selection and scrolling survive an update. */
export function draw(id, value, make) {
  const print = JSON.stringify(value);
  if (shown.get(id) === print) return;
  shown.set(id, print);
  const focused = document.activeElement?.dataset?.key;
  $(id).replaceChildren(...make());
  if (focused) $(id).querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
}

/** Draw everything anew the next time: of another session, or of another place. */
export const forget = (...ids) => (ids.length ? ids.forEach((id) => shown.delete(id)) : shown.clear());

/** A question before anything is done; resolves to whether the answer was yes. */
export function ask(title, text, yes = "Replay") {
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

export const plural = (count, noun) => `${count.toLocaleString()} ${noun}${count === 1 ? "" : "s"}`;

/** How long ago an instant was, in the largest unit that says something. */
export function ago(text) {
  const seconds = Math.max(0, (Date.now() - Date.parse(text)) / 1000);
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 172_800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86_400)} days`;
}

/** An answer, or null where the service has no such thing. */
export async function optional(path) {
  try {
    return await api(path);
  } catch (error) {
    if (error instanceof ApiError && error.status === 404) return null;
    throw error;
  }
}

// ---- the session: a cookie that no script can read

/**
 * Open a session by a token, by what the fragment holds (`#link=…` of one use, or `#token=…`), or take
 * the one that is open in this browser. What the fragment holds does not stay in the history.
 */
export async function openSession(token = null) {
  const fragment = new URLSearchParams(location.hash.slice(1));
  const [link, given] = [fragment.get("link"), token ?? fragment.get("token")];
  if (fragment.has("link") || fragment.has("token")) {
    fragment.delete("link");
    fragment.delete("token");
    const rest = String(fragment);
    history.replaceState(null, "", location.pathname + location.search + (rest ? `#${rest}` : ""));
  }
  if (given) return api("v1/session", {}, "POST", { Authorization: `Bearer ${given}` });
  if (!link) return session();
  try {
    return await api("v1/session", { link });
  } catch (error) {
    // A link that was used in this browser before has left its session here.
    return session().catch(() => Promise.reject(error));
  }
}

/** The open session, which this makes last longer: `{subject, scopes, expires_at}`. */
export const session = () => api("v1/session");

export const endSession = () => api("v1/session", undefined, "DELETE");

// ---- the API

export class ApiError extends Error {
  constructor(status, problem) {
    super(problem.detail || problem.title || `HTTP ${status}`);
    this.status = status;
    this.field = problem.field ?? null;
  }
}

export async function api(path, body, method = body === undefined ? "GET" : "POST", more = {}) {
  // No page of another origin can send this header: a change needs it beside the cookie.
  const headers = { "X-Delivery-Dashboard": "1", ...more };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const response = await fetch(path, {
    method,
    headers,
    body: body === undefined ? undefined : JSON.stringify(body),
    signal: AbortSignal.timeout(TIMEOUT_MS),
    cache: "no-store",
    credentials: "same-origin",
  });
  if (response.ok) return response.status === 204 ? null : response.json();
  throw new ApiError(response.status, await response.json().catch(() => ({})));
}

/**
 * Read a stream of server-sent events until it ends. `EventSource` does not tell why it was refused.
 * Throws `ApiError` where the service refuses, and ends a stream that has gone silent.
 */
export async function follow(path, signal, onMessage) {
  const headers = { Accept: "text/event-stream" };
  const silence = new AbortController();
  let timer = null;
  const heard = () => {
    clearTimeout(timer);
    timer = setTimeout(() => silence.abort(), SILENT_MS);
  };
  heard();
  try {
    const response = await fetch(path, { headers, cache: "no-store", signal: AbortSignal.any([signal, silence.signal]) });
    if (!response.ok) throw new ApiError(response.status, await response.json().catch(() => ({})));
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      heard();
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const name = /^event: (.*)$/m.exec(block)?.[1];
        const data = /^data: (.*)$/m.exec(block)?.[1];
        if (name && data) onMessage(name, JSON.parse(data));
      }
    }
  } finally {
    clearTimeout(timer);
  }
}
