"""The npm package: packed, installed, type-checked, and run in Node.js."""

import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from delivery import resources
from tests.browser.service import Service

pytestmark = pytest.mark.timeout(300)

NPM = Path(__file__).resolve().parents[1] / "npm"
MODULES = NPM / "node_modules"
MISSING = "no packages for the tests: npm ci --prefix tests/npm"
STRICT: dict[str, Any] = {
    "compilerOptions": {
        "strict": True,
        "noEmit": True,
        "target": "ES2022",
        "module": "ESNext",
        "moduleResolution": "bundler",
        "lib": ["ES2023", "DOM", "DOM.Iterable"],
        "jsx": "react-jsx",
        "types": [],
        "verbatimModuleSyntax": True,
        "noUncheckedSideEffectImports": True,
    },
    "files": ["use.tsx"],
}
USE = """
import { StrictMode } from "react";
import { createInbox, type InboxItem } from "delivery-ledger-client/inbox";
import { canPush, type PushState } from "delivery-ledger-client/push";
import { DeliveryProvider, Inbox, useDelivery, useInbox } from "delivery-ledger-client/react";
import { connect, type AnyEvent, type BuiltInType, type Status } from "delivery-ledger-client";

interface Mine { order_shipped: { order: string } }
const typed = connect<Mine>({ url: "https://x.test", token: async () => "t", debug: true });
const off: () => void = typed.on("order_shipped", (event) => event.data.order.trim());
typed.on("agent_started", (event) => event.data.agent.trim());
typed.on("*", (event: AnyEvent<Mine>) => {
  if (event.type === "order_shipped") event.data.order.trim();
  if (event.type === "tool_executing") event.data.tool.trim();
});
// @ts-expect-error: no such type
typed.on("order_shiped", () => 1);
// @ts-expect-error: no such field
typed.on("order_shipped", (event) => event.data.ordr);

const onStatus = (status: Status): string => status.state;
const open = connect({ token: "t", onEvent: (event) => event.data, onStatus });
open.on("any_name", (event) => event.data["n"]);
export const pushed: Promise<PushState> | false = canPush() && typed.enablePush({ ask: false });
export const known: BuiltInType = "tool_executing";
export async function newest(run: string): Promise<string | undefined> {
  const page = await typed.history({ before: "id", run });
  off();
  return page.events[0]?.state;
}
export const unread: number = createInbox(typed, { types: ["order_shipped"] }).state.unread;

function Orders() {
  const { status } = useDelivery<Mine, "order_shipped">("order_shipped", (event) =>
    event.data.order.trim());
  useDelivery("agent_started", (event) => event.data.agent.trim());
  const { items, markRead, archive } = useInbox<Mine>({ types: ["order_shipped"] });
  const name = (item: InboxItem<Mine>): string => item.read_at ?? item.id;
  return (
    <ul title={status.state}>
      {items.map((item) => (
        <li key={item.id} onClick={() => markRead(item.id).then(() => archive([item.id]))}>
          {name(item)}
        </li>
      ))}
    </ul>
  );
}

export function App() {
  return (
    <StrictMode>
      <DeliveryProvider<Mine> url="https://x.test" token={async () => "t"} user="ada">
        <Orders />
        <Inbox className="mine" labels={{ title: "News" }} onUnread={(count) => count.toFixed()} />
      </DeliveryProvider>
      <DeliveryProvider connection={typed}><Orders /></DeliveryProvider>
    </StrictMode>
  );
}
"""
RUN = """
import { connect } from "delivery-ledger-client";
const { URL: url, TOKEN: token } = process.env;
const connection = connect({ url, token: () => token, transport: "sse" });
const heard = [];
const listener = (event) => heard.push(`first ${event.data.n}`);
connection.on("note", listener);
connection.on("note", listener);
connection.on("note", async (event) => heard.push(`second ${event.data.n}`));
connection.on("*", async (event) => {
  if (event.data.n === 0) return connection.off("note", listener);
  const { events } = await connection.history({ before: event.id, run: "run-1", limit: 5 });
  console.log(JSON.stringify({ heard, before: events.map((one) => one.data.n) }));
  connection.close(); // the process ends when nothing is left open
});
"""
NATIVE = """
import { connect } from "delivery-ledger-client/native";
import { AppState } from "react-native";
const connection = connect({ url: process.env.URL, token: process.env.TOKEN, transport: "sse" });
const { listeners } = AppState;
const said = [];
connection.onStatus(({ state }) => {
  said.push(listeners.size);
  if (state === "closed") console.log(JSON.stringify([said[0], listeners.size]));
  if (state !== "connected") return;
  listeners.forEach((listener) => listener("active"));
  setTimeout(() => connection.close());
});
"""
APP_STATE = """
export const AppState = { listeners: new Set(), addEventListener(type, listener) {
  this.listeners.add(listener);
  return { remove: () => this.listeners.delete(listener) };
} };
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An application that has installed what `npm pack` makes."""
    if not MODULES.is_dir():
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(MISSING)
        pytest.skip(MISSING)
    folder = tmp_path_factory.mktemp("project")
    modules = folder / "node_modules"
    modules.mkdir()
    packed = run("npm", "pack", "--json", "--offline", cwd=folder, package=True)
    (archive,) = json.loads(packed)
    with tarfile.open(folder / archive["filename"]) as opened:
        opened.extractall(folder, filter="data")
    (folder / "package").rename(modules / "delivery-ledger-client")
    for name in ("react", "react-dom", "scheduler", "csstype", "@types"):
        shutil.copytree(MODULES / name, modules / name)
    (folder / "package.json").write_text('{"type": "module", "private": true}')
    return folder


def run(*words: str, cwd: Path, package: bool = False, **env: str) -> str:
    """Run a command; its output."""
    if package:
        words += (str(resources.file("web", "client/package.json").parent),)
    done = subprocess.run(
        words, cwd=cwd, env=os.environ | env, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, f"{words[0]}: {done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_package_type_checks_in_a_strict_project(project: Path) -> None:
    (project / "tsconfig.json").write_text(json.dumps(STRICT))
    (project / "use.tsx").write_text(USE)
    run(str(MODULES / ".bin" / "tsc"), cwd=project)


def test_it_runs_in_nodejs_with_several_listeners_and_history(
    project: Path, service: Service, user: str
) -> None:
    (project / "run.mjs").write_text(RUN)
    service.emit(user, "note", "note")
    token = service.token(user)
    said = json.loads(run("node", "run.mjs", cwd=project, URL=service.url, TOKEN=token))
    assert said == {"heard": ["first 0", "second 0", "second 1"], "before": [0]}


def test_the_entry_for_react_native_needs_no_page(
    project: Path, service: Service, user: str
) -> None:
    native = project / "node_modules" / "react-native"
    native.mkdir()
    (native / "package.json").write_text('{"type": "module", "exports": "./index.js"}')
    (native / "index.js").write_text(APP_STATE)
    (project / "native.mjs").write_text(NATIVE)
    token = service.token(user)
    said = json.loads(run("node", "native.mjs", cwd=project, URL=service.url, TOKEN=token))
    assert said == [1, 0]
