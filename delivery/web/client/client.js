// Events of one user in a page, a worker, Node.js or React Native: WebSocket `delivery.v1`, or SSE
// with POST /v1/acks.
//
//   import { connect } from "https://delivery.example.org/client.js";
//   const connection = connect({ url, token: fetchToken, onStatus });
//   connection.on("agent_completed", (event) => show(event.data.result));
//
// Owns: the connection, acknowledgements, duplicates, the cursor. Never does: decide what an event
// means. One file without imports, so that a page can load it as it is; types are in client.d.ts.
// After a change: `make client`, which writes the file that the gateway serves.

const PROTOCOL = "delivery.v1";
const OPEN_MS = 8_000; // from dialling to `connected`
const SOCKET_MS = 5_000; // the same for a socket: then a stream stands within ten seconds
const CHECK_MS = 3_000; // from a ping to any answer
const TOKEN_MS = 10_000; // for the token callback
const ASK_MS = 15_000; // for an answer of the HTTP API
const BEAT_MS = 700; // a tab hears of the leader this often, or asks
const MAX_UNANSWERED = 3; // then it takes the connection
const JUMP_MS = [5_000, 150_000]; // between two beats: the machine slept. A hidden tab's timers may wait a minute
const BACKOFF = [500, 30_000]; // full jitter below 500 ms, 1 s, 2 s … 30 s
const SOCKET_TRIES = 2; // failures in a row before the stream is tried
const UPGRADE_MS = [60_000, 600_000]; // on the stream: try a socket again after, at most every
const SLICE_MS = 8; // handlers run this long before the page may paint
const MAX_ACK_IDS = 1_000; // the protocol's
const MAX_NACKS = 200; // per turn of 200 ms: far below the gateway's rate limit
const MAX_UNSENT = 5_000; // acks that wait for the network; older ones come back by replay
const MAX_KNOWN = 10_000; // handled ids in memory
const MAX_STORED = 4_096; // handled ids in storage
const MAX_RECENT = 1_000; // events that a reloaded sister tab can be given
const MAX_PASSED = 1_000; // ephemeral ids in memory
const MAX_UNHEARD = 200; // events that wait for a listener; then the oldest is refused
const MAX_MESSAGE = 1 << 22; // characters that one message of a stream may have
const MAX_TIMER = 2_147_000_000;
const START = "0"; // the place before every event: less than any id
const EVERY_TAB = "*";

/** Connect; see client.d.ts for the options. Returns at once. */
export function connect(options) {
  return new Client(options);
}

class Client {
  constructor(options) {
    if (!options?.token) throw new TypeError("token must be a string or a function that returns one");
    const here = globalThis.location?.href;
    if (!here && !options.url) throw new TypeError("url must be given where there is no page");
    this.options = options;
    this.base = new URL(options.url ?? ".", here).href.replace(/\/$/, "");
    this.listeners = new Map();
    if (options.onEvent !== undefined) this.on("*", options.onEvent);
    if (options.onStatus) this.onStatus(options.onStatus);
    this.status = { state: "connecting", transport: null, leader: false, userId: null };
    this.work = new Worklist((event) => this.hearers(event, `:${event.type}`, ":*"), (...done) => this.onHandled(...done));
    this.posts = new AckPoster(`${this.base}/v1/acks`, () => this.token(), () => { this.known = null; });
    this.recent = [];
    this.held = []; // events that wait for those before them
    this.dirty = new Set(); // links with acknowledgements that wait for the end of this turn
    this.tab = globalThis.crypto?.randomUUID?.() ?? String(Math.random());
    this.failures = 0;
    this.socketFailures = 0;
    this.upgradeMs = options.upgradeAfter ?? UPGRADE_MS[0];
    this.onStream = options.transport === "sse";
    this.known = null; // the token in use, with when to ask for a newer one
    this.unanswered = 0; // questions to the leader
    this.ended = new AbortController();
    const page = globalThis.document; // a worker has none; Node.js has no events either
    const on = (target, type, act) => target?.addEventListener?.(type, act, { signal: this.ended.signal });
    on(globalThis, "offline", () => this.onOffline());
    on(globalThis, "online", () => this.wake());
    on(globalThis, "pageshow", (event) => event.persisted && this.wake());
    on(globalThis, "pagehide", (event) => (event.persisted ? this.onFreeze() : this.flush()));
    on(page, "freeze", () => this.onFreeze());
    on(page, "visibilitychange", () => !page.hidden && this.onWake(false));
    on(page, "resume", () => this.onWake(false)); // the browser had frozen this tab
    this.tickedAt = Date.now();
    this.ticking = setInterval(() => this.onTick(), BEAT_MS);
    this.join();
  }

  /** Stop for good: no event is handled any more; other tabs go on. */
  close() {
    if (this.ended.signal.aborted) return;
    this.flush();
    this.stop({ state: "closed" });
  }

