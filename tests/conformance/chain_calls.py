"""The batch calls of the chain store, each for one event."""

from __future__ import annotations

from datetime import datetime

from delivery.domain.records import Claim, Result
from delivery.ledger import SqlLedger


def begin(ledger: SqlLedger, claim: Claim, channel: str, number: int) -> bool:
    [answer] = ledger.chain.begin_all([(claim, number)], channel)
    return answer


def end(ledger: SqlLedger, claim: Claim, channel: str, number: int, result: Result) -> bool:
    [answer] = ledger.chain.end_all([(claim, number)], channel, result)
    return answer


def skip(ledger: SqlLedger, claim: Claim, channel: str, reason: str) -> bool:
    [answer] = ledger.chain.skip_all([(claim, channel, reason, None)])
    return answer


def move(ledger: SqlLedger, claim: Claim, step: str, due_at: datetime) -> bool:
    [answer] = ledger.chain.move_all([(claim, step, due_at)])
    return answer


def finish(ledger: SqlLedger, claim: Claim, *, alerted: bool) -> bool:
    [answer] = ledger.chain.finish_all([(claim, alerted)])
    return answer
