// React hooks and the inbox as a component. Each effect undoes itself, so that StrictMode is fine.

import { createContext, createElement, useContext, useEffect, useMemo, useRef, useState, useSyncExternalStore } from "react";
import { connect } from "./client.js";
import { createInbox, defineInbox } from "./inbox.js";

const CLOSED = { state: "connecting", transport: null, leader: false, userId: null };
const EMPTY = { items: [], unread: 0, hasMore: false, isLoading: true, error: null };
const Context = createContext(undefined);

/** The connection for everything below; see react.d.ts. */
export function DeliveryProvider({ children, connection: given, ...options }) {
  const [made, setMade] = useState(null);
  const latest = useRef(options);
  useEffect(() => {
    latest.current = options;
  });
  const { url, transport, share, device, user } = options;
  const address = url === undefined ? undefined : String(url);
  const plainToken = typeof options.token === "string" ? options.token : undefined;
  useEffect(() => {
    if (given) return undefined;
    const { user: _, ...start } = latest.current;
    const asked = () => latest.current.token; // a function that is new with each render starts nothing anew
    const token = plainToken ?? (async () => (typeof asked() === "function" ? asked()() : asked()));
    const connection = connect({
      ...start,
      token,
      onEvent: start.onEvent && ((event) => latest.current.onEvent?.(event)),
      onStatus: (status) => latest.current.onStatus?.(status),
    });
    setMade(connection);
    return () => {
      connection.close();
      setMade(null);
    };
  }, [given, address, transport, share, device, user, plainToken]);
  return createElement(Context.Provider, { value: given ?? made }, children);
}

function useConnection() {
  const connection = useContext(Context);
  if (connection === undefined) throw new Error("there is no <DeliveryProvider> above");
  return connection;
}

/** The connection and its status; with a type and a listener also the events. */
export function useDelivery(type, listener) {
  const connection = useConnection();
  const latest = useRef(listener);
  useEffect(() => {
    latest.current = listener;
  });
  const isListening = type !== undefined && listener !== undefined;
  useEffect(() => {
    if (!connection || !isListening) return undefined;
    return connection.on(type, (event) => latest.current(event));
  }, [connection, type, isListening]);
  const [subscribe, read] = useMemo(
    () => (connection ? [(changed) => connection.onStatus(changed), () => connection.status] : [() => () => {}, () => CLOSED]),
    [connection],
  );
  const status = useSyncExternalStore(subscribe, read, () => CLOSED);
  return useMemo(() => ({ connection, status }), [connection, status]);
}

/** The inbox's state and what can be done with it. */
export function useInbox({ types, archived, limit } = {}) {
  const connection = useConnection();
  const key = types?.join("\n") ?? "";
  const inbox = useMemo(
    () => (connection ? createInbox(connection, { types: key ? key.split("\n") : [], archived, limit }) : null),
    [connection, key, archived, limit],
  );
  const state = useSyncExternalStore(inbox?.subscribe ?? none, inbox?.getSnapshot ?? (() => EMPTY), () => EMPTY);
  return useMemo(() => {
    const act = (name) => async (...args) => {
      if (!inbox) throw new Error("not connected yet");
      return inbox[name](...args);
    };
    const actions = ["markRead", "markAllRead", "archive", "loadMore", "refresh"].map((name) => [name, act(name)]);
    return { ...state, ...Object.fromEntries(actions), inbox };
  }, [inbox, state]);
}

function none() {
  return () => {};
}

/** `<delivery-inbox>` as a component. */
export function Inbox({ types, archived, limit, labels, onOpen, onUnread, ...rest }) {
  const { inbox } = useInbox({ types, archived, limit });
  const element = useRef(null);
  const latest = useRef({});
  useEffect(() => {
    latest.current = { onOpen, onUnread };
  });
  useEffect(() => {
    defineInbox();
    const shown = element.current;
    const open = (event) => latest.current.onOpen?.(event.detail, event);
    const unread = (event) => latest.current.onUnread?.(event.detail);
    shown.addEventListener("open", open);
    shown.addEventListener("unread", unread);
    return () => {
      shown.removeEventListener("open", open);
      shown.removeEventListener("unread", unread);
    };
  }, []);
  useEffect(() => {
    const shown = element.current;
    if (labels) shown.labels = { ...shown.labels, ...labels };
    shown.show(inbox);
    return () => shown.show(null);
  }, [inbox, labels]);
  return createElement("delivery-inbox", { ...rest, ref: element });
}
