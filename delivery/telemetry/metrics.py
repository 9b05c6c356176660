"""The metrics: every name, what it counts, its labels, and which processes have it.

Owns: the list, from which ``docs/metrics.py`` writes the table of ``docs/metrics.md``. Never does:
count; the part that knows the fact does, once per batch. Values of labels are names of the code, of
the policy file or of a provider: never a user, a run, an address or a caller's text.
"""

from __future__ import annotations

from delivery.telemetry.instruments import Counter, Gauge, Histogram, Where

GATEWAY: tuple[Where, ...] = ("gateway",)
WORKER: tuple[Where, ...] = ("worker",)
BOTH: tuple[Where, ...] = ("gateway", "worker")

FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SLOW = (0.01, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 21_600.0, 86_400.0, 259_200.0)
CALL = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
SIZES = (1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1_000.0, 2_500.0, 5_000.0)

# Events

accepted = Counter(
    "delivery_events_accepted_total", "Events made durable, by class.", ("class",), where=GATEWAY
)
repeated = Counter(
    "delivery_events_repeated_total",
    "Events that were not accepted because their id is recorded: duplicate, or conflict for other "
    "content.",
    ("result",),
    where=GATEWAY,
)
spooled = Counter(
    "delivery_events_spooled_total",
    "Events made durable in a spool while the ledger was away.",
    where=GATEWAY,
)
delivered = Counter(
    "delivery_events_delivered_total",
    "Events confirmed for the first time, by the path that reached the user: live, or chain for "
    "those that were handed over before.",
    ("path",),
    where=BOTH,
)
confirmed = Counter(
    "delivery_events_confirmed_total",
    "Events confirmed for the first time, by the channel of the confirmation.",
    ("channel",),
    where=BOTH,
)
handed_over = Counter(
    "delivery_events_handed_over_total",
    "Events handed over to the fallback chain, by reason.",
    ("reason",),
    where=BOTH,
)
ended = Counter(
    "delivery_events_ended_total",
    "Events that reached the end of their way, by state: confirmed, dead or expired.",
    ("state",),
    where=BOTH,
)
parked = Counter(
    "delivery_events_parked_total",
    "Events whose chain ended without an alert: they wait for their user.",
    where=WORKER,
)
time_to_ack = Histogram(
    "delivery_time_to_ack_seconds",
    "Time from the making of an event's id to a client's acknowledgement on a connection.",
    buckets=FAST,
    where=GATEWAY,
)
time_to_confirmation = Histogram(
    "delivery_time_to_confirmation_seconds",
    "Time from the making of an event's id to the record of its first confirmation, by channel.",
    ("channel",),
    buckets=SLOW,
    where=BOTH,
)
runs_started = Counter("delivery_runs_started_total", "Accepted agent_started events.")
runs_completed = Counter("delivery_runs_completed_total", "Accepted agent_completed events.")
performance_activations = Counter(
    "delivery_performance_mode_activations_total", "Emitters made in performance mode."
)

# Connections

connections = Gauge("delivery_connections", "Live connections of this node.", ("node",))
in_flight = Gauge(
    "delivery_events_in_flight", "Events sent on a connection and unacknowledged.", ("node",)
)
connections_opened = Counter(
    "delivery_connections_opened_total", "Connections that were admitted.", ("transport",)
)
connections_closed = Counter(
    "delivery_connections_closed_total",
    "Connections that ended, by the code with which this node closed them; client for the rest.",
    ("code",),
)
reconnects = Counter(
    "delivery_reconnects_total",
    "Connections that ended so that their client connects again, by close code.",
    ("code",),
)
health_score = Histogram(
    "delivery_health_score",
    "Health of the best connection of each user, 0 to 100, taken every 5 s.",
    buckets=(10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 95.0, 100.0),
)

# The gateway's process