  /** Look at once whether the connection is there, after the machine slept or found a network. */
  wake() {
    this.onWake(true);
  }

  // ---- listeners

  /** Listen to the events of a type, or of all (`*`), `when` it says so; returns the end of it. */
  on(type, listener, when) {
    const end = this.listen(`:${type}`, listener, when);
    this.work?.retry();
    return end;
  }

  off(type, listener) {
    this.listeners.get(`:${type}`)?.delete(listener);
  }

  onStatus(listener) {
    return this.listen("status", listener);
  }

  /** Told without content when something was marked as read or archived, on any device. */
  onInbox(listener) {
    return this.listen("inbox", listener);
  }

  enablePush(options) {
    return import("./push.js").then((push) => push.enablePush(this, options));
  }

  disablePush(options) {
    return import("./push.js").then((push) => push.disablePush(this, options));
  }

  listen(key, listener, when = () => true) {
    if (typeof listener !== "function") throw new TypeError("a listener must be a function");
    if (!this.listeners.has(key)) this.listeners.set(key, new Map());
    const all = this.listeners.get(key).set(listener, when);
    return () => all.delete(listener);
  }

  hearers(value, ...keys) {
    const all = keys.flatMap((key) => [...(this.listeners.get(key) ?? [])]);
    return [...new Map(all.filter(([, when]) => when(value))).keys()];
  }

  inform(key, value) {
    for (const listener of this.hearers(value, key)) {
      try {
        listener(value);
      } catch (error) {
        console.error(`delivery: a listener to ${key} failed`, error);
      }
    }
  }

  log(...what) {
    const { debug } = this.options;
    if (debug) (typeof debug === "function" ? debug : console.debug)("delivery:", ...what);
  }

  // ---- asking

  /** Events that the ledger has, the newest first; `before` is an id, or the `next` of a page. */
  history({ before, run, type, limit } = {}) {
    const query = Object.entries({ after: before, run_id: run, type, limit }).filter(([, value]) => value != null);
    return this.request(`events?${query.map(([name, value]) => `${name}=${encodeURIComponent(value)}`).join("&")}`);
  }

  /** Ask the HTTP API, with this connection's token. */
  async request(path, body, isAgain) {
    const headers = { Authorization: `Bearer ${await this.token()}`, "Content-Type": "application/json" };
    const more = body && { method: "POST", body: JSON.stringify(body) };
    const signal = AbortSignal.timeout?.(ASK_MS);
    const answer = await fetch(`${this.base}/v1/${path}`, { headers, signal, cache: "no-store", ...more });
    if (answer.status === 401 && this.canRefresh && !isAgain) {
      this.known = null;
      return this.request(path, body, true);
    }
    if (answer.ok) return answer.json();
    const { reason } = await refusal(answer);
    throw Object.assign(new Error(reason), { status: answer.status });
  }

  // ---- who holds the connection

  /** One connection for all tabs where the browser has locks; else each tab has its own. */
  async join() {
    let userId;
    try {
      userId = subject(await this.token());
    } catch (error) {
      if (!this.isOver) this.again(() => this.join(), this.delay(), error.message);
      return;
    }
    if (this.isOver) return;
    this.name = `delivery:${this.base}:${userId}`;
    this.store = new Store(this.name, this.options);
    this.tip = this.store.cursor;
    this.say({ userId });
    // Node.js has locks too, and its processes no page in common.
    const shares = this.options.share !== false && userId !== null && globalThis.location;
    if (!shares || !navigator.locks || !globalThis.BroadcastChannel) return this.lead();
    this.channel = new BroadcastChannel(this.name);
    this.channel.onmessage = ({ data }) => this.onSister(data);
    this.claim();
  }

  /**
   * Wait for the lock, or steal it. The browser frees it when its tab is closed or dies, and gives
   * it to the next in line; a tab that is suspended keeps it, and must be robbed.
   */
  claim(steal = false) {
    this.ask();
    this.unanswered = 0;
    this.place?.abort(); // one place in the line for each tab
    const place = (this.place = new AbortController());
    const held = () => new Promise((release) => {
      if (place.signal.aborted) return release();
      this.release = release;
      this.lead();
    });
    // A request that steals takes no signal.
    navigator.locks.request(this.name, steal ? { steal } : { signal: place.signal }, held).catch((error) => {
      if (this.isOver || place.signal.aborted) return;
      if (error.name !== "AbortError") this.lead(); // no locks in this frame: a connection of its own
      else this.onRobbed();
    });
  }

  /** Another tab has the connection now: this one was suspended, and missed its questions. */
  onRobbed() {
    this.resign();
    this.claim();
  }

  /** The browser stops this tab: its events would wait for it, and the other tabs with them. */
  onFreeze() {
    this.flush();
    if (!this.store || this.isFrozen) return;
    this.isFrozen = true;
    this.place?.abort();
    if (this.status.leader) this.resign();
    this.release?.();
  }

