// The list of events: without an end, filtered, counted, selected and replayed.

import { $, ApiError, api, ask, h, moment, plural, tag, words } from "./page.js";
import { linkTo } from "./place.js";

const PAGE = 50;
const HEAD = 200; // of the rows that are loaded, the newest ones are read anew with each change
const COUNT_EVERY_MS = 5000;
const MAX_LOOKS = 20; // empty pages in a row: each looked through some hundred thousand events
const REPLAY_PAGE = 1000;
const NOT_REPLAYED = ["confirmed"];
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;
const EXACT = { user_id: "User", run_id: "Run" };

let rows = [];
let next = null;
let filter = {};
let elements = new Map(); // id -> [what it was drawn from, its row]
let picked = new Set();
let counted = { at: 0, count: null, isExact: true };
let isLoading = false;
let isRead = false;
let hasComplained = false;
let page = null; // what the rest of the dashboard gives: see ``startList``

/** @param {{mayOperate(): boolean, chosen(): string | null, choose(id): void, changed(filter): void}} given */
export function startList(given) {
  page = given;
  $("filter").addEventListener("submit", (event) => event.preventDefault());
  $("filter").addEventListener("input", () => page.changed(wanted()));
  $("filter-clear").addEventListener("click", () => page.changed({}, true));
  $("older").addEventListener("click", loadMore);
  $("replay-all").addEventListener("click", replayAll);
  $("replay-picked").addEventListener("click", replayPicked);
  new IntersectionObserver(([entry]) => entry.isIntersecting && next !== null && loadMore(), {
    root: $("events-list"), rootMargin: "200px",
  }).observe($("events-end"));
}

/** Show a filter in the form; those of a link that name one user or run stand beside it. */
export function setFilter(values) {
  if (JSON.stringify(values) === JSON.stringify(filter) && isRead) return;
  filter = { ...values };
  for (const field of $("filter").elements) {
    if (!field.name) continue;
    const value = filter[field.name] ?? "";
    const shown = field.type === "datetime-local" ? localTime(value) : value;
    if (field !== document.activeElement || !shown) field.value = shown;
  }
  const exact = Object.keys(EXACT).filter((name) => filter[name]);
  $("exact").replaceChildren(...exact.map((name) =>
    h("button", { type: "button", class: "chip", onclick: () => page.changed({ ...filter, [name]: undefined }),
      "aria-label": `Any ${EXACT[name].toLowerCase()} again, not only ${filter[name]}` },
    `${EXACT[name]} ${filter[name]} ✕`)));
  if (["class", "channel", "type", "error", "id_prefix", "from", "to"].some((name) => filter[name])) $("filter-more").open = true;
  $("filter-clear").hidden = Object.keys(filter).length === 0;
  reset();
}

export function reset() {
  rows = [];
  next = null;
  isRead = false;
  elements = new Map();
  picked = new Set();
  counted = { at: 0, count: null, isExact: true };
  hasComplained = false;
  note("");
}

function wanted() {
  const found = {};
  for (const name of Object.keys(EXACT)) if (filter[name]) found[name] = filter[name];
  for (const [name, value] of new FormData($("filter"))) {
    const text = name === "type" || name === "error" ? value.trim() : value;
    if (!text) continue;
    const isTime = name === "from" || name === "to";
    found[name] = isTime ? new Date(text).toISOString() : text;
  }
  return found;
}

function localTime(text) {
  const at = new Date(text);
  if (!text || Number.isNaN(at.getTime())) return "";
  return new Date(at.getTime() - at.getTimezoneOffset() * 60_000).toISOString().slice(0, 16);
}

/** Read the newest rows; what was loaded below them stays. */
export async function readList(isMine) {
  const isCounted = Date.now() - counted.at > COUNT_EVERY_MS;
  const size = Math.min(HEAD, Math.max(PAGE, rows.length));
  const head = await pageOf({ limit: size, ...(isCounted ? { count: "true" } : {}) });
  if (!isMine()) return null;
  if (head.count !== undefined) counted = { at: Date.now(), count: head.count, isExact: head.count_is_exact };
  const last = head.events.at(-1);
  const at = last ? rows.findIndex(({ id }) => id === last.id) : -1;
  const rest = at >= 0 && rows.length > size ? rows.slice(at + 1) : [];
  if (rest.length === 0) next = head.next;
  rows = [...head.events, ...rest];
  isRead = true;
  if (hasComplained) note("");
  return rows;
}

async function pageOf(more) {
  const query = new URLSearchParams({ ...filter, ...more });
  return api(`v1/events?${query}`);
}

async function loadMore() {
  if (isLoading || next === null || !isRead) return;
  isLoading = true;
  $("older").textContent = "Looking…";
  const before = filter;
  try {
    for (let look = 0; look < MAX_LOOKS && next !== null; look += 1) {
      const found = await pageOf({ limit: PAGE, after: next });
      if (filter !== before) return;
      next = found.next;
      const known = new Set(rows.map(({ id }) => id));
      rows = [...rows, ...found.events.filter(({ id }) => !known.has(id))];
      if (found.events.length) break;
    }
  } catch (error) {
    complain(error);
  } finally {
    isLoading = false;
    $("older").textContent = "Show older";
    drawList();
  }
}

