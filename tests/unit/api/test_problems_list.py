"""The list of problems: documented, and what each exception becomes."""

from pathlib import Path

import pytest

from delivery import errors
from delivery.api.problems import KINDS, Problem, problem_of
from delivery.protocol import Close

DOCS = Path(__file__).parents[3] / "docs" / "problems.md"


def test_every_problem_type_is_documented_as_it_is() -> None:
    lines = [line for line in DOCS.read_text().splitlines() if line.startswith("| `")]
    documented = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines]
    expected = [(f"`{s}`", str(k.status), k.title, k.advice) for s, k in KINDS.items()]
    assert documented == expected


@pytest.mark.parametrize(
    ("error", "slug", "status"),
    [
        (errors.InvalidEvent("x"), "invalid-event", 422),
        (errors.InvalidContext("x"), "invalid-context", 422),
        (errors.PayloadTooLarge("x"), "payload-too-large", 413),
        (errors.IdConflict("x"), "id-conflict", 409),
        (errors.Overloaded("x"), "overloaded", 429),
        (errors.LedgerUnavailable("x"), "unavailable", 503),
        (errors.SpoolFull("x"), "spool-full", 503),
        (TimeoutError(), "unavailable", 503),
        (errors.Unauthenticated("x"), "unauthenticated", 401),
        (errors.Unauthenticated("x", close_code=Close.TOKEN_EXPIRED), "token-expired", 401),
        (errors.Unauthenticated("x", close_code=Close.NOT_YET), "token-not-yet", 401),
        (errors.KeysUnavailable("x"), "keys-unavailable", 503),
        (errors.LinkInvalid("x"), "link-invalid", 404),
        (errors.LinkExpired("x"), "link-expired", 410),
        (errors.IllegalTransition("x"), "internal", 500),
        (RuntimeError("password=hunter2"), "internal", 500),
    ],
)
def test_an_exception_becomes_its_problem(error: Exception, slug: str, status: int) -> None:
    problem = problem_of(error)
    assert (problem.slug, problem.status) == (slug, status)
    assert problem.document()["type"] == f"/problems/{slug}"


@pytest.mark.parametrize(
    "error", [RuntimeError("hunter2"), errors.LedgerUnavailable("postgres://u:hunter2@host")]
)
def test_what_went_wrong_inside_is_not_told(error: Exception) -> None:
    assert "hunter2" not in str(problem_of(error).document())


def test_the_field_is_named_where_it_is_known() -> None:
    assert problem_of(errors.InvalidEvent("x", field="data")).document()["field"] == "data"
    assert "field" not in problem_of(errors.InvalidEvent("x")).document()


def test_a_wait_is_told_in_whole_seconds_and_never_zero() -> None:
    for seconds, header in ((0.2, "1"), (1.0, "1"), (2.5, "3")):
        problem = problem_of(errors.Overloaded("x", retry_after=seconds))
        assert problem.response().headers["Retry-After"] == header


def test_a_refused_token_says_how_to_sign_in() -> None:
    response = Problem("unauthenticated", "x").response()
    assert response.headers["WWW-Authenticate"].startswith("Bearer")