  resign() {
    this.turn = null; // whatever waits for a token is stale
    this.drop();
    for (const timer of [this.timer, this.upgrading]) clearTimeout(timer);
    this.say({ leader: false, state: "connecting", transport: null, retryAt: undefined });
  }

  lead() {
    if (this.isOver) return this.release?.();
    this.say({ leader: true });
    this.dial();
  }

  tell(message) {
    this.channel?.postMessage(message);
  }

  /** With the place that the next events follow: a tab that knows no place cannot notice a gap. */
  tellStatus(tab) {
    this.tell({ type: "status", status: this.status, tip: this.tip ?? START, tab });
  }

  /** Ask the leader for its status, and for what this tab has missed. */
  ask() {
    this.tell({ type: "hello", tab: this.tab, cursor: this.tip });
  }

  onTick() {
    const gap = Date.now() - this.tickedAt;
    this.tickedAt += gap;
    const slept = gap < 0 || gap > JUMP_MS[globalThis.document?.hidden ? 1 : 0];
    if (slept) this.onWake(false, true);
    if (!this.channel || this.status.leader || this.isFrozen) return;
    // Questions are counted, not seconds: a tab that was itself suspended has to ask first.
    if (this.unanswered >= MAX_UNANSWERED) return this.claim(true);
    // A message wakes the leader even where its own timers are throttled.
    if (!this.isHeard) {
      this.unanswered += 1;
      this.ask();
    }
    this.isHeard = false;
  }

  onSister(message) {
    if (message.type === "hello") {
      if (!this.status.leader) return;
      const missed = after(this.recent, message.cursor);
      if (missed.length) this.tell({ type: "events", events: missed, tab: message.tab });
      return this.tellStatus(message.tab);
    }
    this.isHeard = true;
    this.unanswered = 0;
    const { events, tab, before } = message;
    if (message.type === "events" && (tab ?? this.tab) === this.tab) {
      // What is told to a suspended tab may be lost: it asks for what is missing, to keep the order.
      const isGap = !tab && before && this.tip && before !== this.tip;
      if (isGap) {
        this.held.push(...events);
        return this.ask();
      }
      this.take(events, null);
      if (tab) this.tip = events.at(-1).id; // also where all of them were known: the next question goes on here
    } else if (message.type === "inbox") this.inform("inbox");
    else if (message.type === "status" && !this.status.leader) {
      this.tip ??= message.tip;
      // An answer to another tab comes without what this one has missed.
      if ((tab ?? this.tab) === this.tab) this.take(this.held.splice(0), null);
      this.say({ ...message.status, leader: false });
    }
  }

  // ---- connecting

  get isOver() {
    return this.ended.signal.aborted;
  }

  async dial() {
    clearTimeout(this.timer);
    if (this.isOver || !this.status.leader || this.link) return;
    this.say({ state: "connecting", retryAt: undefined });
    const turn = (this.turn = {}); // a later dial makes this one stale while it waits for a token
    let token;
    try {
      token = await this.token();
    } catch (error) {
      if (turn === this.turn) this.again(() => this.dial(), this.delay(), `no token: ${error.message}`);
      return;
    }
    if (turn !== this.turn || this.isOver || this.link) return;
    this.link = this.open(this.onStream || !this.hasSockets ? StreamLink : SocketLink, token, (link, end) => this.onEnd(link, end));
  }

  /** Node.js 20 has no WebSocket. */
  get hasSockets() {
    return globalThis.WebSocket || this.options.transport === "websocket";
  }

  open(Kind, token, onEnd) {
    const link = new Kind(this.base, { token, cursor: this.store.cursor, device: this.options.device }, {
      open: (frame) => this.onOpen(link, frame),
      events: (events) => this.take(events, link),
      inbox: () => {
        this.inform("inbox");
        this.tell({ type: "inbox" });
      },
      refused: (reason) => this.onNotRefreshed(link, reason),
      end: (end) => onEnd(link, end),
    });
    link.posts = this.posts;
    return link;
  }

  onOpen(link, frame) {
    const before = this.link;
    this.link = link;
    if (this.trial === link) this.trial = null;
    if (before !== link) before?.close(); // a socket takes over from the stream
    this.openedAt = Date.now();
    this.tip ??= START;
    this.isDoubted = false;
    if (link instanceof SocketLink) {
      this.socketFailures = 0;
      this.onStream = this.options.transport === "sse";
      clearTimeout(this.upgrading);
      this.upgradeMs = this.options.upgradeAfter ?? UPGRADE_MS[0];
    } else if (this.options.transport !== "sse") {
      this.upgradeLater();
    }
    this.say({
      state: "connected", transport: link.transport, userId: frame.user_id, node: frame.node,
      recovered: frame.recovered, code: undefined, reason: undefined, retryAt: undefined,
    });
    this.refreshLater(frame.expires ? Date.parse(frame.expires) - Date.now() : null);
  }

