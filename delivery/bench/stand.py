"""A bench stand: one ledger, and fresh processes that do one thing with it each.

Owns: their environment, their cores, their answers, and the audit of a round. For comparisons in
which something about the product varies; product beside floor is ``runner``.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from delivery.bench.children import PATIENCE, BenchFailed, answer, child, tell
from delivery.bench.window import Load
from delivery.gateway.auth import make_token

HERE = "delivery.bench.stand_process"


@dataclass(frozen=True, slots=True)
class Stand:
    """Where processes run.

    Attributes:
        folder: their data; the ledger too, unless ``database_url`` names another.
        policies: a policy file in place of the default policies.
    """

    folder: Path
    database_url: str | None = None
    policies: Path | None = None

    def with_linger(self, seconds: float) -> Stand:
        """The same, but events of the load may be held for so long to be sent together.

        Effect: writes a policy file.
        """
        file = self.folder / f"policies-{seconds:g}.toml"
        file.write_text(f"[class.critical]\nlinger = {seconds!r}\n")
        return replace(self, policies=file)

    def ask(self, **order: Any) -> dict[str, Any]:
        """What a new process answers to an order; lines about how far it is only keep it alive.

        Raises:
            BenchFailed: it died, or said nothing for too long.
        """
        environment = self._environment(1_000)
        with child(order, 0, environment, HERE) as process:
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
        with child(order, 0, environment, HERE) as server:
            secret = environment["DELIVERY_JWT_SECRET"]
            users = {
                "role": "client",
                "url": answer(server)["url"],
                "users": load.users,
                "tokens": [make_token(secret, f"user-{user}") for user in range(load.users)],
                "patience": PATIENCE,
            }
            with child(users, 1, environment) as clients:
                answer(clients)
                result: dict[str, Any] = answer(server)["result"]
                tell(clients, "done")
                counted = answer(clients)
        _audit(result, counted)
        result["client_cpu_s_per_million"] = counted["cpu_s"] / load.events * 1e6
        return result

    def _environment(self, window: int) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("DELIVERY_")}
        found = {
            "DELIVERY_DATA_DIR": str(self.folder),
            "DELIVERY_PORT": "0",
            "DELIVERY_JWT_SECRET": os.urandom(32).hex(),
            "DELIVERY_BROKER_URL": "memory://",
            "DELIVERY_MAX_IN_FLIGHT": str(max(1_000, window)),
            "DELIVERY_LOG_LEVEL": "ERROR",
        }
        if self.database_url is not None:
            found["DELIVERY_DATABASE_URL"] = self.database_url
        if self.policies is not None:
            found["DELIVERY_POLICIES"] = str(self.policies)
        return kept | found


@contextlib.contextmanager
def new_stand(database_url: str | None = None) -> Iterator[Stand]:
    """A stand whose folder is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="delivery-bench-", ignore_cleanup_errors=True) as name:
        yield Stand(Path(name), database_url)


def _audit(result: dict[str, Any], counted: dict[str, Any]) -> None:
    """A round that lost or repeated something has no figure."""
    lost = max(0, result["events"] - counted["received"])
    if lost or result["unconfirmed"] or counted["repeated"]:
        raise BenchFailed(
            f"{lost} events did not arrive, {result['unconfirmed']} are not confirmed in the "
            f"ledger and {counted['repeated']} came twice: no figures"
        )
