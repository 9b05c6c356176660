"""The counters of runs."""

from delivery.emitter.runs import Runs


def test_an_unknown_run_asks_the_ledger():
    assert Runs().of("u1", "r1").take() is None


def test_a_run_that_the_ledger_numbered_counts_on():
    run = Runs().of("u1", "r1")
    run.on_recorded(4)
    assert [run.take(), run.take()] == [5, 6]


def test_a_late_answer_does_not_turn_the_counter_back():
    run = Runs().of("u1", "r1")
    run.on_recorded(4)
    run.take()
    run.on_recorded(4)
    assert run.take() == 6


def test_what_only_the_spool_has_leaves_the_number_to_the_ledger():
    run = Runs().of("u1", "r1")
    run.on_recorded(4)
    run.on_recorded(None)
    assert run.take() is None


def test_while_the_ledger_numbers_one_the_next_ones_queue_behind_it():
    run = Runs().of("u1", "r1")
    run.on_recorded(4)
    run.outstanding = 1
    assert run.take() is None
    run.outstanding = 0
    assert run.take() == 5


def test_a_run_that_an_emitter_holds_is_never_counted_twice():
    runs = Runs(capacity=1)
    held = runs.of("u1", "r1")
    runs.of("u1", "r2")
    assert runs.of("u1", "r1") is held


def test_the_runs_used_longest_ago_are_forgotten():
    runs = Runs(capacity=2)
    first = runs.of("u1", "r1")
    runs.of("u1", "r2")
    assert runs.of("u1", "r1") is first
    runs.of("u1", "r3")
    assert len(runs) == 2
    assert runs.of("u1", "r1") is first
