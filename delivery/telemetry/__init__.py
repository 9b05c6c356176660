"""Logging of a process: one line per record, as text or JSON, without secrets.

A record may contain foreign text. So it is cut before it is processed, patterns take linear time,
control characters are escaped, each place in the code logs at a bounded rate, and in a process with
an event loop a thread formats and writes.
"""

from delivery.telemetry.handler import hide, logs_json, records_lost, setup_logging
from delivery.telemetry.redaction import Redactor, printable, printable_json

__all__ = [
    "Redactor",
    "hide",
    "logs_json",
    "printable",
    "printable_json",
    "records_lost",
    "setup_logging",
]
