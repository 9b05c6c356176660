import type { Connection } from "./client.js";

export interface PushOptions {
  /**
   * Address of the service worker, on the page's own origin. By default the gateway's
   * `push-worker.js` where page and gateway share an origin, else `/push-worker.js`.
   */
  worker?: string | URL;
  /** The worker's scope; its own folder by default. */
  scope?: string;
}

export interface EnablePushOptions extends PushOptions {
  /** `false`: do not ask for the permission, only renew what the user has granted. */
  ask?: boolean;
}

export interface PushState {
  /** `denied`, `default`: the user did not grant it (yet). */
  state: "enabled" | "disabled" | "denied" | "default";
  /** The subscription's id in `GET /v1/users/{id}/push`. */
  id?: string;
}

/**
 * Subscribe this browser to push messages. Call it from a click the first time: browsers ask the user
 * only then. Safe to repeat, and best repeated at each visit: browsers change subscriptions.
 */
export function enablePush(connection: Connection<any>, options?: EnablePushOptions): Promise<PushState>;
/** Unsubscribe this browser, and forget it in the ledger. Safe to repeat. */
export function disablePush(connection: Connection<any>, options?: PushOptions): Promise<PushState>;
/** Whether this browser can get push messages at all. */
export function canPush(): boolean;
