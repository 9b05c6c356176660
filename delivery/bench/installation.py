"""One ledger and one data directory, and fresh processes that do one thing with them each.

Owns: the processes' environment, their cores, their answers. For comparisons in which something
about the product varies; product beside floor is ``ratio``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from delivery.bench.load import Load
from delivery.bench.processes import (
    ANSWER_TIMEOUT,
    ROLES,
    answer,
    audit,
    child,
    client_tokens,
    environment_of,
    new_folder,
    tell,
)


@dataclass(frozen=True, slots=True)
class Installation:
    """Where processes run.

    Attributes:
        folder: their data; the ledger too, unless ``database_url`` names another.
        policies: a policy file in place of the default policies.
    """

    folder: Path
    database_url: str | None = None
    policies: Path | None = None

    def with_linger(self, seconds: float) -> Installation:
        """The same, but events of the load may be held for so long to be sent together.

        Effect: writes a policy file.
        """
        file = self.folder / f"policies-{seconds:g}.toml"
        file.write_text(f"[class.critical]\nlinger = {seconds!r}\n")
        return replace(self, policies=file)

    def ask(self, *, module: str = ROLES, **order: Any) -> dict[str, Any]:
        """What a new process answers to an order; its progress lines only keep it alive.

        Args:
            module: what the process runs; see ``roles.main``.

        Raises:
            BenchFailed: the process died, or gave no answer in time.
        """
        with child(order, 0, self._environment(1_000), module) as process:
            while "so_far" in (found := answer(process)):
                pass
            return found

    def round(self, load: Load, *, mode: str = "durable", runs: int = 1) -> dict[str, Any]:
        """One gateway under this load, with clients in a process of their own.

        Args:
            runs: runs of each user, used in turn.

        Raises:
            BenchFailed: an event was lost, came twice or stayed unconfirmed, or a process died.
        """
        environment = self._environment(load.window)
        order = {"role": "product", "mode": mode, "runs": runs, "load": asdict(load)}
        with child(order, 0, environment) as server:
            users = {
                "role": "client",
                "url": answer(server)["url"],
                "users": load.users,
                "tokens": client_tokens(environment["DELIVERY_JWT_SECRET"], load.users),
                "timeout": ANSWER_TIMEOUT,
            }
            with child(users, 1, environment) as clients:
                answer(clients)
                result: dict[str, Any] = answer(server)["result"]
                tell(clients, "done")
                counted = answer(clients)
        audit(result, counted)
        result["client_cpu_s_per_million"] = counted["cpu_s"] / load.events * 1e6
        return result

    def _environment(self, window: int) -> dict[str, str]:
        policies = {} if self.policies is None else {"POLICIES": str(self.policies)}
        return environment_of(
            self.folder, window, self.database_url, {"LOG_LEVEL": "ERROR"} | policies
        )


@contextmanager
def new_installation(database_url: str | None = None) -> Iterator[Installation]:
    """An installation whose folder is gone afterwards."""
    with new_folder() as folder:
        yield Installation(folder, database_url)
