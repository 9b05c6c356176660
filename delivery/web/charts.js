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

// ---- figures over time

const LEFT = 54;
const BOTTOM = 22;
const HEIGHT = 150;

/**
 * A figure over a range, with axes; the pointer, or the arrow keys, tell the values of one step.
 * `told` is an answer of `/v1/history`; each of `lines` is `[name, pick]`.
 */
export function historyChart(told, { title, lines, format, width, ceiling = null }) {
  const [from, to] = [Date.parse(told.from), Date.parse(told.to)];
  const points = told.points.map((point) => ({ at: Date.parse(point.at) + told.step * 500, values: lines.map(([, pick]) => pick(point)) }));
  const known = points.flatMap(({ values }) => values).filter((value) => value !== null);
  const highest = Math.max(ceiling ?? 0, ...known, 0);
  const top = highest > 0 ? nice(highest) : 1;
  const x = (at) => LEFT + ((width - LEFT - 8) * (at - from)) / (to - from);
  const y = (value) => 8 + (HEIGHT - BOTTOM - 8) * (1 - value / top);
  const parts = [0, top / 2, top].map((value) => s("g", { class: "tick" },
    s("line", { x1: LEFT, x2: width - 8, y1: y(value), y2: y(value) }),
    s("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, format(value))));
  for (const at of timesOf(from, to, width)) {
    parts.push(s("text", { x: x(at), y: HEIGHT - 5, "text-anchor": "middle", class: "time" }, timeOf(at, to - from)));
  }
  lines.forEach((_, index) => {
    parts.push(s("path", { class: `history-line line-${index}`, d: pathOf(points, index, told.step * 1000, x, y) }));
    parts.push(s("path", { class: `history-point line-${index}`, d: lonelyOf(points, index, told.step * 1000, x, y) }));
  });
  if (!known.length) parts.push(s("text", { x: (LEFT + width) / 2, y: HEIGHT / 2 - 16, "text-anchor": "middle" }, "– no data in this range"));
  const cursor = s("g", { class: "cursor", visibility: "hidden" });
  const spoken = known.length
    ? `${title}: ${lines.map(([name], index) => summary(name, points, index, format)).join("; ")}`
    : `${title}: no data`;
  const picture = s("svg", { class: "history-chart", width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": spoken, tabindex: 0 }, ...parts, cursor);
  let shown = points.length - 1;
  const show = (index) => {
    if (!points.length) return;
    shown = Math.max(0, Math.min(points.length - 1, index));
    tell(cursor, points[shown], { lines, format, x, y, width, span: to - from });
  };
  picture.addEventListener("pointermove", (event) => {
    const at = event.clientX - picture.getBoundingClientRect().left;
    const near = points.map((point) => Math.abs(x(point.at) - at));
    show(near.indexOf(Math.min(...near)));
  });
  picture.addEventListener("pointerleave", () => cursor.setAttribute("visibility", "hidden"));
  picture.addEventListener("blur", () => cursor.setAttribute("visibility", "hidden"));
  picture.addEventListener("focus", () => show(shown));
  picture.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") show(shown - 1);
    else if (event.key === "ArrowRight") show(shown + 1);
    else return;
    event.preventDefault();
  });
  return picture;
}

function tell(cursor, point, { lines, format, x, y, width, span }) {
  const at = x(point.at);
  const text = [timeOf(point.at, span, true), ...lines.map(([name], index) =>
    `${lines.length > 1 ? `${name} ` : ""}${point.values[index] === null ? "–" : format(point.values[index])}`)].join(" · ");
  const room = text.length * 6.4 + 12;
  const left = Math.max(0, Math.min(width - room, at - room / 2));
  cursor.replaceChildren(
    s("line", { x1: at, x2: at, y1: 8, y2: HEIGHT - BOTTOM }),
    ...point.values.map((value, index) => (value === null ? "" : s("circle", { class: `dot-${index}`, cx: at, cy: y(value), r: 3.5 }))).filter(Boolean),
    s("rect", { x: left, y: 0, width: room, height: 20, rx: 5 }),
    s("text", { x: left + room / 2, y: 14, "text-anchor": "middle" }, text));
  cursor.setAttribute("visibility", "visible");
}

/** A line that ends where a step is missing. */
/** Dots where a value has no neighbour: a line of one point cannot be seen. */
function lonelyOf(points, index, step, x, y) {
  const known = points.filter(({ values }) => values[index] !== null);
  const isFar = (one, other) => !other || Math.abs(one.at - other.at) > step * 1.5;
  return known
    .filter((one, at) => isFar(one, known[at - 1]) && isFar(one, known[at + 1]))
    .map(({ at, values }) => `M${x(at).toFixed(1)},${y(values[index]).toFixed(1)}h.01`)
    .join("");
}

function pathOf(points, index, step, x, y) {
  let path = "";
  let before = null;
  for (const { at, values } of points) {
    const value = values[index];
    if (value === null) before = null;
    else {
      const isOn = before !== null && at - before <= step * 1.5;
      path += `${isOn ? "L" : "M"}${x(at).toFixed(1)},${y(value).toFixed(1)}${isOn ? "" : "h.01"}`;
      before = at;
    }
  }
  return path;
}

function summary(name, points, index, format) {
  const values = points.map(({ values: found }) => found[index]).filter((value) => value !== null);
  if (!values.length) return `${name}: –`;
  return `${name} now ${format(values.at(-1))}, from ${format(Math.min(...values))} to ${format(Math.max(...values))}`;
}

function nice(value) {
  const size = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 2.5, 5, 10].map((one) => one * size).find((one) => one >= value * 0.9999) ?? value;
}

function timesOf(from, to, width) {
  const steps = [300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400, 172_800, 432_000].map((one) => one * 1000);
  const step = steps.find((one) => ((width - LEFT) * one) / (to - from) >= 58) ?? steps.at(-1);
  const shift = new Date(from).getTimezoneOffset() * 60_000; // ticks at whole hours of the reader's clock
  const found = [];
  for (let at = Math.ceil((from - shift) / step) * step + shift; at <= to; at += step) found.push(at);
  return found.filter((at) => ((width - LEFT - 8) * (at - from)) / (to - from) + LEFT < width - 32);
}

function timeOf(at, span, isExact = false) {
  const day = { month: "short", day: "numeric" };
  const clock = { hour: "2-digit", minute: "2-digit" };
  if (span <= 90_000_000) return new Date(at).toLocaleTimeString(undefined, clock);
  return new Date(at).toLocaleString(undefined, isExact ? { ...day, ...clock } : day);
}

/** A run's events on one line of time, coloured by where they stand. */
export function runLine(events, width) {
  const start = Date.parse(events[0].at);
  const span = Math.max(100, Date.parse(events.at(-1).at) - start) * 1.04;
  const scale = axis(span, width - 40);
  const x = (ms) => 16 + scale.at(Math.max(0, ms));
  const parts = scale.ticks.map((ms) => s("g", { class: "tick" },
    s("line", { x1: x(ms), x2: x(ms), y1: 22, y2: 62 }), s("text", { x: x(ms), y: 14, "text-anchor": "middle" }, short(ms))));
  parts.push(s("line", { class: "lane", x1: 8, x2: width - 8, y1: 42, y2: 42 }));
  for (const event of events) {
    const ms = Date.parse(event.at) - start;
    parts.push(s("g", { class: `event-dot ${event.state}` }, s("title", {}, `${words(event.type)} after ${duration(ms)}: ${words(event.state)}`),
      s("circle", { cx: x(ms), cy: 42, r: 6 })));
  }
  const text = `${events.length} events over ${duration(Date.parse(events.at(-1).at) - start)}; the last one is ${words(events.at(-1).type)}`;
  return s("svg", { class: "way", width, height: 68, viewBox: `0 0 ${width} 68`, role: "img", "aria-label": text }, ...parts);
}
