"""Makes the source of the documentation's site in build/docs: the pages of docs/ and a reference.

`make docs` runs this and then the site generator, with mkdocs.yml. Pages are read on GitHub as they
stand; what differs here is that a link out of docs/ becomes an address, and that the reference of
HTTP, commands and settings is written from the code.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from delivery.api.openapi.document import document
from delivery.cli import main as root_command
from delivery.config.settings import Settings
from delivery.config.sources import PREFIX, secrets_of

ROOT = Path(__file__).resolve().parent.parent
REPOSITORY = "https://github.com/delivery-ledger/delivery-ledger/blob/main/"
OUTSIDE = re.compile(r"\]\((?:\.\./)+([^)\s]+)\)")
KEPT = {".md", ".png", ".webp"}
HTTP_GROUPS = {
    "Events": ("/v1/events", "/v1/replay", "/v1/acks", "/v1/runs", "/v1/messages"),
    "Live": ("/v1/ws", "/v1/stream", "/v1/tickets"),
    "Users": ("/v1/users", "/v1/push", "/v1/tokens", "/v1/suppressions"),
    "Figures and health": (
        "/v1/stats",
        "/v1/history",
        "/v1/connections",
        "/healthz",
        "/readyz",
        "/metrics",
        "/openapi.json",
    ),
    "Webhooks": ("/v1/webhooks",),
    "Callbacks of providers": ("/v1/callbacks",),
    "Files for pages": ("/client", "/inbox.", "/push"),
    "Pages behind links": ("/confirm", "/c/", "/unsubscribe", "/verify", "/problems"),
}
NOT_SHOWN = ("/v1/session", "/v1/demo", "/demo", "/v1/inbox", "/inbox/", "/dashboard.")
"""What the dashboard and the demo ask of their own service; its other files are in no group."""
EXAMPLES = {"/v1/users/": "ada", "/v1/runs/": "order-17", "/v1/messages/": "$MESSAGE"}
"""Beginning of a path -> the ``{id}`` in its example; an event's elsewhere."""
QUERIES = {"/v1/runs/{id}": "?user_id=ada"}
BODIES: dict[tuple[str, str], Any] = {
    ("post", "/v1/events"): {
        "type": "order_paid",
        "user_id": "ada",
        "run_id": "order-17",
        "data": {"title": "Order 17 is paid", "url": "/orders/17"},
    },
    ("post", "/v1/replay"): {"state": "dead", "dry_run": True},
    ("post", "/v1/acks"): {"ids": ["$ID"]},
    ("put", "/v1/users/{id}/contacts"): {"email": "ada@example.org", "locale": "en"},
    ("post", "/v1/users/{id}/inbox"): {"ids": ["$ID"], "read": True},
    ("post", "/v1/tokens/revoke"): {"user_id": "ada"},
    ("post", "/v1/webhooks/{name}/replay"): {"since": "2026-12-01T00:00:00Z"},
}
"""What the examples send; a request with a body that is not here is shown without one."""
OF_CLIENTS = {("post", "/v1/acks"), ("post", "/v1/tickets"), ("get", "/v1/stream")}
"""Requests of a user's own client."""
NOT_BY_CURL = {
    "/v1/ws": "A [WebSocket](../protocol.md): `delivery listen` speaks it, and so do the clients.",
    "/v1/users/{id}/push": "Of a page, which has the subscription of its [browser](../browser.md).",
    "/v1/callbacks": "Called by the [provider](../providers.md), which signs it.",
}
"""Beginning of a path -> what stands in place of an example."""


def main(target: Path) -> None:
    """Write the whole source anew."""
    shutil.rmtree(target, ignore_errors=True)
    for source in sorted((ROOT / "docs").rglob("*")):
        if source.suffix in KEPT:
            place = target / source.relative_to(ROOT / "docs")
            place.parent.mkdir(parents=True, exist_ok=True)
            if source.suffix == ".md":
                place.write_text(published(source.read_text(encoding="utf-8")), encoding="utf-8")
            else:
                shutil.copyfile(source, place)
    made = {
        "http": http_page(),
        "commands": commands_page(),
        "settings": settings_page(),
        "python": python_page(),
        "changelog": changelog(),
    }
    for name, text in made.items():
        place = target / "reference" / f"{name}.md"
        place.parent.mkdir(exist_ok=True)
        place.write_text(text, encoding="utf-8")
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
    pages = [str(page.relative_to(target)) for page in sorted(target.rglob("*.md"))]
    if lost := [page for page in pages if f": {page}\n" not in nav]:
        sys.exit(f"not in the navigation of mkdocs.yml: {', '.join(lost)}")


