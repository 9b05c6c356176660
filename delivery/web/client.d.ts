/** One event of the signed-in user, as in docs/protocol.md. */
export interface DeliveryEvent<Data = Record<string, unknown>> {
  /** UUIDv7; what an event is known by. */
  id: string;
  type: string;
  user_id: string;
  run_id: string;
  thread_id?: string;
  /** Counts from 1 within a run; `null` for ephemeral events. */
  seq: number | null;
  /** RFC 3339, UTC. */
  at: string;
  class: "ephemeral" | "standard" | "critical" | "auth" | (string & {});
  data: Data;
  meta?: Record<string, unknown>;
}

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

export interface Options {
  /** Base of the gateway, e.g. `https://delivery.example.org`; the page's own folder by default. */
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
   * Called for one event after the other, once for each id. The event is acknowledged when it
   * returns, or when its promise resolves; when it throws or rejects, the event is refused (`nack`)
   * and takes the fallback chain. In a tab that does not hold the connection the outcome counts
   * for nothing.
   */
  onEvent(event: DeliveryEvent): unknown;
  onStatus?(status: Status): void;
  /** One connection for all tabs (default); `false` gives this one its own. */
  share?: boolean;
  /** `auto` (default): WebSocket, and SSE while that does not get through. */
  transport?: "auto" | "websocket" | "sse";
  /** Where cursor and handled ids are kept; `localStorage` by default, `null` for nowhere. */
  storage?: Pick<Storage, "getItem" | "setItem"> | null;
  /** Milliseconds on SSE until a WebSocket is tried again; 60,000 by default. */
  upgradeAfter?: number;
}

export interface Connection {
  readonly status: Status;
  /** Stop handling events in this tab. Safe to repeat. */
  close(): void;
}

/** Connect, and stay connected. Returns at once; `onStatus` tells the rest. */
export function connect(options: Options): Connection;
