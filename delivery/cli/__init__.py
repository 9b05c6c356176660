"""The ``delivery`` command, one file per subcommand.

Owns: arguments, help, exit codes, output. Never does: the work itself. A command imports its heavy
modules when it runs, so that ``delivery --help`` answers at once.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from delivery.cli import (
    audit,
    bench,
    check,
    contacts,
    dashboard,
    demo,
    emit,
    events,
    listen,
    partitions,
    purge,
    push,
    suppressions,
    templates,
    token,
    tokens,
    validate,
    webhooks,
)
from delivery.cli.options import wants_json
from delivery.cli.output import say, say_json
from delivery.cli.processes import beat, flower, gateway, migrate, outbox, up, worker
from delivery.domain.inputs.foreign_text import is_storable
from delivery.errors import (
    ConfigError,
    DeliveryError,
    LedgerUnavailable,
    Overloaded,
    RemoteError,
    Unreachable,
    needs_extra,
)
from delivery.telemetry import logs_json

logger = logging.getLogger(__name__)

_EXTRAS = {
    "apprise": "push",
    "pywebpush": "push",
    "psutil": "test",
    "psycopg": "postgres",
    "pymysql": "mysql",
}
"""Package -> the extra that brings it."""

FINE, FAILED, USAGE, UNREACHABLE = 0, 1, 2, 3


def exit_code(error: DeliveryError) -> int:
    """Exit code: 0 fine, 1 finding or failure, 2 usage or configuration, 3 unreachable."""
    if isinstance(error, ConfigError):
        return USAGE
    if isinstance(error, Unreachable | LedgerUnavailable | Overloaded):
        return UNREACHABLE
    return FAILED


@contextmanager
def _files_as_configuration() -> Iterator[None]:
    """A file that this user cannot read, write or find is named in one line, as a setting is."""
    try:
        yield
    except OSError as error:
        if error.filename is None or not isinstance(error, _FILE_ERRORS):
            raise
        raise ConfigError(f"cannot use {error.filename}: {error.strerror}") from error


_FILE_ERRORS = (PermissionError, FileNotFoundError, IsADirectoryError, NotADirectoryError)


class _Root(click.Group):
    """Turns delivery's errors into one line on standard error and an exit code.

    With ``--json`` also into ``{"error": …}`` on standard output.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse arguments that are no text: Python shows bytes that are not UTF-8 as lone
        surrogates, which no request and no database takes."""
        for number, text in enumerate(args, start=1):
            if not is_storable(text):
                raise click.UsageError(f"argument {number} is not valid UTF-8", ctx)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with _files_as_configuration():
                return self._invoke(ctx)
        except DeliveryError as error:
            if logs_json():
                logger.critical("%s", error, extra={"event": "command_failed"})
            else:
                say(f"Error: {error}", err=True)
            if wants_json(ctx):
                say_json({"error": _as_json(error)}, indent=None)
            sys.exit(exit_code(error))

    def _invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            if package not in _EXTRAS:
                raise
            raise needs_extra(f"this command needs {package}", _EXTRAS[package]) from error


def _as_json(error: DeliveryError) -> dict[str, Any]:
    found = {"type": type(error).__name__, "message": str(error), "exit_code": exit_code(error)}
    return found | ({"problem": error.problem} if isinstance(error, RemoteError) else {})


@click.group(
    "delivery",
    cls=_Root,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
    epilog=(
        "\b\nExit codes: 0 fine, 1 finding or failure, 2 usage or configuration,\n3 unreachable."
    ),
)
@click.version_option(package_name="delivery-ledger", message="%(version)s")
def main() -> None:
    """Push events to users at socket speed, know which ones arrived, and
    escalate the ones that did not.

    Start with `delivery up`: everything in one process, nothing to install
    beside this package. Settings: config/delivery.toml or DELIVERY_* variables.
    """


for command in (
    up.up,
    gateway.gateway,
    worker.worker,
    beat.beat,
    dashboard.dashboard,
    demo.demo,
    flower.flower,
    migrate.migrate,
    check.check,
    purge.purge,
    partitions.partitions,
    push.push,
    audit.audit,
    token.token,
    suppressions.suppressions,
    suppressions.bounce,
    templates.templates,
    tokens.tokens,
    tokens.users,
    contacts.contacts,
    emit.emit,
    events.events,
    listen.listen,
    outbox.outbox,
    webhooks.webhooks,
    validate.validate,
    bench.bench,
):
    main.add_command(command)
