"""Messages with a brand, links back, Markdown, other directions, and templates of one's own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from delivery.domain.event import EventClass
from delivery.domain.messages.brand import Brand
from delivery.domain.operators.figures import Failure
from delivery.transports.rendering.markdown import markdown_source, plain_text, write_markdown
from delivery.transports.rendering.render import Renderer
from tests.messages import CONFIRM, make_event, make_group, make_message
from tests.metrics import Counts

APP = "https://app.example.org"
BRAND = Brand(
    name="Acme",
    color="#ffd500",
    logo_url="https://cdn.example.org/logo.png",
    app_url=APP,
    origins=frozenset({APP}),
    footer="Acme GmbH <Berlin>\nregistered",
)
ORDER = {"title": "Your order is on its way", "summary": "It comes <soon>.", "url": f"{APP}/o/7"}


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(brand=BRAND)


def hrefs(html: str) -> list[str]:
    return re.findall(r'href="([^"]*)"', html)


def test_the_main_button_opens_the_application_and_confirming_is_the_second_link(
    renderer: Renderer,
) -> None:
    data = ORDER | {"actions": [{"label": "Change", "url": "/c"}], "image": f"{APP}/i.png"}
    digest = renderer.digest(make_message(events=[make_event(1, "order_sent", data)]))
    assert digest.subject == ORDER["title"]
    links = hrefs(digest.html)
    assert links[:3] == [f"{APP}/o/7", f"{APP}/c", CONFIRM.replace("&", "&amp;")]
    assert f"Open Acme:\n{APP}/o/7\n\nChange:\n{APP}/c\n\nConfirm without opening:" in digest.text
    assert "It comes &lt;soon&gt;." in digest.html
    assert f'<img src="{APP}/i.png" alt=""' in digest.html
    assert 'bgcolor="#ffd500"' in digest.html
    assert "Acme GmbH &lt;Berlin&gt;" in digest.html
    assert digest.text.endswith("Acme GmbH <Berlin>\nregistered\n")
    assert digest.faults == ()


def test_an_unsafe_link_is_left_out_and_told_and_the_mail_goes(renderer: Renderer) -> None:
    data = ORDER | {"url": "https://evil.example/x", "image": "https://evil.example/p.gif"}
    data |= {"actions": [{"label": "Pay", "url": "javascript:alert(1)"}]}
    counts = Counts()
    digest = renderer.digest(make_message(events=[make_event(1, "order_sent", data)]))
    assert "evil.example" not in digest.html + digest.text
    assert "javascript" not in digest.html + digest.text
    assert hrefs(digest.html)[0] == APP
    assert len(digest.faults) == 3
    assert counts.rise("delivery_message_faults_total", channel="email", kind="data") == 3


def test_a_failed_sign_in_says_when_where_and_which_device(renderer: Renderer) -> None:
    data = {
        "ip": "203.0.113.7",
        "location": {"city": "Berlin", "country": "Germany"},
        "device": "Firefox <on> Linux",
    }
    contact = {"time_zone": "Europe/Berlin"}
    digest = renderer.digest(
        make_message(events=[make_event(1, "auth_failed", data)], contact=contact)
    )
    for said in (
        "When: Sunday, 1 November 2026, 10:00:01 CET",
        "Where: Berlin, Germany",
        "IP address: 203.0.113.7",
        "Device: Firefox <on> Linux",
    ):
        assert said in digest.text
    assert "Firefox &lt;on&gt; Linux" in digest.html
    for malformed in ({"ip": 7, "device": [1], "location": {}}, {"device": ["a", None, "b"]}):
        renderer.digest(make_message(events=[make_event(1, "auth_failed", malformed)]))


def test_right_to_left_text_is_right_to_left(renderer: Renderer) -> None:
    events = [
        make_event(1, "agent_started", {"title": "123 שלום"}),
        make_event(2, "agent_completed", {"result": "- تأخر ثلاثة\n\nEnglish"}),
    ]
    html = renderer.digest(make_message(events=events)).html
    assert re.search(r'<h2[^>]* dir="rtl" align="right">123 שלום', html)
    assert re.search(r'<ul[^>]* dir="rtl"', html)
    assert re.search(r'<p[^>]* dir="ltr"[^>]*>English', html)


def test_a_language_written_from_right_to_left_turns_the_whole_mail(tmp_path: Path) -> None:
    (tmp_path / "ar").mkdir()
    (tmp_path / "ar/digest.words").write_text('{% set lang = "ar" %}')
    digest = Renderer(tmp_path).digest(make_message(contact={"locale": "ar-EG"}))
    assert '<html lang="ar" dir="rtl">' in digest.html
    assert digest.faults == ()  # sentences that it lacks are English


ANSWER = """# Late suppliers

