import type { EnablePushOptions, PushOptions, PushState } from "./push.js";

/** What the types of events that the product knows carry; `Events` of `connect` adds your own. */
export interface BuiltInEvents {
  agent_started: { agent: string; [name: string]: unknown };
  agent_thinking: { thought: string; [name: string]: unknown };
  tool_executing: { tool: string; args: Record<string, unknown>; [name: string]: unknown };
  tool_completed: { tool: string; result: unknown; [name: string]: unknown };
  agent_completed: { result: unknown; [name: string]: unknown };
  auth_started: Record<string, unknown>;
  auth_validating: Record<string, unknown>;
  auth_completed: Record<string, unknown>;
  auth_failed: Record<string, unknown>;
}

/** Names of the types that the product knows. */
export type BuiltInType = keyof BuiltInEvents;

/** The built-in types with an application's own, which win. */
export type AllEvents<Events> = Omit<BuiltInEvents, keyof Events> & Events;

/** Without types of your own, every other type carries an object that is not known further. */
export type UntypedEvents = {};

/** Names that a listener may be given: with types of your own, no others. */
export type TypeName<Events> =
  | (keyof AllEvents<Events> & string)
  | (UntypedEvents extends Events ? string & {} : never);

/** An event of this type. */
export type EventOf<Events, Type extends string> = DeliveryEvent<
  Type extends keyof AllEvents<Events> ? AllEvents<Events>[Type] : Record<string, unknown>,
  Type
>;

/** Any event of these types: a union that `event.type` tells apart. */
export type AnyEvent<Events> =
  | { [Type in keyof AllEvents<Events> & string]: EventOf<Events, Type> }[keyof AllEvents<Events> & string]
  | (UntypedEvents extends Events ? DeliveryEvent : never);

/** One event of the signed-in user, as in docs/protocol.md. */
export interface DeliveryEvent<Data = Record<string, unknown>, Type extends string = string> {
  /** UUIDv7; what an event is known by. */
  id: string;
  type: Type;
  user_id: string;
  run_id: string;
  thread_id?: string;
  /** Counts from 1 within a run; `null` for ephemeral events. */
  seq: number | null;
  /** RFC 3339, UTC. */
  at: string;
  /** A class of the policy file; these are there without one. */
  class: "ephemeral" | "standard" | "critical" | "auth" | (string & {});
  data: Data;
  meta?: Record<string, unknown>;
}

/** An event as the ledger has it. */
export type LedgerEvent<E = DeliveryEvent> = E & {
  state: "accepted" | "sent" | "confirmed" | "falling_back" | "parked" | "dead" | "expired";
  step: string | null;
  due_at: string | null;
  expires_at: string | null;
  generation: number;
};

/** What a badge can show. */
export interface Status {
  /**
   * `connecting`: on the way. `connected`: events flow. `waiting`: tries again at `retryAt`.
   * `offline`: the browser has no network. `closed`: for good, by `close()` or by the server.
   */
  state: "connecting" | "connected" | "waiting" | "offline" | "closed";
  transport: "websocket" | "sse" | null;
  /** Whether this tab holds the connection; the others get their events from it. */
  leader: boolean;
  userId: string | null;
  /** The gateway's name. */
  node?: string;
  /** `false`: something may be missing; read your own state anew. */
  recovered?: boolean;
  /** Close code and reason of the last connection. */
  code?: number;
  reason?: string;
  /** Epoch milliseconds. */
  retryAt?: number;
}

