"""What a Redis server's answer means to an operator."""

from __future__ import annotations

import pytest
from kombu.exceptions import OperationalError
from redis._parsers.base import BaseParser

from delivery.redis_servers.connections import FULL, REPLICA, NotPrimary, trouble


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("NOAUTH Authentication required.", "the password"),
        ("WRONGPASS invalid username-password pair or user is disabled.", "the password"),
        ("NOPERM User worker has no permissions to run the 'lpush' command", "permit"),
        ("MISCONF Redis is configured to save RDB snapshots", "cannot save"),
        ("NOREPLICAS Not enough good replicas to write.", "too few replicas"),
        ("LOADING Redis is loading the dataset in memory", "loading"),
        ("BUSY Redis is busy running a script.", "script"),
        ("CLUSTERDOWN The cluster is down", "cluster"),
        ("ERR max number of clients reached", "no more connections"),
        ("OOM command not allowed when used memory > 'maxmemory'.", FULL),
        ("READONLY You can't write against a read only replica.", REPLICA),
    ],
)
def test_each_refusal_has_words_whatever_wraps_it(answer: str, words: str) -> None:
    error = BaseParser.parse_error(answer)
    assert words in (trouble(error) or "")
    wrapped = OperationalError("as kombu says it")
    wrapped.__cause__ = error
    assert trouble(wrapped) == trouble(error)


def test_a_server_that_was_left_for_too_few_replicas_is_no_replica() -> None:
    left = NotPrimary("not the primary")
    left.__cause__ = BaseParser.parse_error("NOREPLICAS Not enough good replicas to write.")
    assert "too few replicas" in (trouble(left) or "")


@pytest.mark.parametrize("error", [ConnectionRefusedError("refused"), TimeoutError(), ValueError()])
def test_a_server_that_does_not_answer_refuses_nothing(error: Exception) -> None:
    assert trouble(error) is None
