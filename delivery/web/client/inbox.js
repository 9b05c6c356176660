// A user's inbox: messages with what was read and archived, in step in all tabs and on all devices.
//
//   import { createInbox } from "https://delivery.example.org/inbox.js";
//   const inbox = createInbox(connection);                  // the state, for a view of your own
//   <delivery-inbox></delivery-inbox>                        // or the element: element.connection = …
//
// Owns: the state of one list, and the element. Never does: acknowledge events; the client does.
// One file without imports; types are in inbox.d.ts.

const SETTLE_MS = 60; // marks that come together are read together
const RETRY_MS = [1_000, 60_000];
const MAX_IDS = 1_000; // in one request
const MAX_ROUNDS = 100; // of marking all

/** The state of a list; see inbox.d.ts. */
export function createInbox(connection, options = {}) {
  return new Inbox(connection, options);
}

class Inbox {
  constructor(connection, { types = [], archived = false, limit = 30 } = {}) {
    this.connection = connection;
    this.types = types;
    this.archived = archived;
    this.limit = limit;
    this.listeners = new Set();
    this.state = { items: [], unread: 0, hasMore: false, isLoading: true, error: null };
    this.want = limit; // as many as the user has asked to see
    this.failures = 0;
    this.pending = new Map(); // id -> marks on their way, which a page that was read before does not have
    this.getSnapshot = () => this.state;
    this.subscribe = (listener) => {
      this.listeners.add(listener);
      if (this.listeners.size === 1) this.start();
      return () => {
        this.listeners.delete(listener);
        if (!this.listeners.size) this.stop();
      };
    };
  }

  // ---- while it is looked at

  start() {
    const { connection } = this;
    let connected = connection.status.state;
    const onStatus = ({ state }) => {
      if (state === "connected" && connected !== state) this.refreshSoon(); // what was missed
      connected = state;
    };
    const onVisible = () => !document.hidden && this.refreshSoon();
    globalThis.document?.addEventListener("visibilitychange", onVisible);
    this.ends = [
      connection.onInbox(() => this.refreshSoon()),
      connection.onStatus(onStatus),
      () => globalThis.document?.removeEventListener("visibilitychange", onVisible),
    ];
    // A message has arrived when the inbox has it: that acknowledges it, and no other event.
    this.ends.push(connection.on("*", () => this.refreshSoon(), (event) => this.isMessage(event)));
    this.refreshSoon(0);
  }

  stop() {
    for (const end of this.ends ?? []) end();
    clearTimeout(this.timer);
    this.turn = this.timer = null;
  }

  isMessage({ class: kind, type, data }) {
    if (kind === "ephemeral") return false;
    return this.types.length ? this.types.includes(type) : typeof data?.title === "string" && data.title.trim() !== "";
  }

