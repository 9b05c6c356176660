"""What a person reads: content equal in text and HTML, in the user's language and zone."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

import pytest

from delivery.domain.event import EventClass
from delivery.errors import ConfigError
from delivery.transports.render import MAX_LINES, MAX_SMS, Renderer, one_line
from tests.messages import CONFIRM, UNSUBSCRIBE, make_event, make_group, make_message

EVENTS = (
    make_event(1, "agent_started"),
    make_event(2, "agent_thinking"),
    make_event(3, "agent_thinking"),
    make_event(4, "tool_executing", {"tool": "web search"}),
    make_event(5, "tool_completed", {"tool": "web search", "error": "no answer"}),
    make_event(6, "agent_completed", {"summary": "Report is ready"}),
)


@pytest.fixture
def renderer() -> Renderer:
    return Renderer()


def visible(html: str) -> str:
    """The words of a page without its markup."""
    body = re.sub(r"<(style|title).*?</\1>", " ", html, flags=re.S)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).split())


def test_a_digest_lists_every_event_in_order_with_human_words_and_local_times(
    renderer: Renderer,
) -> None:
    contact = {"locale": "en-GB", "time_zone": "Europe/Berlin"}
    text = renderer.digest(make_message(events=EVENTS, contact=contact)).text
    lines = [line.strip() for line in text.splitlines() if "2026, 10:" in line]
    assert lines == [
        "01 Nov 2026, 10:00:01  The agent started",
        "01 Nov 2026, 10:00:02 to 10:00:03  The agent is thinking (2 times)",
        "01 Nov 2026, 10:00:04  Started web search",
        "01 Nov 2026, 10:00:05  Finished web search – problem: no answer",
        "01 Nov 2026, 10:00:06  The agent finished: Report is ready",
    ]
    assert "Times are in CET" in text


@pytest.mark.parametrize("locale", ["en", "de"])
def test_text_and_html_say_the_same(renderer: Renderer, locale: str) -> None:
    digest = renderer.digest(make_message(events=EVENTS, contact={"locale": locale}))
    page = visible(digest.html)
    for line in digest.text.splitlines():
        words = line.strip().replace(UNSUBSCRIBE, "").rstrip(": ")
        if words and words not in (CONFIRM,):
            assert " ".join(words.split()) in page
    assert digest.text.count(CONFIRM) == 1
    assert digest.html.count(f'href="{CONFIRM.replace("&", "&amp;")}"') == 1


def test_a_subject_names_the_run_and_a_digest_over_runs_names_them_all(renderer: Renderer) -> None:
    assert renderer.digest(make_message()).subject == "Run run-7: The agent finished"
    events = (make_event(1), make_event(1, run_id="run-8"), make_event(2))
    merged = renderer.digest(make_message(run_id=None, events=events))
    assert merged.subject == "3 updates from 2 runs: run-7, run-8"
    assert merged.text.index("Run run-7") < merged.text.index("Run run-8")


@pytest.mark.parametrize(
    ("locale", "words"),
    [("de", "Der Agent ist fertig"), ("de-AT", "Der Agent ist fertig"), ("DE_ch", "Der Agent"),
     ("fr", "The agent finished"), ("../../etc", "The agent finished"),
     (None, "The agent finished")],
)  # fmt: skip
def test_the_users_language_is_used_and_english_stands_in(
    renderer: Renderer, locale: str | None, words: str
) -> None:
    assert words in renderer.digest(make_message(contact={"locale": locale})).text


def test_what_an_event_says_cannot_become_markup_or_a_line_of_its_own(renderer: Renderer) -> None:
    evil = "<script>alert(1)</script>\r\nBcc: x@example.org\n\nhttps://evil.example.org"
    events = (make_event(1, "tool_executing", {"tool": evil}),
              make_event(2, "agent_completed", {"summary": evil}))  # fmt: skip
    digest = renderer.digest(make_message(events=events, run_id='"><img src=x>\u202e'))
    assert "<script" not in digest.html
    assert "<img" not in digest.html
    assert not any(line.strip().startswith("Bcc:") for line in digest.text.splitlines())
    assert "\n" not in digest.subject
    assert "\u202e" not in digest.subject


def test_unknown_types_get_words_and_odd_data_breaks_nothing(renderer: Renderer) -> None:
    events = (
        make_event(1, "billing.invoice_paid", {"message": {"not": "text"}}),
        make_event(2, "tool_executing", {"tool": ["a", "list"], "error": 7}),
        make_event(3, "agent_completed", {"summary": ""}),
    )
    text = renderer.digest(make_message(events=events)).text
    assert "Billing invoice paid" in text
    assert "Started a tool" in text


def test_a_very_long_digest_shows_the_newest_lines_and_counts_the_rest(renderer: Renderer) -> None:
    events = [make_event(n, "note", {"message": f"number {n};"}) for n in range(MAX_LINES + 5)]
    text = renderer.digest(make_message(events=events)).text
    assert "5 earlier updates came before these." in text
    assert "number 4;" not in text
    assert "number 5;" in text
    assert f"number {MAX_LINES + 4};" in text


def test_a_digest_without_links_has_no_button(renderer: Renderer) -> None:
    digest = renderer.digest(make_message(confirm_url=None, unsubscribe_url=None))
    assert "Confirm" not in digest.text
    assert "<a " not in digest.html


def test_a_text_keeps_its_link_whatever_the_event_says(renderer: Renderer) -> None:
    events = [make_event(1, "agent_completed", {"summary": "x" * 5_000})]
    text = renderer.sms(make_message(events=events, run_id="r" * 128))
    assert text.endswith(f"Confirm: {CONFIRM}")
    assert len(text) < 400


def test_a_text_too_long_to_send_is_a_configuration_fault(tmp_path: Path) -> None:
    (tmp_path / "en").mkdir()
    (tmp_path / "en/sms.txt").write_text("x" * (MAX_SMS + 1))
    with pytest.raises(ConfigError, match=r"sms\.txt"):
        Renderer(tmp_path).sms(make_message())


def test_a_push_has_a_title_and_a_body(renderer: Renderer) -> None:
    notice = renderer.push(make_message(events=EVENTS))
    assert notice.title == "The agent finished: Report is ready"
    assert notice.body == f"Run run-7, 6 updates\nConfirm: {CONFIRM}"


def test_an_alert_says_how_many_of_what_for_whom(renderer: Renderer) -> None:
    assert renderer.alert(make_group()).title == "Undelivered: 3 critical events for 2 users"
    assert "id-1, id-2" in renderer.alert(make_group()).body
    over = renderer.alert(make_group(count=0, event_class=EventClass.AUTH), resolved=True)
    assert over.title.startswith("Resolved: 0 auth events")
    german = Renderer(operators_locale="de").alert(make_group())
    assert german.title.startswith("Nicht zugestellt: 3 Ereignisse")


def test_an_own_folder_wins_file_by_file(tmp_path: Path) -> None:
    (tmp_path / "en").mkdir()
    (tmp_path / "en/digest.subject").write_text("ACME: {{ count }} things")
    digest = Renderer(tmp_path).digest(make_message())
    assert digest.subject == "ACME: 1 things"
    assert "What happened while you were away" in digest.text


@pytest.mark.parametrize(
    ("name", "text"),
    [("en/digest.txt", "{% if %}"), ("de/digest.html", "{{ count"), ("en/sms.txt", "{% nope %}")],
)
def test_a_template_that_cannot_be_compiled_stops_the_start_naming_its_file(
    tmp_path: Path, name: str, text: str
) -> None:
    path = tmp_path / name
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(str(path))):
        Renderer(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["{{ no_such_name }}", "{{ last.nothing }}", "{{ count + 'x' }}", "{{ 1 // 0 }}",
     "{{ ''.__class__.__mro__ }}", "{{ runs.append(1) }}"],
)  # fmt: skip
def test_a_template_that_breaks_while_rendering_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "en").mkdir()
    (tmp_path / "en/push.txt").write_text(text)
    renderer = Renderer(tmp_path)
    with pytest.raises(ConfigError, match=r"en/push\.txt"):
        renderer.push(make_message())


def test_a_broken_choice_of_words_is_named(tmp_path: Path) -> None:
    (tmp_path / "en").mkdir()
    (tmp_path / "en/words.txt").write_text("{% macro phrase(event) %}{{ event.x }}{% endmacro %}")
    renderer = Renderer(tmp_path)
    with pytest.raises(ConfigError, match=r"en/words\.txt"):
        renderer.digest(make_message())


def test_a_folder_that_is_not_there_is_a_configuration_fault(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="DELIVERY_TEMPLATES"):
        Renderer(tmp_path / "missing")


def test_an_unknown_time_zone_falls_back_to_utc(renderer: Renderer) -> None:
    text = renderer.digest(make_message(contact={"time_zone": "Mars/Olympus"})).text
    assert "Times are in UTC" in text


def test_one_line_is_one_short_printable_line() -> None:
    assert one_line("a\x00b\r\n\tc  d\u2028e") == "a b c d e"
    assert one_line("word " * 50, 20) == "word word word word…"