  onEnd(link, { code = 1006, reason = "", afterMs = null, wasOpen = false, isSilent = false }) {
    if (this.link !== link) return;
    this.link = null;
    this.log("disconnected", code, reason);
    clearTimeout(this.refreshing);
    // A link that outlived the longest wait that earlier failures would cost makes up for them.
    if (wasOpen && Date.now() - this.openedAt > this.ceiling()) this.failures = 0;
    if (code === 3005 || code === 3006 || code === 3500) this.known = null;
    // A token that is refused is followed by a newer one, once.
    const isAgain = code === 3500 && this.canRefresh && !this.isDoubted;
    if (isAgain) this.isDoubted = true;
    else if ((code >= 3500 && code <= 3999) || (code === 3005 && !this.canRefresh)) {
      return this.stop({ state: "closed", transport: null, code, reason });
    }
    if (!wasOpen && code < 3000) this.onNoWay(link, isSilent);
    // A server that says when to come back has spread its clients already.
    this.again(() => this.dial(), afterMs ?? this.delay(), reason, code);
  }

  /** A way that does not get through: after two sockets, or a silent one, the stream; then a socket. */
  onNoWay(link, isSilent) {
    if ((this.options.transport ?? "auto") !== "auto") return;
    if (link instanceof SocketLink) {
      this.socketFailures += isSilent ? SOCKET_TRIES : 1;
      this.onStream = this.socketFailures >= SOCKET_TRIES;
    } else {
      this.onStream = false;
    }
  }

  again(act, ms, reason, code) {
    clearTimeout(this.timer);
    const state = globalThis.navigator?.onLine === false ? "offline" : "waiting";
    this.say({ state, transport: null, reason, code, retryAt: Date.now() + ms });
    this.timer = setTimeout(act, ms);
  }

  /** Full jitter. Source: AWS Architecture Blog, "Exponential Backoff And Jitter". */
  delay() {
    const ceiling = this.ceiling();
    this.failures = Math.min(this.failures + 1, 16);
    return Math.random() * ceiling;
  }

  ceiling() {
    return Math.min(BACKOFF[1], BACKOFF[0] * 2 ** this.failures);
  }

  upgradeLater() {
    clearTimeout(this.upgrading);
    if (this.isOver || !this.hasSockets) return;
    this.upgrading = setTimeout(async () => {
      if (!this.link || this.link instanceof SocketLink || this.isOver) return;
      this.upgradeMs = Math.min(this.upgradeMs * 2, UPGRADE_MS[1]);
      const token = await this.token().catch(() => null);
      if (!token || this.isOver || !this.link || this.link instanceof SocketLink) return this.upgradeLater();
      this.replace(SocketLink, token, () => this.upgradeLater());
    }, this.upgradeMs * (0.75 + Math.random() / 2));
  }

  /** The link that stands goes on until the new one has said `connected`. */
  replace(Kind, token, onFail) {
    this.trial?.close();
    this.trial = this.open(Kind, token, (link, end) => {
      if (this.trial !== link) return this.onEnd(link, end);
      this.trial = null;
      onFail(end);
    });
  }

  /** Let go of every link, silently. */
  drop() {
    const links = [this.link, this.trial];
    this.link = this.trial = null;
    clearTimeout(this.refreshing);
    for (const link of links) link?.close();
  }

  onOffline() {
    if (!this.status.leader || this.isOver) return;
    this.drop();
    // Browsers can be wrong about it: slow attempts go on until `online` comes.
    this.again(() => this.dial(), 5_000 + this.delay(), "the browser is offline");
  }

  /** It may have been long: is the connection still there, or is it worth a try again? */
  onWake(isFresh, slept = false) {
    if (this.isOver || !this.store) return;
    if (this.isFrozen) {
      this.isFrozen = false;
      return this.channel ? this.claim() : this.lead();
    }
    if (!this.status.leader) return this.ask();
    if (this.link) return this.link.check(slept);
    if (isFresh && this.options.transport !== "sse") {
      this.socketFailures = 0;
      this.onStream = false;
    }
    this.failures = 0;
    this.dial();
  }

  stop(status) {
    this.ended.abort();
    this.place?.abort();
    for (const timer of [this.timer, this.upgrading]) clearTimeout(timer);
    clearInterval(this.ticking);
    this.drop();
    this.work.stop();
    this.release?.();
    this.say({ ...status, transport: null, leader: false, retryAt: undefined });
    this.channel?.close();
  }

  // ---- tokens

  get canRefresh() {
    return typeof this.options.token === "function";
  }

  /** The token in use, or a new one once three quarters of its life are over. */
  async token() {
    if (!this.canRefresh) return this.options.token;
    if (this.known && Date.now() < this.known.until) return this.known.token;
    // Two that need one at once ask once.
    this.asking ??= this.fresh().finally(() => { this.asking = null; });
    return this.asking;
  }

