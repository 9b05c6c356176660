"""Push in the page and in its service worker, run in Node.js with the browser's objects played.

A browser without a network cannot subscribe: what a push service does is tested in
``tests/faults/test_web_push.py``.
"""

import json
import shutil
import subprocess
from typing import Any

import pytest

from delivery import resources

WORKER = """
import { readFileSync } from "node:fs";
import vm from "node:vm";
const handlers = {}, did = [];
const page = { url: "https://app.test/orders/7", focus: async () => did.push(["focus"]) };
const self = {
  addEventListener: (name, handler) => (handlers[name] = handler),
  registration: {
    scope: "https://app.test/",
    showNotification: async (title, options) => did.push(["show", title, options]),
  },
  clients: {
    matchAll: async () => [page],
    openWindow: async (url) => did.push(["open", url]),
  },
};
vm.runInNewContext(readFileSync(process.argv[1], "utf8"), { self, URL });
const fire = async (name, event) => {
  const waited = [];
  handlers[name]({ ...event, waitUntil: (promise) => waited.push(promise) });
  await Promise.all(waited);
};
const data = (value) => ({ data: { json: () => JSON.parse(value) } });
const message = { title: "Late", summary: "Two days", url: page.url, id: "e1" };
await fire("push", data(JSON.stringify(message)));
await fire("push", data("no JSON"));
await fire("push", {});
for (const url of [page.url, "https://app.test/new", "javascript:alert(1)", undefined]) {
  const notification = { close: () => did.push(["close"]), data: { url } };
  await fire("notificationclick", { notification });
}
console.log(JSON.stringify(did));
"""
PAGE = """
import { pathToFileURL } from "node:url";
const asked = [], key = Buffer.from([4, ...Array(64).keys()]).toString("base64url");
let kept = null;
const subscribe = async ({ applicationServerKey }) => (kept = {
  endpoint: "https://push.test/1",
  options: { applicationServerKey: applicationServerKey.buffer },
  toJSON: () => ({ endpoint: "https://push.test/1", keys: { p256dh: "p", auth: "a" } }),
  unsubscribe: async () => { asked.push("unsubscribed"); kept = null; },
});
const registration = { active: {}, pushManager: { getSubscription: async () => kept, subscribe } };
const given = {
  isSecureContext: true,
  PushManager: class {},
  Notification: {
    permission: "default",
    requestPermission: async () => (Notification.permission = "granted"),
  },
  location: new URL("https://app.test/shop/"),
  navigator: { serviceWorker: {
    register: async (url) => asked.push(`worker ${url}`),
    getRegistration: async () => registration,
  } },
};
for (const [name, value] of Object.entries(given)) {
  Object.defineProperty(globalThis, name, { value, configurable: true });
}
const connection = {
  base: "https://gateway.test", options: { device: "phone" }, status: { userId: "a/b" },
  request: async (path, body) => {
    asked.push(body ? [path, body] : path);
    return { key, id: "s1" };
  },
};
const { enablePush, disablePush } = await import(pathToFileURL(process.argv[1]));
const states = [];
states.push(await enablePush(connection, { ask: false }));
states.push(await enablePush(connection));
states.push(await enablePush(connection));
states.push(await disablePush(connection));
console.log(JSON.stringify({ asked, states }));
"""


def run(script: str, name: str) -> Any:
    node = shutil.which("node")
    if node is None:
        pytest.fail("no Node.js: it runs the client's files")
    path = resources.file("web", f"client/{name}")
    done = subprocess.run(
        [node, "--input-type=module", "-e", script, str(path)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_worker_shows_messages_and_opens_the_application() -> None:
    did = run(WORKER, "push-worker.js")
    url = "https://app.test/orders/7"
    assert did[0] == ["show", "Late", {"body": "Two days", "tag": "e1", "data": {"url": url}}]
    assert [one[:2] for one in did[1:3]] == [["show", "News"], ["show", "News"]]
    start = ["open", "https://app.test/"]
    opened = [one for one in did[3:] if one != ["close"]]
    assert opened == [["focus"], ["open", "https://app.test/new"], start, start]


def test_a_page_subscribes_with_leave_renews_and_ends() -> None:
    found = run(PAGE, "push.js")
    assert [one["state"] for one in found["states"]] == [
        "default",
        "enabled",
        "enabled",
        "disabled",
    ]
    kept = {"endpoint": "https://push.test/1", "keys": {"p256dh": "p", "auth": "a"}}
    worker = "worker https://app.test/push-worker.js"
    one = ["push/key", worker, ["users/a%2Fb/push", kept | {"device": "phone"}]]
    forget = ["users/a%2Fb/push/forget", {"endpoint": kept["endpoint"]}]
    assert found["asked"] == ["push/key", *one, *one, forget, "unsubscribed"]
