"""``celery -A delivery.worker worker``: the app, made from the settings of the environment.

Owns: the name ``app``. Each process opens the ledger for itself when its first task comes.
"""

from __future__ import annotations

from delivery.bootstrap.workers import make_worker_app
from delivery.config import load_settings

app = make_worker_app(load_settings())
