"""Starts a real RabbitMQ of one's own, from the system's package, and empties it between tests.

Owns: finding the server, its settings, ports and folders, and what happens where it is not
installed: CI fails, and a developer's machine skips with what to install, because no Python
package carries this server. `DELIVERY_TEST_RABBITMQ_URL` names another, for the tests that do not
stop it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import kombu
import pytest
from amqp.exceptions import NotFound, PreconditionFailed

from tests.server_process import Server, wait_until
from tests.servers import free_port, running_server, server_folder

RABBITMQ_URL = "DELIVERY_TEST_RABBITMQ_URL"
INSTALL = "apt-get install --no-install-recommends rabbitmq-server"

START_TIMEOUT = 90.0  # 5 s on an idle machine, and 20 s on two busy cores

# The command that Debian puts on the PATH changes to the account of the system's own server.
_PLACES = ("/usr/lib/rabbitmq/bin/rabbitmq-server", "/opt/homebrew/sbin/rabbitmq-server")

CONFIG = """
listeners.tcp.1 = 127.0.0.1:{port}
log.console = true
log.console.level = warning
log.file = false
# The machine may be full of other things; this server is not to stop publishers for it.
disk_free_limit.absolute = 1MB
vm_memory_high_watermark.relative = 0.9
"""


def rabbitmq_binary() -> Path | None:
    """The server's start script, or None where it is not installed."""
    found = [Path(place) for place in _PLACES if Path(place).exists()]
    if not found and (on_path := shutil.which("rabbitmq-server")):
        found = [Path(on_path)]
    return found[0] if found else None


def require_rabbitmq() -> Path:
    """The server's start script; without one CI fails and a developer's machine skips."""
    binary = rabbitmq_binary()
    if binary is None:
        missing = f"RabbitMQ is not installed: {INSTALL}"
        if os.environ.get("CI"):
            pytest.fail(missing, pytrace=False)
        pytest.skip(missing)
    return binary


def rabbitmq_version(binary: Path) -> str:
    """Such as `RabbitMQ 3.10.8`."""
    library = next((binary.parents[1] / "lib").glob("rabbitmq_server-*"), None)
    found = re.search(r"\d+(\.\d+)+", library.name if library else "")
    return f"RabbitMQ {found.group() if found else '(unknown version)'}"


@contextlib.contextmanager
def rabbitmq_server() -> Iterator[Server]:
    """A RabbitMQ of one's own; `url` is `amqp://guest:guest@127.0.0.1:<port>//`.

    What its queues hold survives `kill` and `restart`.
    """
    binary = require_rabbitmq()
    with server_folder("rabbitmq") as folder, _port_mapper(folder) as mapper:
        port = free_port()
        (folder / "rabbitmq.conf").write_text(CONFIG.format(port=port))
        (folder / "enabled_plugins").write_text("[].\n")
        url = f"amqp://guest:guest@127.0.0.1:{port}//"
        server = Server(
            url=url,
            version=rabbitmq_version(binary),
            command=[str(binary)],
            folder=folder,
            probe=lambda: _probe(url),
            popen_options={"cwd": folder, "env": _environment(folder, port, mapper)},
            start_timeout=START_TIMEOUT,
            stop_signal=signal.SIGTERM,
        )
        yield from running_server(server)


def _environment(folder: Path, port: int, mapper: int) -> dict[str, str]:
    """The server's: nothing of a server that this machine may run itself."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("RABBITMQ_", "ERL_", "DELIVERY_"))
    }
    loopback = "-kernel inet_dist_use_interface {127,0,0,1}"
    return kept | {
        "HOME": str(folder),  # where the Erlang cookie is made
        "RABBITMQ_CONF_ENV_FILE": str(folder / "none"),
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_NODENAME": f"delivery-test-{port}@localhost",
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": loopback,
        "RABBITMQ_PID_FILE": str(folder / "server.pid"),
        # Otherwise a shell stands between us and the server, and ends before it does.
        "RUNNING_UNDER_SYSTEMD": "true",
        "ERL_EPMD_PORT": str(mapper),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_CRASH_DUMP_BYTES": "0",
    }


@contextlib.contextmanager
def _port_mapper(folder: Path) -> Iterator[int]:
    """Erlang's port mapper, on a port of its own; the server would leave one behind as a daemon."""
    port = free_port()
    binary = shutil.which("epmd")
    assert binary, "epmd comes with Erlang, without which there is no RabbitMQ"
    with (folder / "epmd.log").open("ab") as log:
        process = subprocess.Popen(
            [binary, "-port", str(port), "-address", "127.0.0.1"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield port
    finally:
        process.kill()
        process.wait(10)


def _probe(url: str) -> None:
    """Raises an `OSError` until the server takes commands."""
    with kombu.Connection(url, connect_timeout=2) as connection:
        try:
            connection.connect()
        except connection.connection_errors as error:
            raise ConnectionError(str(error)) from error


def control(server: Server, *words: str) -> None:
    """Run ``rabbitmqctl`` on a server of one's own."""
    program = Path(server.command[0]).with_name("rabbitmqctl")
    done = subprocess.run(
        [str(program), *words],
        env=dict(server.popen_options["env"]),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"


def wait_until_stored(server: Server, queues: Sequence[str]) -> None:
    """Waits until the replicated queues are on the server's disk.

    Its list of them is written up to three seconds late; a queue that a kill finds too young stays
    in its books and never answers again.
    """

    def are_stored() -> bool:
        stored = [file.read_bytes() for file in server.folder.glob("mnesia/*/quorum/*/names.dets")]
        return all(any(queue.encode() in content for content in stored) for queue in queues)

    wait_until(are_stored, "the replicated queues are on disk")


def delete_queues(url: str, queues: Sequence[str]) -> None:
    """Deletes queues and the exchanges of the same names, so that a test starts with none."""
    with kombu.Connection(url, connect_timeout=2) as connection:
        for name in queues:
            channel = connection.channel()
            channel.queue_delete(name)
            channel.exchange_delete(name)
            channel.close()


def queue_depth(url: str, queue: str) -> int:
    """Messages that wait in a queue for a worker; 0 for one that does not exist."""
    with kombu.Connection(url, connect_timeout=2) as connection:
        try:
            return int(connection.channel().queue_declare(queue, passive=True).message_count)
        except NotFound:
            return 0


def queue_kinds(url: str, queues: Sequence[str]) -> set[str]:
    """`quorum` and `classic`, as far as there are such queues among these."""
    return {kind for name in queues if (kind := _queue_kind(url, name))}


def _queue_kind(url: str, queue: str) -> str | None:
    with kombu.Connection(url, connect_timeout=2) as connection:
        try:
            connection.channel().queue_declare(queue, passive=True)
        except NotFound:
            return None
        try:
            connection.channel().queue_declare(queue, durable=True, auto_delete=False)
        except PreconditionFailed as error:  # it is said what it is instead of a plain one
            return "quorum" if "'quorum'" in error.reply_text else error.reply_text
        return "classic"
