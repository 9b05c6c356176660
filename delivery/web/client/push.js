// Push messages to this browser while no page is open; `connection.enablePush()` loads this.
//
// Owns: the permission, the service worker's registration, the subscription here and in the ledger.
// Never does: show a message (push-worker.js does).

/** Subscribe this browser; see push.d.ts. Safe to repeat: call it at each visit once it is wanted. */
export async function enablePush(connection, { worker, scope, ask = true } = {}) {
  requirePush();
  const { key } = await connection.request("push/key");
  const permission = Notification.permission === "default" && ask
    ? await Notification.requestPermission()
    : Notification.permission;
  if (permission !== "granted") return { state: permission };
  const own = new URL(worker ?? home(connection), location.href);
  await navigator.serviceWorker.register(own, scope ? { scope } : {});
  const registration = await ready(own, scope);
  let subscription = await registration.pushManager.getSubscription();
  // Of another key: its messages would be refused.
  if (subscription && text(subscription.options.applicationServerKey) !== key) {
    await subscription.unsubscribe();
    subscription = null;
  }
  subscription ??= await registration.pushManager.subscribe({ userVisibleOnly: true, applicationServerKey: bytes(key) });
  const { endpoint, keys } = subscription.toJSON();
  const device = connection.options?.device;
  const { id } = await connection.request(path(connection), { endpoint, keys, ...(device && { device }) });
  return { state: "enabled", id };
}

/** Unsubscribe this browser, and forget it in the ledger. Safe to repeat. */
export async function disablePush(connection, { worker, scope } = {}) {
  requirePush();
  const own = new URL(worker ?? home(connection), location.href);
  const registration = await navigator.serviceWorker.getRegistration(scope ? new URL(scope, location.href) : new URL(".", own));
  const subscription = await registration?.pushManager.getSubscription();
  if (!subscription) return { state: "disabled" };
  // First at the ledger: when that fails, the browser keeps what a second try needs.
  await connection.request(`${path(connection)}/forget`, { endpoint: subscription.endpoint });
  await subscription.unsubscribe();
  return { state: "disabled" };
}

/** Whether this browser can get push messages at all. */
export const canPush = () =>
  Boolean(globalThis.isSecureContext && globalThis.navigator?.serviceWorker && globalThis.PushManager && globalThis.Notification);

function requirePush() {
  if (!canPush()) throw new Error("push needs a page over https in a browser with service workers and push");
}

function path(connection) {
  const { userId } = connection.status;
  if (!userId) throw new Error("push needs a signed-in user: wait for the connection's status");
  return `users/${encodeURIComponent(userId)}/push`;
}

/** The worker must come from the page's own origin: the gateway's where they are one. */
function home(connection) {
  const served = new URL(`${connection.base}/push-worker.js`, location.href);
  return served.origin === location.origin ? served : "/push-worker.js";
}

/** The registration once its worker is active: before that a browser refuses to subscribe. */
async function ready(own, scope) {
  const at = scope ? new URL(scope, location.href) : new URL(".", own);
  const registration = await navigator.serviceWorker.getRegistration(at);
  const worker = registration.active ?? registration.waiting ?? registration.installing;
  if (registration.active || !worker) return registration;
  await new Promise((done, fail) => {
    worker.addEventListener("statechange", () => {
      if (worker.state === "activated") done();
      else if (worker.state === "redundant") fail(new Error("the push worker could not be installed"));
    });
  });
  return registration;
}

function bytes(key) {
  const plain = atob(key.replace(/-/g, "+").replace(/_/g, "/"));
  return Uint8Array.from(plain, (char) => char.charCodeAt(0));
}

function text(buffer) {
  if (!buffer) return "";
  const plain = btoa(String.fromCharCode(...new Uint8Array(buffer)));
  return plain.replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
}
