// Service worker: shows push messages, and opens the application when one is clicked.
//
// Owns: the notification. Never does: acknowledge; the page's own client does when it is opened.
// Serve it from your application's origin; or, there, a file of one line:
//   importScripts("https://delivery.example.org/push-worker.js");

self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));

self.addEventListener("push", (event) => {
  const { title, summary, url, id } = read(event.data);
  // A browser takes the right away from a worker that shows nothing.
  event.waitUntil(self.registration.showNotification(title, { body: summary, tag: id, data: { url } }));
});

self.addEventListener("notificationclick", (event) => {
  event.notification.close();
  event.waitUntil(open(target(event.notification.data?.url)));
});

function read(data) {
  let found;
  try {
    found = data?.json();
  } catch {
    found = null; // not one of ours
  }
  const string = (value) => (typeof value === "string" && value ? value : undefined);
  return {
    title: string(found?.title) ?? "News",
    summary: string(found?.summary),
    url: string(found?.url),
    id: string(found?.id),
  };
}

/** The address to open; the application's start where there is none that a page can have. */
function target(url) {
  try {
    const found = new URL(url ?? ".", self.registration.scope);
    if (found.protocol === "https:" || found.protocol === "http:") return found.href;
  } catch {
    // no address: the start
  }
  return self.registration.scope;
}

async function open(url) {
  const pages = await self.clients.matchAll({ type: "window", includeUncontrolled: true });
  const there = pages.find((page) => page.url === url);
  return there ? there.focus() : self.clients.openWindow(url);
}
