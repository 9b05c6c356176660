"""What `import delivery` offers, and what it costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import delivery
from delivery import errors

NAMES = {
    "BlockingClient",
    "BlockingEmitter",
    "BlockingReceipt",
    "BlockingRemote",
    "ChannelError",
    "ChannelRejected",
    "ChannelUnavailable",
    "Client",
    "ConfigError",
    "DeliveryError",
    "Emission",
    "Emitter",
    "FileStore",
    "IdConflict",
    "IllegalTransition",
    "InvalidContext",
    "InvalidEvent",
    "InvalidFrame",
    "LedgerError",
    "LedgerUnavailable",
    "MemoryStore",
    "NotConnected",
    "Overloaded",
    "PayloadTooLarge",
    "ProtocolError",
    "Receipt",
    "ReceivedEvent",
    "Remote",
    "RemoteEmitter",
    "RemoteError",
    "Settings",
    "Status",
    "Store",
    "Unauthenticated",
    "Unreachable",
    "compat",
    "connect",
    "connect_sync",
    "embed",
    "issue_token",
    "outbox",
}


def test_the_public_names_are_these():
    assert set(delivery.__all__) == NAMES


def test_every_public_name_can_be_had():
    for name in NAMES:
        assert getattr(delivery, name) is not None


def test_type_checkers_see_the_same_names_from_the_same_places():
    stub = ast.parse(Path(delivery.__file__).with_suffix(".pyi").read_text())
    homes = {
        alias.name: node.module
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert homes == delivery._HOMES | delivery._OLD


@pytest.mark.parametrize("home", [delivery, errors])
def test_an_error_that_is_going_warns_where_it_is_named(home):
    with pytest.warns(DeprecationWarning, match="AckTimeout is never raised") as told:
        error = home.AckTimeout
    assert issubclass(error, delivery.ChannelError)
    assert [one.filename for one in told] == [__file__]


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(delivery, "no_such_name")


def test_importing_the_package_loads_no_framework():
    code = (
        "import sys, delivery; delivery.Unreachable;"
        "print([m for m in ('aiohttp', 'celery', 'sqlalchemy', 'asyncio') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_a_listener_loads_no_database_and_no_task_queue():
    code = (
        "import sys, delivery; delivery.Client; delivery.connect;"
        "print([m for m in ('celery', 'sqlalchemy', 'psycopg', 'redis') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
