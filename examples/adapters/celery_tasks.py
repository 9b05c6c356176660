"""A Celery task whose user receives its start, progress, result, failure and retries.

Run: DELIVERY_URL=... DELIVERY_TOKEN=... python examples/adapters/celery_tasks.py
"""

import os
from typing import Any

from celery import Celery

from delivery.adapters.celery import progress, recorded
from delivery.adapters.process import ProcessRecorder

app = Celery("research", broker=os.environ.get("CELERY_BROKER_URL", "memory://"))
recorder = ProcessRecorder(
    os.environ["DELIVERY_URL"], os.environ["DELIVERY_TOKEN"], spool=os.environ.get("AGENT_SPOOL")
)


@app.task(bind=True, autoretry_for=(ConnectionError,), max_retries=2, retry_backoff=False)
@recorded(recorder, show=("question",))
def research(self: Any, user_id: str, run_id: str, question: str) -> str:
    """A long job that fails once."""
    progress(0.5, "reading")
    if self.request.retries == 0:
        raise ConnectionError("the library is closed")
    return "42"


if __name__ == "__main__":
    # In this process. With a worker: celery -A celery_tasks worker, and research.delay(...).
    print(research.apply(("ada", "celery-1", "why?")).get())
    recorder.close()
