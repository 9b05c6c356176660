"""Makes the secrets that docker-compose.yml reads, each in a file of its own; keeps what is there.

Standard library only. `python3 config/make_secrets.py [FOLDER]` (default: secrets, beside
docker-compose.yml). Prints names, never values. Containers run as users of their own, so the files
are readable; the folder, which they do not see, is for its owner alone.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterator
from pathlib import Path


def wanted() -> Iterator[tuple[str, str]]:
    """Name and value of every secret; those that share a password come together."""
    owner, app, broker, queue = (secrets.token_hex(24) for _ in range(4))
    yield "postgres_password", secrets.token_hex(24)
    yield "postgres_owner_password", owner
    yield "migrate_database_url", f"postgresql://delivery_owner:{owner}@postgres:5432/delivery"
    yield "postgres_app_password", app
    yield "database_url", f"postgresql://delivery_app:{app}@postgres:5432/delivery"
    yield "redis_broker_auth", f"requirepass {broker}"
    yield "broker_url", f"redis://:{broker}@redis-broker:6379/0"
    yield "redis_queue_auth", f"requirepass {queue}"
    yield "redis_url", f"redis://:{queue}@redis-queue:6379/0"
    yield "jwt_secret", secrets.token_hex(32)
    yield "link_secret", secrets.token_hex(32)
    yield "audit_secret", secrets.token_hex(32)
    yield "smtp_url", "smtp://mailpit:1025?tls=none"
    yield "flower_basic_auth", f"operator:{secrets.token_hex(16)}"
    yield "grafana_admin_password", secrets.token_hex(16)


PAIRS = (
    ("postgres_owner_password", "migrate_database_url"),
    ("postgres_app_password", "database_url"),
    ("redis_broker_auth", "broker_url"),
    ("redis_queue_auth", "redis_url"),
)


def main(folder: Path) -> int:
    """Write what is missing; 1 when half of a pair is, which no new password can mend."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    for pair in PAIRS:
        there = [name for name in pair if (folder / name).exists()]
        if len(there) == 1:
            missing = pair[1] if there[0] == pair[0] else pair[0]
            sys.stderr.write(
                f"{folder / missing} is missing and shares its password with {there[0]}: "
                "write it by hand, or remove the other one too\n"
            )
            return 1
    for name, value in wanted():
        path = folder / name
        if path.exists():
            sys.stdout.write(f"kept {path}\n")
            continue
        path.touch(mode=0o644)
        path.chmod(0o644)
        path.write_text(value + "\n")
        sys.stdout.write(f"made {path}\n")
    return 0


if __name__ == "__main__":
    named = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent / "secrets"
    sys.exit(main(named))