  async fresh() {
    let timer;
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error("the token callback did not answer in time")), TOKEN_MS);
    });
    const token = await Promise.race([this.options.token(), late]).finally(() => clearTimeout(timer));
    if (typeof token !== "string" || !token) throw new Error("the token callback returned no token");
    this.known = { token, until: Date.now() + early(lifetime(token)) };
    return token;
  }

  refreshLater(left) {
    clearTimeout(this.refreshing);
    if (left === null || !this.canRefresh) return;
    this.refreshing = setTimeout(() => this.refresh(), Math.min(Math.max(1_000, early(left)), MAX_TIMER));
  }

  async refresh() {
    const link = this.link;
    this.known = null;
    try {
      const token = await this.token();
      if (this.link !== link || !link) return;
      this.say({ reason: undefined });
      if (link.refresh(token)) return this.refreshLater(lifetime(token));
      // A stream carries one token: another one takes over.
      this.replace(StreamLink, token, ({ reason }) => this.onNotRefreshed(link, reason));
    } catch (error) {
      this.onNotRefreshed(link, `no new token: ${error.message}`);
    }
  }

  /** The link is good for as long as its token is: try again. */
  onNotRefreshed(link, reason) {
    if (this.isOver || this.link !== link || !this.canRefresh) return;
    clearTimeout(this.refreshing);
    this.known = null;
    this.refreshing = setTimeout(() => this.refresh(), 1_000 + this.delay());
    this.say({ reason });
  }

  // ---- events

  take(events, link) {
    const fresh = [];
    for (const event of events) {
      if (this.store.passed.has(event.id)) continue;
      if (this.store.has(event.id)) link?.ack(event.id) && this.touch(link); // its ack was lost
      else if (this.work.has(event.id)) this.work.redirect(event.id, link);
      else fresh.push(event);
    }
    if (!fresh.length) return;
    this.log("received", fresh);
    if (link) this.tell({ type: "events", events: fresh, before: this.tip });
    const lasting = fresh.filter((event) => event.class !== "ephemeral");
    this.tip = lasting.at(-1)?.id ?? this.tip; // taken, if not handled yet
    // Every tab keeps them: the next one to lead may be asked.
    this.recent.push(...lasting);
    if (this.recent.length > 2 * MAX_RECENT) this.recent = this.recent.slice(-MAX_RECENT);
    for (const event of fresh) this.work.push(event, link);
  }

  onHandled(event, link, error) {
    const lasts = event.class !== "ephemeral";
    this.log(error === undefined ? "handled" : "refused", event.type, event.id);
    if (!lasts) this.store.pass(event.id);
    else if (error === undefined) {
      this.store.add(event.id);
      link?.ack(event.id);
    } else {
      link?.nack(event.id, String(error?.message ?? error).slice(0, 200));
    }
    if (lasts) this.touch(link);
    if (error !== undefined) console.error("delivery: a listener failed for", event.type, event.id, error);
  }

  /** Acknowledge at the end of this turn, whatever gathers until then in one frame. */
  touch(link) {
    if (link) this.dirty.add(link);
    if (this.isDue) return;
    this.isDue = true;
    turn().then(() => this.flush());
  }

  flush() {
    this.isDue = false;
    if (!this.store) return;
    this.store.save(this.status.leader); // first: what is acknowledged does not come back
    const links = [...this.dirty];
    this.dirty.clear();
    for (const link of links) link.flush();
  }

  say(change) {
    const status = { ...this.status, ...change };
    if (JSON.stringify(status) === JSON.stringify(this.status)) return;
    this.status = status;
    if (status.leader) this.tellStatus(EVERY_TAB);
    this.log("status", status);
    this.inform("status", status);
  }
}

// ---- the two ways

class SocketLink {
  transport = "websocket";
  acks = [];
  nacks = [];

  constructor(base, hello, on) {
    this.on = on;
    this.end = {};
    try {
      this.socket = new WebSocket(`${base.replace(/^http/, "ws")}/v1/ws`, PROTOCOL);
    } catch (error) { // a policy of the page forbids it
      setTimeout(() => this.close({ reason: error.message }));
      return;
    }
    this.expectAnswer();
    this.socket.onopen = () => this.send({ type: "connect", ...hello });
    this.socket.onmessage = ({ data }) => this.onFrame(JSON.parse(data));
    this.socket.onclose = ({ code, reason }) => this.close({ code, reason: this.end.reason ?? reason });
  }

  /** Close a socket that is silent. A busy service says that it will come to this client. */
  expectAnswer() {
    clearTimeout(this.deadline);
    this.deadline = setTimeout(() => this.close({ reason: "no answer in time", isSilent: true }), SOCKET_MS);
  }

