"""``celery -A delivery.worker worker``: the app, made from the settings of the environment.

Owns: the name ``app``. Each process opens its own ledger at its first task.
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
    # The message and exit code of `delivery worker`, without the traceback that Celery prints.
    if logs_json():
        logging.getLogger(__name__).critical("%s", error)
    else:
        sys.stderr.write(f"Error: {error}\n")
    sys.exit(2)
