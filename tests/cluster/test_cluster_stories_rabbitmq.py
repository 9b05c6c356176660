"""The same stories with RabbitMQ as broker: one setting differs, nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from delivery.tasks.broker.app import ALL_QUEUES
from tests import rabbitmq, servers
from tests.cluster.conftest import Cluster, making, start
from tests.cluster.test_cluster_stories import (
    test_an_unconfirmed_event_ends_dead_with_one_alert_and_can_be_replayed,
    test_away_the_chain_goes_its_way_to_one_mail_and_one_text,
    test_coming_back_midway_delivers_what_was_missed_and_stops_the_chain,
    test_live_events_are_confirmed_with_who_what_and_when,
)

__all__ = [
    "test_an_unconfirmed_event_ends_dead_with_one_alert_and_can_be_replayed",
    "test_away_the_chain_goes_its_way_to_one_mail_and_one_text",
    "test_coming_back_midway_delivers_what_was_missed_and_stops_the_chain",
    "test_live_events_are_confirmed_with_who_what_and_when",
]


@pytest.fixture(scope="module")
def cluster(
    tmp_path_factory: pytest.TempPathFactory, rabbitmq_server_proc: servers.Server
) -> Iterator[Cluster]:
    """Gateways, worker and beat whose tasks go through RabbitMQ; Redis is the bus alone."""
    rabbitmq.delete_queues(rabbitmq_server_proc.url, ALL_QUEUES)
    folder = tmp_path_factory.mktemp("rabbitmq-cluster")
    with (
        servers.postgres() as postgres,
        servers.redis_server() as redis,
        making(folder, postgres, redis, BROKER_URL=rabbitmq_server_proc.url) as made,
    ):
        yield start(made)