export function drawList() {
  const chosen = page.chosen();
  const present = new Set(rows.map(({ id }) => id));
  for (const id of picked) if (!present.has(id)) picked.delete(id);
  const kept = new Map();
  const focused = document.activeElement?.dataset?.key;
  for (const event of rows) {
    const print = JSON.stringify([event, event.id === chosen, page.mayOperate()]);
    const known = elements.get(event.id);
    kept.set(event.id, known?.[0] === print ? known : [print, rowOf(event, chosen)]);
  }
  const wantedRows = [...kept.values()].map(([, row]) => row);
  const isSame = elements.size === kept.size && wantedRows.every((row, at) => $("events").children[at] === row);
  elements = kept;
  if (!isSame) {
    $("events").replaceChildren(...wantedRows);
    if (focused) $("events").querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
  }
  const isFiltered = Object.keys(filter).length > 0;
  $("events-empty").hidden = rows.length > 0 || !isRead || next !== null;
  $("events-empty-all").hidden = isFiltered;
  $("events-empty-filter").hidden = !isFiltered;
  $("events-list").hidden = rows.length === 0 && next === null;
  $("older").hidden = next === null;
  drawCount(isFiltered);
}

function drawCount(isFiltered) {
  const { count, isExact } = counted;
  const all = count === null ? "" : isExact ? plural(count, "event") : `${count.toLocaleString()}+ events`;
  const text = count === null ? "" : isFiltered ? `${all} match${count === 1 && isExact ? "es" : ""}` : all;
  if ($("events-count").textContent !== text) $("events-count").textContent = text;
  const mayReplay = page.mayOperate() && !NOT_REPLAYED.includes(filter.state);
  $("replay-all").hidden = !mayReplay || !isFiltered || rows.length === 0;
  $("replay-picked").hidden = !page.mayOperate() || picked.size === 0;
  $("replay-picked").textContent = `Replay ${picked.size} selected…`;
}

function rowOf(event, chosen) {
  const isChosen = event.id === chosen;
  const box = h("input", { type: "checkbox", "aria-label": `Select ${words(event.type)} of ${event.user_id}`,
    onchange: () => {
      if (box.checked) picked.add(event.id);
      else picked.delete(event.id);
      drawCount(Object.keys(filter).length > 0);
    } });
  box.checked = picked.has(event.id);
  const isReplayable = !NOT_REPLAYED.includes(event.state);
  return h("tr", { class: isChosen ? "chosen" : null },
    h("td", { class: "pick" }, page.mayOperate() && isReplayable ? box : null),
    h("td", {},
      h("button", {
        type: "button", class: "link", "data-key": event.id, title: event.id,
        "aria-pressed": String(isChosen), onclick: () => page.choose(event.id),
      }, words(event.type))),
    h("td", {}, h("a", { href: linkTo("user", event.user_id) }, event.user_id)),
    h("td", {}, h("a", { href: linkTo("run", event.run_id) }, event.run_id)),
    h("td", { class: "num" }, String(event.seq ?? "–")),
    h("td", {}, tag(event.state), event.state === "falling_back" && event.step ? ` ${words(event.step)}` : ""),
    h("td", {}, moment(event.at)));
}

/** What happened to the list; a complaint goes with the next list that can be read. */
export function note(text, isComplaint = false) {
  if ($("events-note").textContent !== text) $("events-note").textContent = text;
  hasComplained = isComplaint;
}

export function complain(error) {
  if (error instanceof ApiError) note(error.message, true);
  else note(isRead
    ? "The service does not answer: the list is as it was. It is read again as soon as the service answers."
    : "The service does not answer: there is no list yet. The filter is kept.", true);
}

async function replayPicked() {
  const ids = [...picked];
  const isMeant = await ask(`Replay ${plural(ids.length, "event")}?`,
    "The selected events start anew: pushed again, and without an acknowledgement the chain begins from its first step.");
  if (isMeant) await doReplay(async () => (await api("v1/replay", { ids })).replayed);
}

async function replayAll() {
  const chosen = { ...filter };
  try {
    const { matched, next: more } = await api("v1/replay", { ...chosen, dry_run: true, limit: REPLAY_PAGE });
    const number = more ? `${matched.toLocaleString()} events or more` : plural(matched, "event");
    const named = Object.entries(chosen).map(([name, value]) => `${words(name)} ${words(value)}`).join(", ");
    const isMeant = await ask(`Replay ${number}?`,
      `Every event that is not confirmed and matches the filter (${named}) starts anew: pushed again, and without an acknowledgement the chain begins from its first step.`);
    if (!isMeant) return;
    await doReplay(() => replayPages(chosen));
  } catch (error) {
    complain(error);
  }
}

async function replayPages(chosen) {
  let total = 0;
  let after = null;
  do {
    const answer = await api("v1/replay", { ...chosen, limit: REPLAY_PAGE, ...(after ? { after } : {}) });
    total += answer.replayed;
    after = answer.next;
    note(`${total.toLocaleString()} replayed…`);
  } while (after);
  return total;
}

async function doReplay(work) {
  try {
    const total = await work();
    picked = new Set();
    counted.at = 0;
    await page.reread();
    note(`${total.toLocaleString()} replayed.`);
  } catch (error) {
    complain(error);
  }
}

/** Whether a text is an event's whole id. */
export const isId = (text) => UUID.test(text);
