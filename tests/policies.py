"""The shipped chain in fractions of a second, for tests of whole processes."""

from __future__ import annotations

_CRITICAL = """
[class.critical]
types = ["agent_started", "agent_thinking", "tool_executing", "tool_completed", "agent_completed"]
ack_timeout = {ack_timeout}
retries = 1
backoff = {{ base = 0.05, max = 0.2, jitter = 0.1 }}
ttl = 600
[[class.critical.chain]]
channel = "database"
[[class.critical.chain]]
channel = "queue"
[[class.critical.chain]]
channel = "direct"
attempts = 2
[[class.critical.chain]]
channel = "emergency"
after = 0.2
[[class.critical.chain]]
channel = "email"
after = {email_after}
only = ["agent_completed"]
digest = {{ by = ["user_id", "run_id"], window = 0.5, min_interval = {min_interval} }}
confirms = "link"
[[class.critical.chain]]
channel = "sms"
after = {sms_after}
only = ["agent_completed"]
digest = {{ by = ["user_id"], window = 0.2, min_interval = 60 }}
confirms = "receipt"
[[class.critical.chain]]
channel = "alert"
after = {alert_after}
"""


def quick_policies(
    *,
    ack_timeout: float = 1.0,
    email_after: float = 0.5,
    sms_after: float = 1.0,
    alert_after: float = 60.0,
    min_interval: float = 60.0,
) -> str:
    """A policy file: the shipped chain of agent events, with these times in seconds."""
    return _CRITICAL.format(
        ack_timeout=ack_timeout,
        email_after=email_after,
        sms_after=sms_after,
        alert_after=alert_after,
        min_interval=min_interval,
    )