  refreshSoon(ms = SETTLE_MS) {
    if (!this.listeners.size) return;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.refresh(), ms);
  }

  // ---- reading

  /** Read what is shown anew, as far as it was unfolded. */
  async refresh() {
    const turn = (this.turn = {}); // an answer that is overtaken counts for nothing
    try {
      let page = await this.page(null, this.want);
      const { unread } = page;
      const items = page.items;
      while (items.length < this.want && page.next && turn === this.turn) {
        page = await this.page(page.next, this.want - items.length);
        items.push(...page.items);
      }
      if (turn !== this.turn) return;
      this.failures = 0;
      this.set({ items: this.marked(items), unread, hasMore: page.next !== null, isLoading: false, error: null });
    } catch (error) {
      if (turn !== this.turn) return;
      this.set({ isLoading: false, error });
      const wait = Math.min(RETRY_MS[1], RETRY_MS[0] * 2 ** this.failures++);
      if (!(error.status >= 400 && error.status < 500 && error.status !== 429)) this.refreshSoon(wait);
    }
  }

  page(after, limit) {
    const query = new URLSearchParams({ limit: String(Math.min(limit, MAX_IDS)) });
    if (after) query.set("after", after);
    if (this.archived) query.set("archived", "true");
    for (const type of this.types) query.append("type", type);
    return this.connection.request(`${this.path()}?${query}`);
  }

  path() {
    const { userId } = this.connection.status;
    if (!userId) throw new Error("not connected yet");
    return `users/${encodeURIComponent(userId)}/inbox`;
  }

  async loadMore() {
    if (!this.state.hasMore) return;
    this.want = Math.max(this.want, this.state.items.length) + this.limit;
    this.set({ isLoading: true });
    await this.refresh();
  }

  // ---- marking

  markRead(ids, read = true) {
    return this.mark([ids].flat(), { read });
  }

  archive(ids, archived = true) {
    return this.mark([ids].flat(), { archived });
  }

  /** What is shown at once, and taken back when the service refuses. */
  async mark(ids, marks) {
    if (!ids.length) return;
    for (const id of ids) this.pending.set(id, { ...this.pending.get(id), ...marks });
    const before = this.state;
    const items = this.marked(before.items);
    const isUnread = (item) => !item.read_at && !item.archived_at;
    const change = items.filter(isUnread).length - before.items.filter(isUnread).length;
    this.set({ items, unread: Math.max(0, before.unread + change) });
    try {
      for (let at = 0; at < ids.length; at += MAX_IDS) {
        await this.connection.request(this.path(), { ids: ids.slice(at, at + MAX_IDS), ...marks });
      }
    } finally {
      for (const id of ids) this.pending.delete(id);
      await this.refresh(); // also takes back what was refused
    }
  }

  async markAllRead() {
    const body = { all: true, read: true, types: this.types };
    const up_to = this.state.items[0]?.id; // what came later was not seen
    if (!up_to) return;
    try {
      for (let round = 0; round < MAX_ROUNDS; round++) {
        const { marked } = await this.connection.request(this.path(), { ...body, up_to });
        if (!marked.length) break;
      }
    } finally {
      await this.refresh();
    }
  }

  marked(items) {
    const now = new Date().toISOString();
    const set = (at, is) => (is === undefined ? at : is ? at ?? now : null);
    return items.map((item) => {
      const marks = this.pending.get(item.id);
      if (!marks) return item;
      return { ...item, read_at: set(item.read_at, marks.read), archived_at: set(item.archived_at, marks.archived) };
    }).filter((item) => Boolean(item.archived_at) === this.archived);
  }

  set(change) {
    this.state = { ...this.state, ...change };
    for (const listener of [...this.listeners]) listener();
  }
}

// ---- the element

const STYLE = `
:host { display: block; color-scheme: light dark; font: 15px/1.4 system-ui, sans-serif;
  --line: color-mix(in srgb, currentColor 18%, transparent); --accent: #2458d3; }
@media (prefers-color-scheme: dark) { :host { --accent: #8fb0ff; } }
header { display: flex; align-items: baseline; gap: .5em; padding: .5em .25em; border-bottom: 1px solid var(--line); }
h2 { margin: 0; font-size: 1.1em; flex: 1; }
.count { color: var(--accent); font-weight: 600; }
ul { list-style: none; margin: 0; padding: 0; }
li { display: grid; grid-template-columns: 1fr auto; gap: .15em .75em; padding: .6em .25em .6em 1em; border-bottom: 1px solid var(--line); position: relative; }
li.unread::before { content: ""; position: absolute; left: .15em; top: 1.05em; width: .5em; height: .5em; border-radius: 50%; background: var(--accent); }
li.unread .title { font-weight: 600; }
.title { overflow-wrap: anywhere; color: inherit; }
.summary { grid-column: 1; margin: 0; opacity: .85; overflow-wrap: anywhere; }
time { opacity: .75; font-size: .85em; grid-column: 2; grid-row: 1; }
.actions { grid-column: 1 / -1; display: flex; flex-wrap: wrap; gap: .5em; }
button, .actions a { font: inherit; font-size: .85em; min-height: 2em; padding: .1em .7em; border: 1px solid var(--line); border-radius: .4em; background: none; color: inherit; cursor: pointer; text-decoration: none; display: inline-flex; align-items: center; }
button:focus-visible, a:focus-visible { outline: 2px solid var(--accent); outline-offset: 1px; }
.note { padding: .8em .25em; opacity: .8; margin: 0; }
`;