  onFrame(frame) {
    this.heardAt = Date.now();
    if (!this.end.wasOpen) this.expectAnswer();
    if (this.isChecking) this.stopChecking();
    if (frame.type === "events") this.on.events(frame.events);
    else if (frame.type === "inbox") this.on.inbox();
    else if (frame.type === "connected") {
      clearTimeout(this.deadline);
      this.end.wasOpen = true;
      // Browsers hide the server's pings: ask ourselves when it has been silent for long.
      const quiet = 2_000 * frame.heartbeat;
      this.watch = setInterval(() => Date.now() - this.heardAt > quiet && this.check(), quiet / 2);
      this.on.open(frame);
    } else if (frame.type === "error" && frame.code === "unauthorized") {
      this.end.reason = frame.message;
      if (this.end.wasOpen) this.on.refused(frame.message); // a refresh; else the close follows
    }
    else if (frame.type === "reconnect") Object.assign(this.end, { afterMs: frame.after_ms, reason: frame.reason });
  }

  send(frame) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(frame));
  }

  ack(id) {
    return this.acks.push(id);
  }

  nack(id, reason) {
    this.nacks.push({ type: "nack", id, reason });
  }

  flush() {
    while (this.acks.length) this.send({ type: "ack", ids: this.acks.splice(0, MAX_ACK_IDS) });
    for (const frame of this.nacks.splice(0, MAX_NACKS)) this.send(frame);
    if (this.nacks.length && !this.isClosed) setTimeout(() => this.flush(), 200);
  }

  refresh(token) {
    this.send({ type: "refresh", token });
    return true;
  }

  /** Whether the other side is still there; a silent one is closed. */
  check() {
    if (this.isChecking || !this.end.wasOpen) return;
    this.isChecking = true;
    this.send({ type: "ping" });
    this.deadline = setTimeout(() => this.close({ reason: "the connection was dead" }), CHECK_MS);
  }

  stopChecking() {
    this.isChecking = false;
    clearTimeout(this.deadline);
  }

  close(why = {}) {
    if (this.isClosed) return;
    this.isClosed = true;
    clearTimeout(this.deadline);
    clearInterval(this.watch);
    this.acks = []; // whatever is unconfirmed comes back, and is then known
    if (this.socket) {
      this.socket.onclose = this.socket.onmessage = this.socket.onopen = null;
      this.socket.close();
    }
    this.on.end({ ...why, ...this.end });
  }
}

class StreamLink {
  transport = "sse";
  acks = [];

  constructor(base, hello, on) {
    this.on = on;
    this.end = {};
    this.abort = new AbortController();
    this.deadline = setTimeout(() => this.close({ reason: "no answer in time" }), OPEN_MS);
    this.run(base, hello).then((why) => this.close(why), (error) => this.close({ reason: error.message }));
  }

  async run(base, { token, cursor }) {
    const headers = { Authorization: `Bearer ${token}`, Accept: "text/event-stream" };
    if (cursor) headers["Last-Event-ID"] = cursor;
    const response = await fetch(`${base}/v1/stream`, { headers, cache: "no-store", signal: this.abort.signal });
    if (!response.ok || !response.body) return refusal(response);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    const parser = new SseParser();
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return { reason: "the stream ended" };
      this.heardAt = Date.now();
      const events = [];
      for (const [type, data] of parser.feed(value)) {
        if (type === "event") events.push(JSON.parse(data));
        else if (FRAMES.includes(type)) this.onFrame(JSON.parse(data));
      }
      if (events.length) this.on.events(events);
    }
  }

  onFrame(frame) {
    if (frame.type === "inbox") this.on.inbox();
    else if (frame.type === "connected") {
      clearTimeout(this.deadline);
      this.end.wasOpen = true;
      this.heartbeat = 1_000 * frame.heartbeat;
      this.watch = setInterval(() => this.endIfSilent(2.5), this.heartbeat);
      this.on.open(frame);
    } else if (frame.type === "reconnect") Object.assign(this.end, { afterMs: frame.after_ms, reason: frame.reason });
    else if (frame.type === "error" && frame.code === "unauthorized") {
      Object.assign(this.end, { code: 3005, reason: frame.message });
    }
  }

  ack(id) {
    return this.acks.push(id);
  }

  nack() {} // a stream has none: without an ack the event falls back when its time is over

  flush() {
    this.posts.add(this.acks.splice(0));
  }

  refresh() {
    return false;
  }

  /** A stream cannot be asked: while the machine slept it died, or is made anew for nothing. */
  check(slept) {
    this.endIfSilent(slept ? 0 : 1.2);
  }

  endIfSilent(heartbeats) {
    const isSilent = !heartbeats || Date.now() - this.heardAt > heartbeats * this.heartbeat;
    if (this.end.wasOpen && isSilent) this.close({ reason: "the stream was silent" });
  }

  close(why = {}) {
    if (this.isClosed) return;
    this.isClosed = true;
    clearTimeout(this.deadline);
    clearInterval(this.watch);
    if (this.acks.length) this.flush();
    this.abort.abort();
    this.on.end({ ...why, ...this.end });
  }
}

const FRAMES = ["connected", "reconnect", "error", "inbox"];