**Northwind**, see [the list](https://app.example.org/o) or [more](https://evil.example/x):

1. `9` of 41
2. <script>alert(1)</script>
   - nested

| who | late |
|---|---|
| N | 9 |

> said

```
a  < b
```
![a chart](https://evil.example/p.gif) [x](javascript:alert(1)) <https://evil.example/y>"""


def test_markdown_is_rendered_safely_and_reads_well_as_text(renderer: Renderer) -> None:
    event = make_event(1, "agent_completed", {"result": ANSWER})
    digest = renderer.digest(make_message(events=[event]))
    for tag in ("<h3", "<strong>", "<ol", "<ul", "<table", "<blockquote", "<pre", "<code"):
        assert tag in digest.html
    assert f'href="{APP}/o"' in digest.html
    assert "<script" not in digest.html
    assert not any("evil" in url or "javascript" in url for url in hrefs(digest.html))
    assert digest.html.count("<img") == 1  # the logo
    said = [line.removeprefix("> ") for line in digest.text.splitlines() if line[:1] == ">"]
    for line in (
        "Late suppliers",
        f"Northwind, see the list ({APP}/o) or more (https://evil.example/x):",
        "1. 9 of 41",
        "2. <script>alert(1)</script>",
        "  - nested",
        "who | late",
        "N | 9",
        "> said",
        "    a  < b",
    ):
        assert line in said
    assert digest.subject.startswith("The agent finished: Late suppliers Northwind, see the list")


@pytest.mark.parametrize(
    "source",
    ["|a" * 1_000, "> " * 1_000, "[" * 2_000, "*a_" * 600, "- " * 900, "`" * 1_999, "<" * 99],
)
def test_hostile_markdown_costs_little(renderer: Renderer, source: str) -> None:
    event = make_event(1, "agent_completed", {"result": "\n".join([source] * 30)})
    digest = renderer.digest(make_message(events=[event]))
    assert len(digest.html.encode()) < 102_000
    written = write_markdown(markdown_source(source, 2_000, 40), lambda _: True)
    assert len(written.lines) < 2_100
    assert "\n" not in plain_text(source)


def own(folder: Path, files: dict[str, str], **options: Any) -> Renderer:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return Renderer(folder, brand=BRAND, **options)


def test_a_type_and_a_class_have_looks_of_their_own(tmp_path: Path) -> None:
    renderer = own(
        tmp_path,
        {
            "en/types/order_sent.html": '{% extends "digest.html" %}{% block content %}'
            "<p>{{ data.summary }} {{ data.items | length }}</p>{% endblock %}",
            "de/types/order_sent.subject": "Bestellung: {{ data.title }}",
            "types/order_sent.sms": "{{ brand.name }}: {{ data.title }} {{ confirm_url }}",
            "en/classes/orders.push": "From the class\n{{ event.type }}",
            "en/classes/orders.html": "the class's",
        },
    )
    data = ORDER | {"items": [1, 2]}
    event = make_event(1, "order_sent", data, event_class=EventClass("orders"))
    digest = renderer.digest(make_message(events=[event], contact={"locale": "de"}))
    assert "<p>It comes &lt;soon&gt;. 2</p>" in digest.html
    assert "Acme öffnen" in digest.html
    assert digest.subject == "Bestellung: Your order is on its way"
    assert renderer.sms(make_message(events=[event])) == f"Acme: {ORDER['title']} {CONFIRM}"
    assert renderer.push(make_message(events=[event])).title == "From the class"
    other = make_event(1, "order_lost", ORDER, event_class=EventClass("orders"))
    assert renderer.digest(make_message(events=[other])).html == "the class's\n"
    third = renderer.digest(make_message(events=[make_event(1, "note", ORDER)]))
    assert "Open Acme" in third.html
    both = renderer.digest(make_message(events=[event, make_event(2, run_id="run-8")], run_id=None))
    assert "What happened while you were away" in both.text


NO_END = "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}"
GROWS = (
    "{% set n = namespace(x='xxxxxxxx') %}{% for a in range(60) %}{% set n.x = n.x ~ n.x %}"
    "{% endfor %}"
)
CALLS = "{% macro f(n) %}{{ f(n + 1) }}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}"


BROKEN = [
    "{{ data.nothing.more }}",
    "{{ 1 / 0 }}",
    "{% if %}",
    "{{ nope }}",
    '{% extends "gone.html" %}',
    "{{ ''.__class__.__mro__ }}",
    NO_END,
    GROWS,
    CALLS,
    "{{ 'x' * 999999999 }}",
    "{{ 9 ** 9999999 }}",
    "{{ 'x' | center(999999999) }}",
    "{{ 'x'.ljust(999999999) }}",
    "{{ '%999999999d' % 1 }}",
    "{{ '%999999999d' | format(1) }}",
    "{{ '{:999999999}'.format(1) }}",
    "{{ '{:{}}'.format(1, 999999999) }}",
    "{% for a in range(999999999) %}{% endfor %}",
    "{{ lipsum(99999) }}",
    "{% for a in range(9000) %}" + "x" * 100 + "{% endfor %}",
]


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    files = {f"en/types/broken_{n}.html": text for n, text in enumerate(BROKEN)}
    return own(tmp_path_factory.mktemp("broken"), files)


@pytest.mark.parametrize("number", range(len(BROKEN)))
def test_a_look_that_fails_or_does_not_end_gives_way_and_is_told(
    broken: Renderer, number: int
) -> None:
    counts = Counts()
    event = make_event(1, f"broken_{number}", ORDER)
    digest = broken.digest(make_message(events=[event]))
    assert "Open Acme" in digest.html
    assert f"types/broken_{number}.html" in digest.faults[0]
    assert len(digest.faults[0]) <= 300
    assert counts.rise("delivery_message_faults_total", channel="email", kind="template") == 1


def test_looks_that_cannot_be_compiled_are_named_at_the_start(tmp_path: Path) -> None:
    files = {"en/types/a.html": "{% if %}", "types/b.htm": "x", "types/c.txt": "x"}
    broken, unused = own(tmp_path, files).faults
    assert "en/types/a.html" in broken
    assert "types/b.htm is not used" in unused


def test_an_alert_leads_to_an_event_and_says_what_stopped_it(renderer: Renderer) -> None:
    group = make_group(failures=(Failure("email", "550 no such\nuser", 2),))
    body = renderer.alert(group, event_url="https://delivery.example.org/#event=id-1").body
    assert "Stopped by email: 550 no such user (2 of 2)" in body
    assert "Look at one: https://delivery.example.org/#event=id-1" in body


VERIFY = "https://events.example.org/verify/token"


@pytest.mark.parametrize("locale", ["en", "de"])
def test_the_mail_that_asks_the_owner_of_an_address_has_the_brand(
    renderer: Renderer, locale: str
) -> None:
    message = make_message(verify_url=VERIFY, contact={"locale": locale})
    asked = renderer.digest(message)
    assert hrefs(asked.html) == [VERIFY, APP]
    for part in (
        '<img src="https://cdn.example.org/logo.png" alt="Acme"',
        'bgcolor="#ffd500"',
        "Acme GmbH &lt;Berlin&gt;",
        BRAND.dark_ink,
    ):
        assert part in asked.html
    assert asked.text.startswith("Acme\n\n")
    assert asked.text.endswith(f"{APP}\nAcme GmbH <Berlin>\nregistered\n")
    assert asked.text.count(VERIFY) == 1
    for text in (asked.text, renderer.sms(message), renderer.push(message).title):
        assert "Acme" in text
        assert "events.example.org" not in text.replace(VERIFY, "")
    plain = Renderer().digest(message)
    assert "events.example.org" in plain.text.replace(VERIFY, "")
    assert hrefs(plain.html) == [VERIFY]


def test_an_own_frame_that_loses_the_link_gives_way_to_the_default_one(tmp_path: Path) -> None:
    (tmp_path / "layout.html").write_text("<h1>{% block headline %}{% endblock %}</h1>")
    asked = Renderer(tmp_path, brand=BRAND).digest(make_message(verify_url=VERIFY))
    assert hrefs(asked.html) == [VERIFY, APP]
    assert asked.faults == ("template verify.html leaves out verify_url, which the mail is for",)


def test_a_template_of_an_earlier_release_may_still_say_host(tmp_path: Path) -> None:
    (tmp_path / "verify.html").write_text('{{ host }} <a href="{{ verify_url }}">')
    asked = Renderer(tmp_path, brand=BRAND).digest(make_message(verify_url=VERIFY))
    assert (asked.html, asked.faults) == (f'Acme <a href="{VERIFY}">\n', ())
