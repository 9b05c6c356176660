// One event: why it was delivered or was not, its way, the messages that carried it, its data.

import { placeOf, timeline } from "./charts.js";
import { $, TONES, api, ask, draw, duration, h, linked, moment, optional, sentence, tag, words } from "./page.js";
import { linkTo } from "./place.js";

const opened = new Map(); // messages that the reader opened or closed

let current = null; // the event that is shown
let reveal = false; // bring the panel into view when it is drawn next
let messages = []; // of the local sinks
let kept = []; // of the shown event, as the ledger has them
let page = null;

/** @param {{mayOperate(): boolean, follows(): boolean, close(): void, reread(): void}} given */
export function startDetail(given) {
  page = given;
  $("replay").addEventListener("click", replay);
  $("detail-close").addEventListener("click", () => page.close());
  new ResizeObserver(() => current && !$("detail").hidden && drawWay()).observe($("way").parentElement);
}

export const shownEvent = () => current;

/** Bring the panel into view when it is drawn next. */
export function revealNext() {
  reveal = true;
  $("detail-note").textContent = "";
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
  page.reread();
}

function happenings(event) {
  const attempts = event.attempts.map((attempt) => ({
    at: attempt.started_at, place: placeOf(attempt), outcome: attempt.outcome,
    took: attempt.latency_ms,
    note: [`attempt ${attempt.number}`, attempt.provider ? `by ${attempt.provider}` : null, attempt.error, attempt.provider_id].filter(Boolean).join(" · "),
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

/** Read what the event was sent as, where no local sink shows it. */
export async function readKept(event) {
  const isCarried = event?.attempts.some(({ digest_id: id }) => id);
  kept = isCarried ? ((await optional(`v1/events/${event.id}/messages`))?.messages ?? []) : [];
}

/** Tokens and cost that a run's events reported. */
function tokensOf(run) {
  if (!run?.tokens) return [];
  const { input_tokens: into, output_tokens: out, cost } = run.tokens;
  return [["Tokens of the run", `${into} in, ${out} out, cost ${cost}`]];
}

export function drawDetail(event, run) {
  // In the demonstration: from the mail back to the timeline, where its confirmation has come in.
  const isConfirmed = page.follows() && current?.id === event?.id && event?.confirmations.length > current?.confirmations.length;
  current = event;
  $("detail").hidden = !event;
  if (!event) return;
  $("detail-title").textContent = `${words(event.type)} for ${event.user_id}`;
  $("replay").hidden = !page.mayOperate() || event.state === "confirmed";
  $("cause").replaceChildren(...sentence(event.cause ?? ""));
  $("cause").className = `cause ${TONES[event.state] ?? ""}`;
  const told = (name, id) => h("a", { href: linkTo(name, id) }, id);
  drawWay();
  drawSent(event);
  if (isConfirmed) window.scrollTo(0, 0);
  const confirmation = event.confirmations[0];
  const facts = [
    ["State", event.state],
    ["Confirmed by", confirmation ? `${confirmation.by} over ${words(confirmation.channel)}` : "–"],
    ["On step", event.step ? words(event.step) : "–"], ["Due", event.due_at],
    ["User", event.user_id], ["Run", event.run_id], ["Number in run", event.seq ?? "–"], ["Class", event.class],
    ...tokensOf(run),
    ["Expires", event.expires_at], ["Generation", event.generation], ["Id", event.id],
  ];
  if (event.trace_url) facts.push(["Trace", event.trace_url]);
  const make = (name, value) => {
    if (name === "State") return tag(value);
    if (name === "Trace") return h("a", { href: value, rel: "noreferrer", target: "_blank" }, "open");
    if (name === "User" || name === "Run") return told(name.toLowerCase(), value);
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

export function drawWay() {
  const width = Math.max(320, Math.floor($("way").parentElement.clientWidth) - 2);
  const { attempts, confirmations, state, step, due_at: due } = current;
  draw("way", [current.id, attempts, confirmations, state, step, due, width], () => [timeline(current, width)]);
}

/** The messages that carried this event: a digest's id is part of its mail's Message-ID. */
function drawSent(event) {
  const names = event.attempts.flatMap((a) => [a.digest_id, a.provider_id]).filter(Boolean);
  const local = messages.filter(({ id }) => names.some((name) => id.includes(name)));
  const carried = local.length ? local : kept.filter(({ digest_id: id }) => names.includes(id));
  const had = $("sent").childElementCount;
  draw("sent", carried, () => carried.map((message) => messageBox(message, "sent")));
  // Not scrollIntoView: inside the demonstration it would move the page around as well.
  if (page.follows() && carried.length > had) window.scrollBy(0, $("sent").getBoundingClientRect().top - 4);
}

function messageBox(message, place) {
  const key = `${place}-${message.id}`;
  const isOpen = opened.get(key) ?? (page.follows() && place === "sent");
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

export function drawInbox(inbox) {
  $("inbox-panel").hidden = !inbox;
  if (!inbox) return;
  messages = inbox.messages.slice(0, 50);
  draw("inbox", messages.map(({ id }) => id), () => messages.map((message) => messageBox(message, "inbox")));
  $("inbox-empty").hidden = messages.length > 0;
}