export interface Options<Events = UntypedEvents> {
  /**
   * Base of the gateway, e.g. `https://delivery.example.org`; the page's own folder by default.
   * Where there is no page (Node.js, React Native) it must be given.
   */
  url?: string | URL;
  /**
   * A client's token, or a function that gets one within 10 s. The function is asked again before a
   * token expires, and when one is refused; a plain token that expires ends the connection.
   */
  token: string | (() => string | Promise<string>);
  /** Id of the last event handled; what is stored is used when it is left out. */
  cursor?: string;
  /** A name for this device, 1 to 64 printable characters; stands in the confirmations. */
  device?: string;
  /**
   * A listener for all events from the start; the same as `on("*", …)`. Listeners are called for one
   * event after the other, once for each id. An event is acknowledged when all of its listeners have
   * returned, or their promises resolved; when one throws or rejects, the event is refused (`nack`)
   * and takes the fallback chain. In a tab that does not hold the connection the outcome counts
   * for nothing.
   */
  onEvent?(event: AnyEvent<Events>): unknown;
  onStatus?(status: Status): void;
  /** One connection for all tabs (default); `false` gives this one its own. */
  share?: boolean;
  /** `auto` (default): WebSocket, and SSE while that does not get through. */
  transport?: "auto" | "websocket" | "sse";
  /** Where cursor and handled ids are kept; `localStorage` by default, `null` for nowhere. */
  storage?: Pick<Storage, "getItem" | "setItem"> | null;
  /** Milliseconds on SSE until a WebSocket is tried again; 60,000 by default. */
  upgradeAfter?: number;
  /** `true`: say on the console (as `debug`) what happens; or a function that is told instead. */
  debug?: boolean | ((...what: unknown[]) => void);
}

export interface HistoryQuery {
  /** An event's id, or the `next` of a page: only what the ledger recorded before. */
  before?: string;
  /** Only this run. */
  run?: string;
  /** Only this type. */
  type?: string;
  /** 50 by default, at most 1,000. */
  limit?: number;
}

export interface HistoryPage<Events = UntypedEvents> {
  /** The newest first. */
  events: LedgerEvent<AnyEvent<Events>>[];
  /** `before` of the next page; `null`: this one is the last. */
  next: string | null;
}

/** The HTTP API refused a request: `message` says why. */
export interface RequestError extends Error {
  status: number;
}

export interface Connection<Events = UntypedEvents> {
  readonly status: Status;
  /**
   * Listen to the events of one type, or of all (`*`). As many listeners as you like; the same one
   * counts once. An event that has no listener waits for one, up to 200 of them, and is not
   * acknowledged meanwhile: it falls back when its time is over.
   *
   * @param when - which of them; the others are as if this listener were not there.
   * @returns the function that ends it.
   */
  on(
    type: "*",
    listener: (event: AnyEvent<Events>) => unknown,
    when?: (event: AnyEvent<Events>) => boolean,
  ): () => void;
  on<Type extends TypeName<Events>>(
    type: Type,
    listener: (event: EventOf<Events, Type>) => unknown,
    when?: (event: EventOf<Events, Type>) => boolean,
  ): () => void;
  off(type: "*", listener: (event: AnyEvent<Events>) => unknown): void;
  off<Type extends TypeName<Events>>(type: Type, listener: (event: EventOf<Events, Type>) => unknown): void;
  /** Told each new status; returns the function that ends it. */
  onStatus(listener: (status: Status) => void): () => void;
  /** Told when the user's inbox changed on any device; returns the function that ends it. */
  onInbox(listener: () => void): () => void;
  /** Events that the ledger has, the newest first. Rejects with a `RequestError`. */
  history(query?: HistoryQuery): Promise<HistoryPage<Events>>;
  /** Ask the HTTP API: `path` below `/v1/`; a GET, or a POST of `body`. Rejects with a `RequestError`. */
  request<Answer = unknown>(path: string, body?: object): Promise<Answer>;
  /** Subscribe this browser to push messages, for when no page is open; see `push.d.ts`. */
  enablePush(options?: EnablePushOptions): Promise<PushState>;
  /** Unsubscribe this browser. Safe to repeat. */
  disablePush(options?: PushOptions): Promise<PushState>;
  /** Look at once whether the connection is still there, and else make it anew. */
  wake(): void;
  /** Stop handling events in this tab. Safe to repeat. */
  close(): void;
}

/**
 * Connect, and stay connected. Returns at once; `onStatus` tells the rest.
 *
 * @typeParam Events - your own types of events: `{ order_shipped: { order: string } }`.
 */
export function connect<Events extends object = UntypedEvents>(options: Options<Events>): Connection<Events>;