/** Server-sent events out of text, however it was cut. Source: WHATWG HTML, section 9.2.6. */
class SseParser {
  line = "";
  isAfterCr = false; // the line has ended, and an LF may follow
  type = "";
  data = [];
  size = 0;

  /** The messages that this text completes, as pairs of type and data. */
  feed(text) {
    const messages = [];
    if (!text) return messages;
    const lines = (this.isAfterCr && text[0] === "\n" ? text.slice(1) : text).split(/\r\n|\n|\r/);
    this.isAfterCr = text.endsWith("\r");
    lines[0] = this.line + lines[0];
    this.line = lines.pop();
    for (const line of lines) {
      if (line) this.take(line);
      else {
        if (this.data.length) messages.push([this.type, this.data.join("\n")]);
        [this.type, this.data, this.size] = ["", [], 0];
      }
    }
    if (this.size + this.line.length > MAX_MESSAGE) throw new Error("a message of the stream is too large");
    return messages;
  }

  take(line) {
    this.size += line.length;
    const [, field, value] = /^([^:]*):? ?([^]*)$/.exec(line);
    if (field === "event") this.type = value;
    else if (field === "data") this.data.push(value);
  }
}

async function refusal(response) {
  const problem = await response.json().catch(() => ({}));
  const reason = problem.detail ?? problem.title ?? `HTTP ${response.status}`;
  const seconds = Number(response.headers.get("Retry-After"));
  const afterMs = seconds > 0 ? seconds * 1_000 * (1 + Math.random()) : null;
  if (response.status === 401 && afterMs) return { code: 3006, reason, afterMs };
  if (response.status === 401) return { code: /expired/.test(reason) ? 3005 : 3500, reason };
  if (response.status === 403) return { code: 3500, reason };
  return { reason, afterMs };
}

/** Acknowledges over HTTP what came over a stream; keeps trying. */
class AckPoster {
  waiting = [];

  constructor(url, token, onRefused) {
    this.url = url;
    this.token = token;
    this.onRefused = onRefused;
  }

  add(ids) {
    this.waiting.push(...ids);
    if (this.waiting.length > MAX_UNSENT) this.waiting = this.waiting.slice(-MAX_UNSENT);
    if (!this.isBusy) this.run();
  }

  async run() {
    this.isBusy = true;
    for (let failures = 0; this.waiting.length && failures < 8; ) {
      const ids = this.waiting.slice(0, MAX_ACK_IDS);
      if (await this.post(ids)) {
        failures = 0;
        const sent = new Set(ids);
        this.waiting = this.waiting.filter((id) => !sent.has(id));
      } else {
        failures += 1;
        await new Promise((go) => setTimeout(go, Math.random() * Math.min(BACKOFF[1], BACKOFF[0] * 2 ** failures)));
      }
    }
    this.isBusy = false; // after eight failures: with the next acknowledgement
  }

  async post(ids) {
    try {
      const headers = { Authorization: `Bearer ${await this.token()}`, "Content-Type": "application/json" };
      const body = JSON.stringify({ ids });
      const answer = await fetch(this.url, { method: "POST", headers, body, keepalive: true });
      if (answer.status === 401) this.onRefused();
      return answer.ok || (answer.status >= 400 && answer.status < 500 && ![401, 408, 429].includes(answer.status));
    } catch {
      return false; // no network, or no token now: `run` tries again
    }
  }
}

// ---- handling

/**
 * Runs the listeners for one event after the other, and lets the page paint in between. An event
 * without a listener waits for one: it is acknowledged once it was handled, and not before.
 */
class Worklist {
  queue = [];
  at = 0; // of the next one in the queue
  unheard = [];
  links = new Map(); // id -> the link that gets the answer

  constructor(hearers, done) {
    this.hearers = hearers;
    this.done = done;
  }

  has(id) {
    return this.links.has(id);
  }

  push(event, link) {
    this.links.set(event.id, link);
    this.queue.push(event);
    if (!this.isBusy) this.run();
  }

  redirect(id, link) {
    if (link) this.links.set(id, link);
  }

  /** There is a new listener: what waited for it goes first. */
  retry() {
    this.queue.splice(this.at, 0, ...this.unheard.splice(0));
    if (!this.isBusy) this.run();
  }

  stop() {
    this.queue = [];
    this.unheard = [];
    this.links.clear();
    this.isStopped = true;
  }

  async run() {
    this.isBusy = true;
    await null; // never inside the caller's stack
    let since = performance.now();
    while (this.at < this.queue.length) {
      const event = this.queue[this.at++];
      const hearers = this.hearers(event);
      if (!hearers.length) this.wait(event);
      else {
        let error;
        try {
          const result = hearers.length > 1 ? every(hearers, event) : hearers[0](event);
          if (typeof result?.then === "function") await result;
        } catch (thrown) {
          error = thrown ?? new Error("rejected");
        }
        if (this.isStopped) return; // closed meanwhile: not acknowledged, it comes again
        this.answer(event, error);
      }
      if (this.at > 256 || this.at === this.queue.length) {
        this.queue.splice(0, this.at);
        this.at = 0;
      }
      if (performance.now() - since > SLICE_MS) {
        await turn();
        since = performance.now();
      }
    }
    this.isBusy = false;
  }