journal_commit = Histogram(
    "delivery_journal_commit_seconds",
    "Duration of a group commit, to the ledger or the spool.",
    buckets=FAST,
)
journal_batch = Histogram(
    "delivery_journal_batch_events", "Events in a group commit.", buckets=SIZES
)
backlog = Gauge(
    "delivery_journal_backlog", "Events of this node that wait for their commit.", ("node",)
)
spool_bytes = Gauge("delivery_spool_bytes", "Bytes of this node's spool to be drained.", ("node",))
spool_age = Gauge(
    "delivery_spool_age_seconds",
    "How long this node's spool has held events without a break; 0 when it is empty.",
    ("node",),
)
set_aside = Gauge(
    "delivery_spool_set_aside_events",
    "Accepted events on this node's disk that no process will record by itself.",
    ("node",),
)
outbox_lag = Gauge(
    "delivery_outbox_lag_seconds",
    "Age of the oldest row of an outbox that this node carries over itself; 0 for none.",
    ("node",),
    where=BOTH,
)
outbox_waiting = Gauge(
    "delivery_outbox_waiting_rows",
    "Rows of that outbox that are not accepted yet.",
    ("node",),
    where=BOTH,
)
outbox_dead = Gauge(
    "delivery_outbox_dead_rows", "Rows of it that were set aside.", ("node",), where=BOTH
)
loop_lag = Histogram(
    "delivery_event_loop_lag_seconds",
    "How late the event loop ran a timer, twice a second.",
    buckets=FAST,
)
loop_tasks = Gauge("delivery_tasks", "Tasks on the event loop of this node.", ("node",))
bus_latency = Histogram(
    "delivery_bus_latency_seconds",
    "Time that a message took through the bus, by probes that this node sends to itself.",
    buckets=FAST,
)
bus_skipped = Counter(
    "delivery_bus_skipped_total",
    "What came over the bus and was not read, by reason: an envelope of another version, a kind "
    "that is unknown here, a newer version of a kind, or malformed.",
    ("reason",),
    where=BOTH,
)

# The chain

attempts = Counter(
    "delivery_attempts_total",
    "Attempts of the chain that ended, by channel, provider and outcome.",
    ("channel", "provider", "outcome"),
    where=WORKER,
)
attempt_duration = Histogram(
    "delivery_attempt_seconds",
    "Duration of an attempt, of a message for those that carry many events.",
    ("channel", "provider"),
    buckets=CALL,
    where=WORKER,
)
message_faults = Counter(
    "delivery_message_faults_total",
    "Faults in messages that were sent all the same: template (another look stood in) or data (a "
    "link, picture or action was left out), by channel.",
    ("channel", "kind"),
    where=WORKER,
)
task_duration = Histogram(
    "delivery_task_seconds", "Duration of a Celery task.", ("task",), buckets=CALL, where=WORKER
)
tasks_failed = Counter(
    "delivery_tasks_failed_total",
    "Celery tasks that did not end well: ledger_away, time_limit or error.",
    ("task", "reason"),
    where=WORKER,
)
queue_depth = Gauge(
    "delivery_queue_depth",
    "Messages that wait in a queue of the broker.",
    ("queue",),
    where=("beat",),
)
sweep_events = Counter(
    "delivery_sweep_events_total",
    "Events that a sweep took: due, or expired.",
    ("result",),
    where=BOTH,
)
sweep_duration = Histogram(
    "delivery_sweep_seconds", "Duration of a sweep.", buckets=CALL, where=BOTH
)
sweep_lag = Histogram(
    "delivery_sweep_lag_seconds",
    "Age of the oldest due event when a sweep began.",
    buckets=(0.1, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 3_600.0),
    where=BOTH,
)
receipts = Counter(
    "delivery_receipts_total",
    "Providers' reports about a message, by channel and status.",
    ("channel", "status"),
    where=GATEWAY,
)
suppressed = Counter(
    "delivery_suppressions_total",
    "Addresses that get no further message, by channel and reason.",
    ("channel", "reason"),
    where=BOTH,
)
webhook_attempts = Counter(
    "delivery_webhook_attempts_total",
    "Attempts to send a message to an endpoint of the application, by endpoint and outcome: "
    "delivered, failed or unknown.",
    ("webhook", "outcome"),
    where=WORKER,
)
webhook_lag = Histogram(
    "delivery_webhook_lag_seconds",
    "From an outcome until the application's endpoint took the message about it.",
    ("webhook",),
    buckets=SLOW,
    where=WORKER,
)
webhooks_off = Counter(
    "delivery_webhooks_switched_off_total",
    "Endpoints of the application that were switched off because they failed or were gone.",
    ("webhook",),
    where=WORKER,
)
published = Counter(
    "delivery_beat_published_total", "Tasks that beat published.", ("task",), where=("beat",)
)
