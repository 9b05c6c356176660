import type { HTMLAttributes, ReactElement, ReactNode } from "react";
import type { AnyEvent, Connection, EventOf, Options, Status, TypeName, UntypedEvents } from "./client.js";
import type { Inbox as InboxStore, InboxActions, InboxItem, InboxLabels, InboxOptions, InboxState } from "./inbox.js";

/**
 * The connection for everything below, made when it mounts and closed when it unmounts. A new `url`,
 * `transport`, `share`, `device`, `user` or plain token makes it anew; functions may be new with each render.
 */
export function DeliveryProvider<Events extends object = UntypedEvents>(
  props: { children?: ReactNode } & (
    | (Options<Events> & {
        /** Who is signed in: another value connects anew. */
        user?: string;
        connection?: undefined;
      })
    /** A connection of your own, which you close. */
    | { connection: Connection<Events> }
  ),
): ReactElement;

export interface Delivery<Events = UntypedEvents> {
  /** `null` until the provider has mounted. */
  connection: Connection<Events> | null;
  status: Status;
}

/** The connection and its status. */
export function useDelivery<Events extends object = UntypedEvents>(): Delivery<Events>;
/** The same, and a listener for as long as the component is there; it may be new with each render. */
export function useDelivery<Events extends object = UntypedEvents>(
  type: "*",
  listener: (event: AnyEvent<Events>) => unknown,
): Delivery<Events>;
export function useDelivery<
  Events extends object = UntypedEvents,
  Type extends TypeName<Events> = TypeName<Events>,
>(type: Type, listener: (event: EventOf<Events, Type>) => unknown): Delivery<Events>;

export interface UseInbox<Events = UntypedEvents> extends InboxState<Events>, InboxActions {
  /** The state itself, e.g. for `<delivery-inbox>`; `null` until the provider has mounted. */
  inbox: InboxStore<Events> | null;
}

/** The inbox of the signed-in user. */
export function useInbox<Events extends object = UntypedEvents>(options?: InboxOptions): UseInbox<Events>;

export interface InboxProps extends InboxOptions, Omit<HTMLAttributes<HTMLElement>, "children"> {
  labels?: Partial<InboxLabels>;
  onOpen?: (item: InboxItem, event: Event) => void;
  onUnread?: (count: number) => void;
}

/** The list as a component: `<delivery-inbox>` with properties. */
export function Inbox(props: InboxProps): ReactElement;