  /** An event that has no listener waits for one. */
  wait(event) {
    if (event.class === "ephemeral") return this.answer(event); // is of no use later
    this.unheard.push(event);
    if (this.unheard.length > MAX_UNHEARD) this.answer(this.unheard.shift(), new Error("no listener"));
  }

  answer(event, error) {
    const link = this.links.get(event.id);
    this.links.delete(event.id);
    this.done(event, link, error);
  }
}

/** Call all listeners; fails with the first error, once all are done. */
async function every(listeners, event) {
  const results = await Promise.allSettled(listeners.map(async (listener) => listener(event)));
  const failed = results.find(({ status }) => status === "rejected");
  if (failed) throw failed.reason ?? new Error("rejected");
}

/** The next turn of the page's loop. Timers would wait up to a minute in a hidden tab. */
function turn() {
  return new Promise((go) => {
    if (!globalThis.MessageChannel) return setTimeout(go); // React Native
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      go();
    };
    port2.postMessage(null);
  });
}

// ---- remembering

/**
 * Cursor and handled ids. A tab's own copy survives its reload; the origin's copy, written by the
 * tab with the connection, is for a tab that is new. Few ids are appended, many are written anew.
 */
class Store {
  constructor(name, { storage, cursor }) {
    this.name = name;
    this.tab = storage === undefined ? area("sessionStorage") : null; // a worker has neither
    this.origin = storage === undefined ? area("localStorage") : storage;
    this.ids = new Set();
    this.passed = new Set(); // ephemeral ones, which have no place in the ledger or in storage
    this.added = [];
    const found = this.load(this.tab) ?? this.load(this.origin);
    for (const id of found?.ids ?? []) this.ids.add(id);
    this.cursor = cursor ?? found?.cursor;
  }

  has(id) {
    return this.ids.has(id);
  }

  add(id) {
    this.ids.add(id);
    this.added.push(id);
    this.cursor = id;
    if (this.ids.size > MAX_KNOWN) this.ids.delete(this.ids.values().next().value);
  }

  pass(id) {
    this.passed.add(id);
    if (this.passed.size > MAX_PASSED) this.passed.delete(this.passed.values().next().value);
  }

  load(area) {
    try {
      const kept = JSON.parse(area?.getItem(this.name) ?? "null");
      const late = JSON.parse(area?.getItem(`${this.name}:late`) ?? "null");
      if (!kept && !late) return null;
      return { cursor: late?.cursor ?? kept.cursor, ids: [...(kept?.ids ?? []), ...(late?.ids ?? [])] };
    } catch (error) {
      console.warn("delivery: the stored cursor cannot be read", error);
      return null;
    }
  }

  save(isLeader) {
    if (!this.added.length) return;
    const isWhole = this.added.length > 100;
    const ids = isWhole ? [...this.ids].slice(-MAX_STORED) : this.added;
    const text = JSON.stringify({ cursor: this.cursor, ids });
    for (const area of isLeader ? [this.tab, this.origin] : [this.tab]) {
      try {
        area?.setItem(isWhole ? this.name : `${this.name}:late`, text);
        if (isWhole) area?.setItem(`${this.name}:late`, JSON.stringify({ cursor: this.cursor, ids: [] }));
      } catch (error) {
        console.warn("delivery: the cursor cannot be stored", error);
      }
    }
    if (isWhole) this.added = [];
  }
}

function area(name) {
  try {
    return globalThis.document ? globalThis[name] : null; // Node.js warns of its own
  } catch {
    return null; // cookies are blocked: the connection works, a reload begins anew
  }
}

/** What came after an id, for a tab that was away; ids of version 7 are in order of time. */
function after(events, cursor) {
  if (!cursor) return [];
  const at = events.findIndex((event) => event.id === cursor);
  return at >= 0 ? events.slice(at + 1) : events.filter((event) => event.id > cursor);
}

// ---- tokens: read, never checked; that is the gateway's

function claims(token) {
  try {
    return JSON.parse(atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/")));
  } catch {
    return {}; // opaque: the gateway's `expires` tells the rest
  }
}

function subject(token) {
  return claims(token).sub ?? null;
}

/** Milliseconds that a token has left; where this clock cannot be right, a part of its whole life. */
function lifetime(token) {
  const { exp, iat } = claims(token);
  if (!exp) return 60_000;
  const left = exp * 1_000 - Date.now();
  const whole = (exp - (iat ?? exp)) * 1_000;
  return whole > 0 ? Math.min(whole, Math.max(left, whole / 4)) : left;
}

/** When to ask for a newer token: a quarter of its life before the end, five minutes at most. */
function early(left) {
  return Math.max(0, left - Math.min(left / 4, 300_000));
}
