"""``delivery outbox``: the relay of an application's outbox, its tables, and rows set aside.

Owns: their options and output. Never does: SQL or HTTP.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from delivery.cli.options import DEFAULT_URL, json_option
from delivery.cli.output import say, say_fields, say_json, say_table
from delivery.errors import ConfigError

F = TypeVar("F", bound=Callable[..., Any])
KINDS = ("postgresql", "sqlite", "mysql", "mariadb")


def _source_option(function: F) -> F:
    return click.option(
        "--source",
        envvar="DELIVERY_OUTBOX_SOURCE",
        show_envvar=True,
        help="SQLAlchemy URL of the application's database; prefer the variable for one with a "
        "password.",
    )(function)


def _relay_options(function: F) -> F:
    for option in reversed(
        (
            click.option(
                "--url",
                envvar="DELIVERY_URL",
                default=DEFAULT_URL,
                show_default=True,
                show_envvar=True,
                help="Address of the service.",
            ),
            click.option(
                "--token",
                envvar="DELIVERY_TOKEN",
                show_envvar=True,
                help="A service token with the scope emit; prefer the variable.",
            ),
            click.option(
                "--token-file",
                envvar="DELIVERY_TOKEN_FILE",
                show_envvar=True,
                type=click.Path(dir_okay=False),
                help="A file with the token, read for each request: it may be replaced.",
            ),
            click.option(
                "--interval",
                type=click.FloatRange(0.05, 60.0),
                default=1.0,
                show_default=True,
                help="Seconds between two looks where no commit is announced.",
            ),
            click.option(
                "--keep",
                type=click.FloatRange(0.0, 365 * 86_400.0),
                default=86_400.0,
                show_default=True,
                help="Seconds for which rows that were carried over are kept.",
            ),
            click.option(
                "--metrics-port",
                type=click.IntRange(0, 65_535),
                envvar="DELIVERY_OUTBOX_METRICS_PORT",
                show_envvar=True,
                help="Serve GET /metrics on this port.",
            ),
            click.option("--metrics-host", default="127.0.0.1", show_default=True),
        )
    ):
        function = option(function)
    return function


@click.group(invoke_without_command=True)
@_source_option
@_relay_options
@json_option
@click.pass_context
def outbox(context: click.Context, /, source: str | None, **options: Any) -> None:
    """Carry events from an application's database, where `delivery.outbox.add`
    wrote them in its own transactions, to the service.

    Without a command: `run`.
    """
    context.obj = source
    if context.invoked_subcommand is None:
        _run(context, source, **options)


@outbox.command()
@_source_option
@_relay_options
@json_option
@click.pass_context
def run(context: click.Context, /, source: str | None, **options: Any) -> None:
    """Carry rows until a signal ends it."""
    _run(context, source, **options)


def _run(context: click.Context, source: str | None, *, as_json: bool, **options: Any) -> None:
    from delivery.bootstrap.outbox import run_relay

    def ready(said: dict[str, Any]) -> None:
        if as_json:
            say_json(said, indent=None)
            return
        say(f"the outbox of {said['source']} goes to {said['url']}")
        if said["metrics"]:
            say(f"metrics: {said['metrics']}")

    run_relay(_required(context, source), ready=ready, **options)


@outbox.command()
@_source_option
@click.option("--sql", type=click.Choice(KINDS), help="Print the statements, and run none.")
@json_option
@click.pass_context
def init(context: click.Context, source: str | None, sql: str | None, as_json: bool) -> None:
    """Make the outbox's tables; running it again changes nothing."""
    from delivery.outbox.schema import VERSION, statements

    if sql is not None:
        made = statements(sql)
        say_json({"statements": made}) if as_json else click.echo(";\n".join(made) + ";")
        return
    from delivery.bootstrap.outbox import opened

    with opened(_required(context, source)) as found:
        found.create()
    say_json({"version": VERSION}) if as_json else say(
        f"the outbox's tables have version {VERSION}"
    )


@outbox.command()
@_source_option
@json_option
@click.pass_context
def status(context: click.Context, source: str | None, as_json: bool) -> None:
    """Rows that wait, the age of the oldest, and rows set aside."""
    from delivery.bootstrap.outbox import opened

    with opened(_required(context, source)) as found:
        found.check()
        figures = found.figures()
    fields = {
        "waiting": figures.waiting,
        "lag_seconds": round(figures.lag, 3),
        "dead": figures.dead,
    }
    say_json(fields) if as_json else say_fields(list(fields.items()))


@outbox.command()
@_source_option
@click.option("--limit", type=click.IntRange(1, 1_000), default=50, show_default=True)
@json_option
@click.pass_context
def dead(context: click.Context, source: str | None, limit: int, as_json: bool) -> None:
    """Rows that no gateway will ever take, with the reason, newest first."""
    from delivery.bootstrap.outbox import opened

    with opened(_required(context, source)) as found:
        found.check()
        rows = found.dead(limit)
    if as_json:
        say_json({"dead": [dict(row) for row in rows]})
        return
    say_table(
        ("position", "user", "run", "type", "reason"),
        [(r["position"], r["user_id"], r["run_id"], r["type"], r["reason"]) for r in rows],
    )


@outbox.command()
@click.argument("positions", type=int, nargs=-1)
@click.option("--all", "is_all", is_flag=True, help="All of them.")
@_source_option
@json_option
@click.pass_context
def requeue(
    context: click.Context,
    positions: tuple[int, ...],
    is_all: bool,
    source: str | None,
    as_json: bool,
) -> None:
    """Let rows that were set aside wait again, once their cause is mended."""
    if bool(positions) == is_all:
        raise click.UsageError("name positions, or write --all")
    from delivery.bootstrap.outbox import opened

    with opened(_required(context, source)) as found:
        found.check()
        count = found.requeue(positions)
    say_json({"requeued": count}) if as_json else say(f"{count} rows wait again")


def _required(context: click.Context, source: str | None) -> str:
    found = source or context.find_object(str)
    if not found:
        raise ConfigError(
            "name the application's database: --source postgresql://user@host/name, "
            "or DELIVERY_OUTBOX_SOURCE"
        )
    return found
