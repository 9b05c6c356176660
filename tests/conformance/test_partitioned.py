"""The ledger on PostgreSQL after ``delivery partitions init``: the same as on one table.

Its tests are those of the other shapes, about what names or moves rows of ``events``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest

from delivery.ledger import SqlLedger, migrate
from delivery.ledger.partitions.layout import Period
from delivery.ledger.sql.database import Database
from tests import databases
from tests.conformance.test_ledger_chain import (  # noqa: F401 - collected here, too
    test_a_claimed_event_cannot_be_claimed_until_the_lease_ends,
    test_sweepers_at_once_never_get_the_same_event,
)
from tests.conformance.test_ledger_events import (  # noqa: F401
    test_a_feed_reads_unconfirmed_events_by_their_index,
    test_the_same_id_with_other_content_is_a_conflict_and_the_rest_is_kept,
    test_two_nodes_that_record_one_id_at_once_agree_on_one_row,
)
from tests.conformance.test_ledger_retention import (  # noqa: F401
    test_a_dead_event_that_is_being_replayed_is_left_alone,
    test_a_walk_in_small_steps_reaches_everything_once,
    test_each_state_is_kept_for_its_own_time,
)


@pytest.fixture(scope="module")
def partitioned_template(postgres_admin: str) -> Iterator[str]:
    with databases.created(postgres_admin) as url:
        migrate.upgrade(databases.text(url))
        ledger = SqlLedger.on(Database(databases.text(url), pool_size=2, answer_timeout=None))
        ledger.partitions.convert(Period.DAY)
        ledger.close()
        yield str(url.database)


@pytest.fixture
def open_ledger(
    postgres_admin: str, partitioned_template: str
) -> Iterator[Callable[[], SqlLedger]]:
    with ExitStack() as stack:
        url = databases.text(
            stack.enter_context(databases.created(postgres_admin, partitioned_template))
        )

        def open_one() -> SqlLedger:
            return stack.enter_context(closing(SqlLedger(url)))

        yield open_one
