// The demonstration's page: a user's chat on the embedded client, and the operators' page beside it.

import { connect } from "./client.js";
import { $, ApiError, api, h, openSession, session, tag } from "./page.js";

const BADGE = {
  connected: "confirmed", connecting: "accepted", waiting: "falling_back", offline: "failed", closed: "failed",
};
const RENEW_MS = 300_000;
const STEPS = ["ask", "offline", "chain", "mail"];

let part = null; // whom this page plays
let connection = null;
let isOffline = false;
let streaming = null; // the bubble that token deltas go to
let wasCut = false; // since the run began
let isOver = false; // the run's last event is confirmed
let run = null;

function say(element) {
  const log = $("log");
  const isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
  log.append(element);
  if (isAtEnd) log.scrollTop = log.scrollHeight;
  return element;
}

function step(name) {
  const at = STEPS.indexOf(name);
  STEPS.forEach((one, index) => {
    $(`step-${one}`).className = index < at ? "done" : index === at ? "now" : "";
    $(`step-${one}`).toggleAttribute("aria-current", index === at);
  });
}

const SHOW = {
  agent_started: ({ agent }) => doing("busy", `The ${agent} begins.`),
  agent_thinking: ({ thought }) => doing("busy", thought),
  tool_executing: ({ tool }) => doing("busy", "Uses ", h("code", {}, tool)),
  tool_completed: ({ tool }) => doing("done", h("code", {}, tool), " is done."),
  token_delta({ text }) {
    quiet();
    streaming ??= say(h("p", { class: "said agent" }));
    streaming.append(text);
    $("log").scrollTop = $("log").scrollHeight;
  },
  agent_completed({ result }) {
    quiet();
    streaming ??= say(h("p", { class: "said agent" }));
    streaming.textContent = result;
    streaming = null;
    $("log").scrollTop = $("log").scrollHeight;
    if (!wasCut) step("ask"); // it was there all the time: nothing to see in the chain
  },
};

function doing(state, ...what) {
  quiet();
  say(h("p", { class: `doing ${state}` }, h("span", {}, ...what)));
}

function quiet() {
  for (const element of document.querySelectorAll(".doing.busy")) element.className = "doing done";
}

function onEvent(event) {
  // What an earlier visit left behind is acknowledged, and not shown.
  if (event.run_id === run) SHOW[event.type]?.(event.data);
}

function onStatus(status) {
  const word = isOffline ? "offline" : status.state;
  $("badge").replaceWith(Object.assign(tag(BADGE[word]), { id: "badge", textContent: word }));
}

function goOnline() {
  connection = connect({
    token: async () => (part = await api("v1/demo/session", {})).token,
    onEvent,
    onStatus,
    share: false, // "offline" is to mean this page, not its twin
    device: "demo page",
  });
}

function toggleLine() {
  isOffline = !isOffline;
  $("line").setAttribute("aria-pressed", String(isOffline));
  $("line").textContent = isOffline ? "Go online" : "Go offline";
  say(h("p", { class: "cut" }, isOffline ? "The line is cut." : "Back online: what was missed comes in."));
  if (!isOffline) return goOnline();
  wasCut = true;
  connection.close();
  onStatus({ state: "offline" });
  step(run ? "chain" : "ask");
}

async function ask(event) {
  event.preventDefault();
  const prompt = $("prompt").value.trim();
  if (!prompt) return;
  $("prompt").value = "";
  say(h("p", { class: "said me" }, prompt));
  streaming = null;
  wasCut = isOffline;
  isOver = false;
  try {
    run = (await api("v1/demo/runs", { prompt })).run_id;
  } catch (error) {
    say(h("p", { class: "cut" }, error.message));
    return;
  }
  step(isOffline ? "chain" : "offline");
  look();
}

/** The dashboard shows the newest event of this run; it has the session of this browser. */
function look() {
  const values = { tour: "1", follow: "1", user_id: part.user_id, ...(run ? { run_id: run } : {}) };
  const frame = $("dashboard");
  const fragment = String(new URLSearchParams(values));
  if (frame.src) frame.contentWindow.location.hash = fragment;
  else frame.src = `./#${fragment}`;
}

/** The last steps happen in the mail's own page: the run's last event tells when it is over. */
async function watch() {
  if (wasCut && run && !isOver) {
    try {
      const query = new URLSearchParams({ user_id: part.user_id, run_id: run, type: "agent_completed" });
      const [last] = (await api(`v1/events?${query}`)).events;
      if (last?.state === "confirmed") {
        isOver = true;
        step("mail");
        $("step-mail").className = "done";
      } else if (["sms", "alert"].includes(last?.step) || (last && (await mailed(last.id)))) step("mail");
    } catch (error) {
      if (!(error instanceof ApiError) && error.name !== "TimeoutError") throw error;
    }
  }
  setTimeout(watch, 1500);
}

async function mailed(id) {
  const { attempts } = await api(`v1/events/${id}`);
  return attempts.some(({ channel, outcome }) => channel === "email" && outcome === "delivered");
}

async function begin() {
  await openSession().catch(() => {
    throw new ApiError(401, { detail: "Open this page by the address that `delivery demo` prints; it works once." });
  });
  setInterval(() => document.hidden || session().catch(() => {}), RENEW_MS); // what fails is shown by what is asked next
  part = await api("v1/demo/session", {});
  $("health").className = "health ok";
  $("health").textContent = part.quick ? "Shortened times" : "Real times: the chain takes minutes";
  goOnline();
  $("send").disabled = $("line").disabled = false;
  $("line").addEventListener("click", toggleLine);
  $("talk").addEventListener("submit", ask);
  step("ask");
  look();
  watch();
}

begin().catch((error) => {
  $("health").className = "health away";
  $("health").textContent = "Not running";
  $("gone").hidden = false;
  $("gone").textContent = error.message;
  for (const part of document.querySelectorAll(".chat, .beside")) part.hidden = true;
});
