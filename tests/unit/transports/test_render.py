"""What a person reads: content equal in text and HTML, in the user's language and zone."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

import pytest

from delivery.domain.event import EventClass
from delivery.domain.limits import MAX_SMS_CHARS
from delivery.errors import ConfigError
from delivery.transports.rendering.content import MAX_LINES, paragraphs
from delivery.transports.rendering.render import Notice, Renderer
from delivery.transports.text import one_line
from tests.messages import CONFIRM, UNSUBSCRIBE, make_event, make_group, make_message

EVENTS = (
    make_event(1, "agent_started"),
    make_event(2, "agent_thinking"),
    make_event(3, "agent_thinking"),
    make_event(4, "tool_executing", {"tool": "web search"}),
    make_event(5, "tool_completed", {"tool": "web search", "error": "no answer"}),
    make_event(6, "agent_completed", {"summary": "Report is ready"}),
)


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer()


def visible(html: str) -> str:
    """The words of a page without its markup."""
    body = re.sub(r"<(style|title).*?</\1>", " ", html, flags=re.S)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).split())


def vars_of(notice: Notice) -> tuple[str, str]:
    return notice.title, notice.body


def without_links(text: str) -> str:
    """The words of a plain part without its addresses and the marks before and around them."""
    lines = [
        re.sub(r":? ?https://\S+$|^>|^(Confirm.*|Als gesehen.*):$", r"\1", line)
        for line in text.splitlines()
    ]
    return " ".join(" ".join(lines).split())


def test_a_digest_lists_every_event_in_order_with_human_words_and_local_times(
    renderer: Renderer,
) -> None:
    contact = {"locale": "en-GB", "time_zone": "Europe/Berlin"}
    text = renderer.digest(make_message(events=EVENTS, contact=contact)).text
    began = text.index("Sunday, 1 November 2026, times in CET")
    assert text[began:].splitlines()[1:8] == [
        "10:00:01  The agent started",
        "10:00:02  The agent was thinking (2 times, until 10:00:03)",
        "10:00:04  Started web search",
        "10:00:05  Finished web search – problem: no answer",
        "10:00:06  The agent finished, with this answer:",
        "> Report is ready",
        "",
    ]


@pytest.mark.parametrize("locale", ["en", "de"])
def test_text_and_html_say_the_same_in_the_same_order(renderer: Renderer, locale: str) -> None:
    events = (*EVENTS, make_event(90_000, "agent_started", {"title": "A & B"}, run_id="run-8"))
    digest = renderer.digest(make_message(events=events, run_id=None, contact={"locale": locale}))
    assert without_links(digest.text) == visible(digest.html)
    assert digest.text.count(CONFIRM) == digest.text.count(UNSUBSCRIBE) == 1
    assert digest.html.count(f'href="{CONFIRM.replace("&", "&amp;")}"') == 1
    assert digest.html.count(f'href="{UNSUBSCRIBE}"') == 1


def test_the_answer_stands_in_the_mail_as_the_agent_gave_it(renderer: Renderer) -> None:
    answer = "Three were late.\n\n\n  Northwind <is> the one.\u202e\nAsk them."
    for data in ({"result": answer}, {"result": {"text": answer}}, {"summary": answer}):
        digest = renderer.digest(make_message(events=[make_event(1, "agent_completed", data)]))
        assert "> Three were late.\n>\n> Northwind <is> the one.\n> Ask them.\n" in digest.text
        assert ">Three were late.</p>" in digest.html
        assert ">Northwind &lt;is&gt; the one.<br />\nAsk them.</p>" in digest.html
        assert digest.text.startswith("Your agent has finished\n")


@pytest.mark.parametrize("data", [{"result": 42}, {"result": None}, {"result": "x", "error": "no"}])
def test_an_end_without_words_or_with_a_problem_is_no_answer(
    renderer: Renderer, data: dict[str, object]
) -> None:
    digest = renderer.digest(make_message(events=[make_event(1, "agent_completed", data)]))
    assert digest.text.startswith("What happened while you were away\n")
    assert "this answer" not in digest.text
    assert 'class="answer"' not in digest.html


def test_a_run_is_called_what_its_agent_calls_it(renderer: Renderer) -> None:
    events = (
        make_event(1, "agent_started", {"title": "Late suppliers"}),
        make_event(2, "tool_completed", {"title": "of a page that it read"}),
    )
    message = make_message(events=events)
    digest = renderer.digest(message)
    assert digest.subject == "Late suppliers – Finished a tool"
    assert "\nLate suppliers\nSunday, " in digest.text
    assert renderer.sms(message).startswith("Late suppliers\nFinished a tool\n2 updates. Confirm: ")
    assert renderer.push(message).body.startswith("Late suppliers, 2 updates")


def test_a_new_day_is_named_where_it_begins(renderer: Renderer) -> None:
    events = [make_event(n, "note", {"message": str(n)}) for n in (1, 2, 86_400)]
    contact = {"locale": "de", "time_zone": "America/Sao_Paulo"}
    text = renderer.digest(make_message(events=events, contact=contact)).text
    assert re.findall(r"^\w+tag, .*$", text, re.M) == [
        "Sonntag, 1. November 2026, Zeiten in UTC-03",
        "Montag, 2. November 2026, Zeiten in UTC-03",
    ]


def test_the_fullest_mail_is_shown_whole_by_mail_programs(renderer: Renderer) -> None:
    said = "the <word> " * 400
    events = [
        make_event(n, "agent_completed", {"result": f"{n} {said}"}, run_id=f"run-{n}")
        for n in range(2 * MAX_LINES)
    ]
    digest = renderer.digest(make_message(events=events, run_id=None))
    assert len(digest.html.encode()) < 102_000  # Gmail cuts there, and the button is at the end
    assert CONFIRM in digest.text


def test_a_subject_names_titles_and_no_message_names_a_run_by_its_id(renderer: Renderer) -> None:
    assert renderer.digest(make_message()).subject == "The agent finished"
    started = make_event(1, "agent_started", {"title": "Late suppliers"})
    events = (started, make_event(1, run_id="run-8"), make_event(2))
    message = make_message(run_id=None, events=events)
    merged = renderer.digest(message)
    assert merged.subject == "3 updates from 2 runs: Late suppliers"
    one_run = make_message(run_id=None, events=events[::2])
    assert renderer.digest(one_run).subject == "Late suppliers – The agent finished"
    for one in (message, one_run, make_message()):
        digest = renderer.digest(one)
        shown = (digest.text, digest.html, renderer.sms(one), *vars_of(renderer.push(one)))
        assert not any(re.search(r"run-[78]", text) for text in shown)


@pytest.mark.parametrize(
    ("locale", "words"),
    [
        ("de", "Der Agent ist fertig"),
        ("de-AT", "Der Agent ist fertig"),
        ("DE_ch", "Der Agent"),
        ("fr", "The agent finished"),
        ("../../etc", "The agent finished"),
        (None, "The agent finished"),
    ],
)
def test_the_users_language_is_used_and_english_stands_in(
    renderer: Renderer, locale: str | None, words: str
) -> None:
    assert words in renderer.digest(make_message(contact={"locale": locale})).text


def test_what_an_event_says_cannot_become_markup_or_a_line_of_its_own(renderer: Renderer) -> None:
    evil = "<script>alert(1)</script>\r\nBcc: x@example.org\n\nhttps://evil.example.org"
    events = (
        make_event(1, "tool_executing", {"tool": evil}),
        make_event(2, "agent_completed", {"summary": evil}),
    )
    digest = renderer.digest(make_message(events=events, run_id='"><img src=x>\u202e'))
    assert "<script" not in digest.html
    assert "<img" not in digest.html
    assert not any(line.strip().startswith("Bcc:") for line in digest.text.splitlines())
    assert "\n" not in digest.subject
    assert "\u202e" not in digest.subject


def test_unknown_types_get_words_and_malformed_data_breaks_nothing(renderer: Renderer) -> None:
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


def test_a_text_stays_in_the_alphabet_that_is_cheap_to_send(renderer: Renderer) -> None:
    said = "„Northwind“ – it’s late… " * 9
    for locale, ending in (("en", "Confirm"), ("de", "Bestätigen")):
        message = make_message(
            events=[make_event(1, "agent_completed", {"result": said})], contact={"locale": locale}
        )
        text = renderer.sms(message)
        assert text.replace("ä", "").isascii()
        assert '"Northwind" - it\'s late...' in text
        assert text.endswith(f"\n{ending}: {CONFIRM}")


def test_a_text_too_long_to_send_gives_way_to_one_that_is_not(tmp_path: Path) -> None:
    (tmp_path / "en").mkdir()
    (tmp_path / "en/sms.txt").write_text("x" * (MAX_SMS_CHARS + 1))
    assert Renderer(tmp_path).sms(make_message()).endswith(CONFIRM)


def test_a_push_has_a_title_and_a_body(renderer: Renderer) -> None:
    notice = renderer.push(make_message(events=EVENTS))
    assert notice.title == "The agent finished: Report is ready"
    assert notice.body == f"6 updates\nConfirm: {CONFIRM}"


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
    ("locale", "looks"), [("en", "own en"), ("de", "Was in"), ("fr", "own en"), ("it", "own it")]
)
def test_an_own_look_of_one_language_is_never_put_around_the_words_of_another(
    tmp_path: Path, locale: str, looks: str
) -> None:
    for own in ("en", "it"):
        (tmp_path / own).mkdir()
        (tmp_path / own / "digest.txt").write_text(f"own {own}")
    text = Renderer(tmp_path).digest(make_message(contact={"locale": locale})).text
    assert text.startswith(looks)


def test_an_own_look_and_own_sentences_serve_together(tmp_path: Path) -> None:
    (tmp_path / "fr").mkdir()
    (tmp_path / "fr/digest.words").write_text(
        "{% set lang = 'fr' %}{% macro headline(last) %}Bonjour <b>{{ last.text }}{% endmacro %}"
    )
    (tmp_path / "digest.html").write_text("<p lang={{ words.lang }}>{{ words.headline(last) }}")
    (tmp_path / "digest.txt").write_text("{{ words.headline(last) }}")
    events = [make_event(1, "note", {"message": "<i>"})]
    digest = Renderer(tmp_path).digest(make_message(events=events, contact={"locale": "fr"}))
    assert digest.html == "<p lang=fr>Bonjour &lt;b&gt;Note: &lt;i&gt;\n"
    assert digest.text == "Bonjour <b>Note: <i>\n"


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
    [
        "{{ no_such_name }}",
        "{{ last.nothing }}",
        "{{ count + 'x' }}",
        "{{ 1 // 0 }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ runs.append(1) }}",
    ],
)
def test_a_template_that_breaks_while_rendering_is_named_and_the_default_look_stands_in(
    tmp_path: Path, text: str
) -> None:
    (tmp_path / "en").mkdir()
    (tmp_path / "en/push.txt").write_text(text)
    notice = Renderer(tmp_path).push(make_message())
    assert notice.title == "The agent finished"
    assert "en/push.txt" in notice.faults[0]


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("words.txt", "{% macro phrase(e) %}{{ e.x }}{% endmacro %}", "words.txt is broken"),
        ("words.txt", "no macro", "words.txt has no macro 'phrase'"),
        ("digest.words", "{% macro headline(l) %}{{ l.x }}{% endmacro %}", "words is broken"),
    ],
)
def test_missing_or_broken_words_are_named(
    tmp_path: Path, name: str, text: str, fault: str
) -> None:
    (tmp_path / "en").mkdir()
    (tmp_path / "en" / name).write_text(text)
    digest = Renderer(tmp_path).digest(make_message())
    assert fault in digest.faults[0]
    assert digest.subject == "The agent finished"


def test_a_folder_that_is_not_there_is_a_configuration_fault(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="DELIVERY_TEMPLATES"):
        Renderer(tmp_path / "missing")


def test_an_unknown_time_zone_falls_back_to_utc(renderer: Renderer) -> None:
    text = renderer.digest(make_message(contact={"time_zone": "Mars/Olympus"})).text
    assert "times in UTC" in text


def test_one_line_is_one_short_printable_line() -> None:
    assert one_line("a\x00b\r\n\tc  d\u2028e") == "a b c d e"
    assert one_line("word " * 50, 20) == "word word word word…"
    assert one_line("word " * 50, 22) == "word word word word…"
    assert one_line("y " + "x" * 50, 20) == "y " + "x" * 17 + "…"


def test_paragraphs_are_cut_and_keep_no_empty_ends() -> None:
    assert paragraphs("\n a  b\n\n\n\x00\nc\n", 100) == ("a b", "", "c")
    assert paragraphs("abcdef\ng\nh", 7) == ("abcdef", "g", "…")
    assert paragraphs("x\n" * 50, 100)[-2:] == ("x", "…")
    assert paragraphs(" ", 10) == ()
