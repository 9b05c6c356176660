import type { AnyEvent, Connection, LedgerEvent, UntypedEvents } from "./client.js";

/** What the inbox shows of an event's data. */
export interface Message {
  title?: string;
  summary?: string;
  url?: string;
  image?: string;
  actions?: { label: string; url: string }[];
}

/** An event with when it was read and archived. */
export type InboxItem<Events = UntypedEvents> = LedgerEvent<AnyEvent<Events>> & {
  read_at: string | null;
  archived_at: string | null;
};

export interface InboxOptions {
  /** Events of these types, with a title or without; none: every event whose data has a `title`. */
  types?: string[];
  /** The archived messages in place of the others. */
  archived?: boolean;
  /** Messages on a page; 30 by default. */
  limit?: number;
}

export interface InboxState<Events = UntypedEvents> {
  /** The newest first. */
  readonly items: InboxItem<Events>[];
  /** Neither read nor archived; counted to 100, which means 100 or more. */
  readonly unread: number;
  readonly hasMore: boolean;
  readonly isLoading: boolean;
  /** Why the last reading failed; it is tried again. */
  readonly error: Error | null;
}

export interface InboxActions {
  /** Mark as read, or with `false` as unread. Shown at once; rejects when it was refused. */
  markRead(ids: string | string[], read?: boolean): Promise<void>;
  /** Mark everything as read that is shown, and what is older. */
  markAllRead(): Promise<void>;
  /** Archive, or with `false` put back. */
  archive(ids: string | string[], archived?: boolean): Promise<void>;
  loadMore(): Promise<void>;
  refresh(): Promise<void>;
}

/** The state of one list; it is read while something is subscribed. */
export interface Inbox<Events = UntypedEvents> extends InboxActions {
  readonly state: InboxState<Events>;
  readonly connection: Connection<Events>;
  getSnapshot(): InboxState<Events>;
  /** Called after each change; returns the function that ends it. */
  subscribe(listener: () => void): () => void;
}

export function createInbox<Events extends object = UntypedEvents>(
  connection: Connection<Events>,
  options?: InboxOptions,
): Inbox<Events>;

export interface InboxLabels {
  title: string;
  unread: string;
  markRead: string;
  markUnread: string;
  archive: string;
  markAllRead: string;
  more: string;
  empty: string;
  loading: string;
  failed: string;
}

/**
 * `<delivery-inbox types="a b" archived>`: a list with its unread count. Events: `unread` (the count as
 * `detail`), `open` (the item). Parts for styles: `header`, `count`, `item`, `unread`, `title`, `summary`, `note`.
 */
export interface DeliveryInboxElement extends HTMLElement {
  /** The client's connection; the element then makes a state of its own. */
  connection: Connection<any> | null;
  /** Show a state that was made with `createInbox`. */
  show(inbox: Inbox<any> | null): void;
  labels: InboxLabels;
}

/** Register the element, by this name too; importing this file registers `delivery-inbox`. */
export function defineInbox(name?: string): void;

declare global {
  interface HTMLElementTagNameMap {
    "delivery-inbox": DeliveryInboxElement;
  }
}