const LABELS = {
  title: "Inbox", unread: "unread", markRead: "Mark read", markUnread: "Mark unread", archive: "Archive",
  markAllRead: "Mark all read", more: "More", empty: "No messages", loading: "Loading…", failed: "The inbox cannot be read now",
};

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** Addresses of messages are foreign: only those that lead to a page. */
function safeUrl(text) {
  try {
    const url = new URL(text, document.baseURI);
    return typeof text === "string" && ["https:", "http:", "mailto:"].includes(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

/** The element's class; a function, since there is no `HTMLElement` outside of pages. */
function elementClass() {
  return class DeliveryInbox extends HTMLElement {
    labels = LABELS;

    get connection() {
      return this.inbox?.connection ?? null;
    }

    /** Connection of the client; the element then makes its own state. */
    set connection(connection) {
      if (connection === this.connection) return;
      const types = (this.getAttribute("types") ?? "").split(/[\s,]+/).filter(Boolean);
      this.show(connection && createInbox(connection, { types, archived: this.hasAttribute("archived") }));
    }

    /** Show a state that was made with `createInbox`. */
    show(inbox) {
      this.end?.();
      this.end = null;
      this.inbox = inbox;
      if (this.isConnected) this.connectedCallback();
    }

    connectedCallback() {
      this.root ??= this.attachShadow({ mode: "open" });
      if (!this.inbox || this.end) return;
      this.end = this.inbox.subscribe(() => this.render());
      this.render();
    }

    disconnectedCallback() {
      this.end?.();
      this.end = null;
    }

    render() {
      const { items, unread, hasMore, isLoading, error } = this.inbox.state;
      const focused = this.root.activeElement?.dataset.key;
      const count = unread >= 100 ? "99+" : String(unread);
      const list = make("ul", { role: "list" }, ...items.map((item) => this.item(item)));
      const note = error ? this.labels.failed : isLoading && !items.length ? this.labels.loading : this.labels.empty;
      const parts = [
        make("style", { textContent: STYLE }),
        make("header", { part: "header" },
          make("h2", { textContent: this.labels.title }),
          make("span", { className: "count", part: "count", role: "status", textContent: unread ? `${count} ${this.labels.unread}` : "" }),
          ...(unread ? [this.button("all", this.labels.markAllRead, "", () => this.inbox.markAllRead())] : [])),
        items.length ? list : make("p", { className: "note", part: "note", textContent: note }),
        ...(items.length && error ? [make("p", { className: "note", part: "note", role: "alert", textContent: note })] : []),
        ...(hasMore ? [this.button("more", this.labels.more, "", () => this.inbox.loadMore())] : []),
      ];
      this.root.replaceChildren(...parts);
      if (focused) (this.root.querySelector(`[data-key="${CSS.escape(focused)}"]`) ?? this.root.querySelector("button"))?.focus();
      if (this.told === unread) return;
      this.told = unread;
      this.dispatchEvent(new CustomEvent("unread", { detail: unread }));
    }

    button(key, text, what, act) {
      const run = () => Promise.resolve(act()).catch(() => this.render()); // the state says what failed
      const made = make("button", { type: "button", textContent: text, onclick: run });
      made.dataset.key = key;
      if (what) made.setAttribute("aria-label", `${text}: ${what}`);
      return made;
    }

    item(item) {
      const { id, type, at, data, read_at } = item;
      const title = typeof data.title === "string" && data.title.trim() ? data.title : type;
      const href = safeUrl(data.url);
      const open = () => {
        if (!read_at) this.inbox.markRead(id).catch(() => this.render());
        this.dispatchEvent(new CustomEvent("open", { detail: item }));
      };
      const name = href
        ? make("a", { className: "title", part: "title", href, textContent: title, onclick: open })
        : make("span", { className: "title", part: "title", textContent: title });
      if (href) name.dataset.key = `open ${id}`;
      const when = make("time", { dateTime: at, textContent: new Date(at).toLocaleString() });
      const summary = typeof data.summary === "string" ? [make("p", { className: "summary", part: "summary", textContent: data.summary })] : [];
      const links = (Array.isArray(data.actions) ? data.actions.slice(0, 5) : []).flatMap((action) => {
        const url = safeUrl(action?.url);
        return url && typeof action.label === "string" ? [make("a", { href: url, textContent: action.label, onclick: open })] : [];
      });
      const mark = read_at ? this.labels.markUnread : this.labels.markRead;
      const actions = make("div", { className: "actions" }, ...links,
        this.button(`read ${id}`, mark, title, () => this.inbox.markRead(id, !read_at)),
        this.button(`archive ${id}`, this.labels.archive, title, () => this.inbox.archive(id)));
      return make("li", { className: read_at ? "" : "unread", part: read_at ? "item" : "item unread" }, name, when, ...summary, actions);
    }
  };
}

/** Register `<delivery-inbox>`; safe to repeat, and without effect where there is no page. */
export function defineInbox(name = "delivery-inbox") {
  if (globalThis.customElements && !customElements.get(name)) customElements.define(name, elementClass());
}

defineInbox();
