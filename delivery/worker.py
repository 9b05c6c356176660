"""``celery -A delivery.worker worker``: the app, made from the settings of the environment.

Owns: the name ``app``. Each process opens the ledger for itself when its first task comes.
"""

from __future__ import annotations

import sys

from delivery.bootstrap.workers import make_worker_app
from delivery.config import load_settings
from delivery.errors import ConfigError

try:
    app = make_worker_app(load_settings())
except ConfigError as error:
    # Celery would bury it in a traceback; this is what `delivery worker` says and returns.
    sys.stderr.write(f"Error: {error}\n")
    sys.exit(2)
