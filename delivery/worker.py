"""``celery -A delivery.worker worker``: the app, made from the settings of the environment.

Owns: the name ``app``. Each process opens the ledger for itself when its first task comes.
"""

from __future__ import annotations

import logging
import sys

from delivery.bootstrap.workers import make_worker_app
from delivery.config import load_settings, log_format
from delivery.errors import ConfigError
from delivery.telemetry import logs_json, setup_logging

setup_logging(log_format())
try:
    app = make_worker_app(load_settings())
except ConfigError as error:
    # Celery would bury it in a traceback; this is what `delivery worker` says and returns.
    if logs_json():
        logging.getLogger(__name__).critical("%s", error)
    else:
        sys.stderr.write(f"Error: {error}\n")
    sys.exit(2)
