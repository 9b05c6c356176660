// Pictures: a figure's last hour as a line, and one event's way through the chain.
// Drawn at the size they are shown in, so that text stays readable on a phone.

import { duration, s, words } from "./page.js";

const HOUR_MS = 3_600_000;
const LEAST_MS = 120_000; // a chart of a few seconds would only show noise

/** A line over the last hour, or since the first sample; a gap where nothing was known. */
export function sparkline(samples, pick, { floor = 0, ceiling = null } = {}) {
  const width = 160;
  const height = 36;
  const now = Date.now();
  const points = samples
    .map((sample) => ({ at: Date.parse(sample.at), value: pick(sample) }))
    .filter(({ at }) => now - at <= HOUR_MS);
  const first = Math.max(now - HOUR_MS, Math.min(points[0]?.at ?? now, now - LEAST_MS));
  const values = points.filter(({ value }) => value !== null).map(({ value }) => value);
  const top = Math.max(ceiling ?? 0, ...values, floor + 1e-9);
  const bottom = Math.min(floor, ...values);
  const x = (at) => ((width - 3) * (at - first)) / (now - first);
  const y = (value) => 2 + (height - 4) * (1 - (value - bottom) / (top - bottom || 1));
  const lines = [];
  let line = [];
  for (const { at, value } of points) {
    if (value === null) {
      if (line.length) lines.push(line);
      line = [];
    } else line.push([x(at), y(value)]);
  }
  if (line.length) lines.push(line);
  const path = lines.map((one) => `M${one.map(([a, b]) => `${a.toFixed(1)},${b.toFixed(1)}`).join("L")}`);
  const area = lines
    .filter((one) => one.length > 1)
    .map((one) => `M${one[0][0]},${height}L${one.map(([a, b]) => `${a.toFixed(1)},${b.toFixed(1)}`).join("L")}L${one.at(-1)[0]},${height}Z`);
  const last = lines.at(-1)?.at(-1);
  return s("svg", { class: "spark", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" },
    s("path", { class: "spark-area", d: area.join("") }),
    s("path", { class: "spark-line", d: path.join(""), "vector-effect": "non-scaling-stroke" }),
    last ? s("path", { class: "spark-dot", d: `M${last[0]},${last[1]}h0`, "vector-effect": "non-scaling-stroke" }) : null);
}

const LANE = 34;
const TOP = 30;
const SIDE = 96;

/** One event's attempts along the time since it was accepted, a lane for each step and channel. */
export function timeline(event, width) {
  const start = Date.parse(event.at);
  const ends = [
    ...event.attempts.flatMap((a) => [a.started_at, a.ended_at]),
    ...event.confirmations.map((confirmation) => confirmation.at),
    event.state === "falling_back" ? event.due_at : null,
  ].filter(Boolean).map((text) => Date.parse(text) - start);
  const span = Math.max(100, ...ends) * 1.06;
  const scale = axis(span, width - SIDE - 20);
  const x = (ms) => SIDE + scale.at(Math.max(0, ms));
  const since = (text) => Date.parse(text) - start;

  const lanes = [...new Set([...event.attempts.map(stepOf), ...event.confirmations.map((one) => one.channel)])];
  if (event.state === "falling_back" && event.step && !lanes.includes(event.step)) lanes.push(event.step);
  const height = TOP + Math.max(1, lanes.length) * LANE + 8;
  const middle = (lane) => TOP + lanes.indexOf(lane) * LANE + LANE / 2;

  const parts = scale.ticks.map((ms) => s("g", { class: "tick" },
    s("line", { x1: x(ms), x2: x(ms), y1: TOP - 6, y2: height - 6 }),
    s("text", { x: x(ms), y: TOP - 12, "text-anchor": "middle" }, short(ms))));
  for (const lane of lanes) {
    parts.push(s("line", { class: "lane", x1: SIDE, x2: width - 8, y1: middle(lane), y2: middle(lane) }),
      s("text", { class: "lane-name", x: 0, y: middle(lane) + 4 }, words(lane)));
  }
  for (const attempt of event.attempts) parts.push(bar(attempt, since, x, middle(stepOf(attempt))));
  for (const confirmation of event.confirmations) {
    const at = x(since(confirmation.at));
    const y = middle(confirmation.channel);
    parts.push(s("g", { class: "confirmation" },
      s("title", {}, `confirmed by ${confirmation.by} over ${words(confirmation.channel)} after ${duration(since(confirmation.at))}: ${confirmation.evidence}`),
      s("line", { x1: at, x2: at, y1: TOP - 6, y2: height - 6 }),
      s("circle", { cx: at, cy: y, r: 8 }),
      s("path", { d: `M${at - 3.5},${y}l2.6,2.8l4.6,-5.4` })));
  }
  if (event.state === "falling_back" && event.due_at && event.step) {
    const at = x(since(event.due_at));
    parts.push(s("g", { class: "due" }, s("title", {}, `${words(event.step)} is due after ${duration(since(event.due_at))}`),
      s("circle", { cx: at, cy: middle(event.step), r: 7 })));
  }
  return s("svg", { class: "way", width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": spoken(event, since) }, ...parts);
}

/** The name of an attempt's step: its channel's, unless the policies give it one of its own. */
const stepOf = (attempt) => attempt.step ?? attempt.channel;

/** The step of an attempt for a reader: "reminder (email)". */
export function placeOf(attempt) {
  const step = stepOf(attempt);
  return step === attempt.channel ? words(step) : `${words(step)} (${words(attempt.channel)})`;
}

function bar(attempt, since, x, y) {
  const from = x(since(attempt.started_at));
  const to = attempt.ended_at ? x(since(attempt.ended_at)) : from;
  const note = [`${placeOf(attempt)}, attempt ${attempt.number}: ${words(attempt.outcome)}`,
    `after ${duration(since(attempt.started_at))}`, attempt.error].filter(Boolean).join(" · ");
  return s("g", { class: `attempt ${attempt.outcome}` }, s("title", {}, note),
    s("rect", { x: from - 7, y: y - 7, width: Math.max(14, to - from + 14), height: 14, rx: 7 }));
}

/** Up to a minute as it is; beyond, the first moments get more room than the last hours. */
function axis(span, room) {
  if (span <= 60_000) {
    const step = [20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000].find(
      (one) => room / (span / one) >= 52) ?? 30_000;
    const ticks = [];
    for (let ms = 0; ms <= span; ms += step) ticks.push(ms);
    return { at: (ms) => (room * ms) / span, ticks };
  }
  const log = (ms) => Math.log1p(ms / 250);
  const at = (ms) => (room * log(ms)) / log(span);
  const ticks = [];
  for (const ms of [0, 1_000, 5_000, 15_000, 60_000, 300_000, 900_000, 3_600_000, 6 * 3_600_000, 86_400_000]) {
    if (ms <= span && (!ticks.length || at(ms) - at(ticks.at(-1)) >= 44)) ticks.push(ms);
  }
  return { at, ticks };
}

function short(ms) {
  if (ms === 0) return "0";
  if (ms < 1_000) return `${ms} ms`;
  if (ms < 60_000) return `${ms / 1_000} s`;
  return ms < 3_600_000 ? `${ms / 60_000} min` : `${ms / 3_600_000} h`;
}

function spoken(event, since) {
  const steps = event.attempts.map((a) => `${placeOf(a)} ${words(a.outcome)} after ${duration(since(a.started_at))}`);
  const confirmations = event.confirmations.map((p) => `confirmed over ${words(p.channel)} after ${duration(since(p.at))}`);
  return `Timeline: ${[...steps, ...confirmations].join(", ") || "nothing yet"}`;
}