def published(page: str) -> str:
    """A page whose links out of docs/ are addresses."""
    return OUTSIDE.sub(lambda link: f"]({REPOSITORY}{link[1]})", page)


def changelog() -> str:
    """The changelog, whose links are addresses."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    return re.sub(r"\]\((?!https?:|#)([^)\s]+)\)", rf"]({REPOSITORY}\1)", text)


def http_page() -> str:
    """Every route of the OpenAPI document, with a line for curl."""
    described = document()
    lines = [
        "# HTTP",
        "",
        "Written from the [OpenAPI document](https://spec.openapis.org/oas/v3.1.0) that every"
        " gateway serves at `/openapi.json`. What an error says stands in"
        " [problems](../problems.md), tokens in [tokens](../tokens.md). The examples take",
        "",
        "```bash",
        "export DELIVERY_URL=http://127.0.0.1:8080",
        'export DELIVERY_TOKEN=$(delivery token --service --scope "emit read operate")',
        "export CLIENT_TOKEN=$(delivery token --user ada)   # what a page of this user has",
        "```",
        "",
        "`$ID` is an event's, `$MESSAGE` that of a message in its list, `$NAME` a webhook's;"
        " `$TOKEN` is the end of a link in a message.",
    ]
    grouped = tuple(one for beginnings in HTTP_GROUPS.values() for one in beginnings)
    known = (*grouped, *NOT_SHOWN)
    if lost := [
        one
        for one in described["paths"]
        if not one.startswith(known) and "." not in one[1:] and one != "/"
    ]:
        sys.exit(f"in no group of docs/make_site.py: {', '.join(lost)}")
    for group, beginnings in HTTP_GROUPS.items():
        lines += ["", f"## {group}"]
        for path, methods in described["paths"].items():
            if path.startswith(beginnings):
                for method, operation in methods.items():
                    lines += _operation(method, path, operation, described)
    return "\n".join(lines) + "\n"


def _operation(
    method: str, path: str, operation: Mapping[str, Any], described: Mapping[str, Any]
) -> Iterator[str]:
    yield from ("", f"### `{method.upper()} {path}`", "", f"{operation['summary']}.", "")
    instead = next((told for one, told in NOT_BY_CURL.items() if path.startswith(one)), None)
    yield from ("```bash", curl(method, path, operation), "```") if instead is None else (instead,)
    asked = [one for one in operation.get("parameters", ()) if one["in"] == "query"]
    if asked:
        yield from ("", "| parameter | |", "|---|---|")
        for one in asked:
            yield f"| `{one['name']}` | {_cell(_told(one['schema']))} |"
    schema = _body_schema(operation, described)
    if schema:
        yield from ("", "| member of the body | |", "|---|---|")
        for name, member in schema["properties"].items():
            needed = "needed" if name in schema.get("required", ()) else ""
            yield f"| `{name}` | {_cell('; '.join(filter(None, (needed, _told(member)))))} |"
    answers = ", ".join(f"`{status}`" for status in operation["responses"])
    yield from ("", f"Answers: {answers}.")


def curl(method: str, path: str, operation: Mapping[str, Any]) -> str:
    """A line of a shell that makes the request."""
    example = next((ada for start, ada in EXAMPLES.items() if path.startswith(start)), "$ID")
    shown = path.replace("{id}", example) + QUERIES.get(path, "")
    shown = re.sub(r"\{(\w+)\}", lambda one: f"${one[1].upper()}", shown)
    is_stream = "text/event-stream" in operation["responses"].get("200", {}).get("content", ())
    parts = [
        "curl -sS"
        + ("N" if is_stream else "")
        + ("" if method == "get" else f" -X {method.upper()}")
    ]
    parts.append(f'"$DELIVERY_URL{shown}"')
    if operation.get("security"):
        token = "CLIENT_TOKEN" if (method, path) in OF_CLIENTS else "DELIVERY_TOKEN"
        parts.append(f'-H "Authorization: Bearer ${token}"')
    if (method, path) in BODIES:
        text = json.dumps(BODIES[method, path]).replace("$ID", "'$ID'")
        parts += ["-H 'Content-Type: application/json'", f"-d '{text}'"]
    return " \\\n  ".join(parts)


def _body_schema(
    operation: Mapping[str, Any], described: Mapping[str, Any]
) -> Mapping[str, Any] | None:
    content = operation.get("requestBody", {}).get("content", {})
    schema = content.get("application/json", {}).get("schema", {})
    schema = schema.get("oneOf", [schema])[0]
    if "$ref" in schema:
        schema = described["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema if schema.get("properties") else None


def _told(schema: Mapping[str, Any]) -> str:
    """What a schema says about a value, in short."""
    known = ", ".join(f"`{one}`" for one in schema.get("enum", ()) if one is not None)
    kind = schema.get("type", "")
    kind = " or ".join(kind) if isinstance(kind, list) else kind
    bounds = [
        f"{word} {schema[key]}"
        for key, word in (
            ("minimum", "at least"),
            ("maximum", "at most"),
            ("maxLength", "characters at most:"),
            ("maxItems", "at most, in number:"),
        )
        if key in schema
    ]
    return ", ".join(filter(None, (kind, schema.get("description"), known, *bounds)))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def commands_page() -> str:
    """Every command with its help."""
    lines = ["# Commands", "", "What `--help` says, of every command."]
    for name, command in _commands("delivery", root_command):
        context = click.Context(command, info_name=name, max_content_width=80)
        lines += ["", f"## `{name}`", "", "```text", command.get_help(context), "```"]
    return "\n".join(lines) + "\n"


def _commands(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    yield name, command
    if isinstance(command, click.Group):
        for word, inner in sorted(command.commands.items()):
            yield from _commands(f"{name} {word}", inner)


def settings_page() -> str:
    """Every setting with its variable, its default and what the settings file says about it."""
    told = explained((ROOT / "config" / "delivery.toml").read_text(encoding="utf-8"))
    secrets = secrets_of(Settings)
    lines = [
        "# Settings",
        "",
        "Each is a key of `config/delivery.toml` (or of the file that `DELIVERY_CONFIG` names) and"
        " a variable, which wins. One with `…_FILE` may be in a file of its own. `delivery check`"
        " finds mistakes.",
    ]
    for name, field in Settings.model_fields.items():
        line = f"`{PREFIX}{name.upper()}`"
        line += ", `…_FILE`" if name in secrets else ""
        line += "" if field.default in (None, (), "") else f" = `{field.default}`"
        lines += ["", line, f":   {told.get(name) or 'See the guides.'}"]
    return "\n".join(lines) + "\n"


PYTHON = {
    "Emit": (
        "delivery.client.remote.connect",
        "delivery.client.remote.Remote",
        "delivery.client.sync.connect_sync",
        "delivery.client.sync.BlockingRemote",
        "delivery.domain.emission.Emission",
        "delivery.domain.emission.Receipt",
        "delivery.client.contacts.RemoteContacts",
        "delivery.client.events.RemoteEvents",
        "delivery.bootstrap.embed",
        "delivery.bootstrap.mount.Mounted",
        "delivery.tokens.issue_token",
        "delivery.outbox.add",
    ),
    "Receive": (
        "delivery.client.client.Client",
        "delivery.client.sync_client.BlockingClient",
        "delivery.client.received.ReceivedEvent",
        "delivery.client.link.Status",
        "delivery.client.store.Store",
        "delivery.client.store.FileStore",
        "delivery.client.store.MemoryStore",
    ),
    "Test": (
        "delivery.pytest_plugin.service.DeliveryService",
        "delivery.pytest_plugin.recorded.Recorded",
        "delivery.pytest_plugin.recorded.RecordedEvent",
        "delivery.pytest_plugin.recorded.Mail",
    ),
    "Errors": ("delivery.errors",),
}
"""What the page about Python shows, by the places whose docstrings it reads."""


def python_page() -> str:
    """The public names; mkdocstrings writes what their docstrings say."""
    lines = [
        "# Python",
        "",
        "All names are imported from `delivery`: `delivery.connect`, `delivery.Client` and so on."
        " The blocking twins take and return the same.",
    ]
    for group, places in PYTHON.items():
        lines += ["", f"## {group}"]
        for place in places:
            name = place.rpartition(".")[2]
            lines += ["", f"::: {place}", "    options:", f"      heading: {name}"]
    return "\n".join(lines) + "\n"


def explained(file: str) -> dict[str, str]:
    """Name of a setting -> the comment behind it in the settings file."""
    found: dict[str, str] = {}
    name = None
    for line in file.splitlines():
        begins = re.match(r"# (\w+) = .*?\s# ?(.*)$", line)
        goes_on = re.match(r"#?\s{8,}# ?(.*)$", line)
        if begins:
            name = begins[1]
            found[name] = begins[2].removeprefix("(secret) ")
        elif goes_on and name is not None:
            found[name] += " " + goes_on[1].strip()
        else:
            name = None
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]))
