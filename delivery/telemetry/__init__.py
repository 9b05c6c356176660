"""Logging of a process: one line per record, as text or JSON, with secrets taken out.

A record may carry a stranger's text. So it is cut before anything looks at it, patterns take linear
time, control characters are escaped, one place in the code logs at a bounded rate, and a process
with an event loop leaves formatting and writing to a thread.
"""

from delivery.telemetry.handler import logs_json, records_lost, setup_logging
from delivery.telemetry.redaction import Redactor, printable, printable_json

__all__ = ["Redactor", "logs_json", "printable", "printable_json", "records_lost", "setup_logging"]
