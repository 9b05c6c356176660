"""Markdown of an agent's answer, for the HTML part of a mail and for its text part.

Owns: what of Markdown a mail shows, and its look. Raw HTML stays the text that it is, pictures
become their description, and links lead to the application's origins only; another address stands
there as text, so that a reader sees where it would lead. Never does: parse Markdown itself.

Source: CommonMark 0.31, with tables and struck-out text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token

from delivery.transports.text import direction, one_line, printable

MAX_ADDRESS = 300
MAX_DEPTH = 8

_CODE = "padding:1px 4px;font-family:Menlo,Consolas,monospace;font-size:14px;"
_STYLES = {
    "p": "margin:0 0 10px;",
    "h3": "margin:14px 0 8px;font-size:17px;line-height:24px;font-weight:600;",
    "ul": "margin:0 0 10px;padding:0 22px;",
    "ol": "margin:0 0 10px;padding:0 22px;",
    "li": "margin:0 0 4px;",
    "blockquote": "margin:0 0 10px;padding:0 16px;font-style:italic;",
    "table": "margin:0 0 10px;border-collapse:collapse;",
    "th": "padding:4px 8px;border:1px solid #c6cedb;font-weight:600;",
    "td": "padding:4px 8px;border:1px solid #c6cedb;",
    "code": _CODE,
    "hr": "border:0;border-top:1px solid #c6cedb;",
}
_CLASSES = {"code": "code", "th": "cell", "td": "cell", "a": "link"}
_BLOCK = "margin:0 0 10px;padding:10px 12px;border-radius:6px;white-space:pre-wrap;"
_DIRECTED = ("p", "h3", "ul", "ol", "blockquote", "table")


@dataclass(frozen=True, slots=True)
class Written:
    """A text in both forms: HTML that holds no foreign markup, and plain lines."""

    html: str
    lines: tuple[str, ...]


def write_markdown(source: str, is_listed: Callable[[str], bool]) -> Written:
    """Markdown in both forms.

    Args:
        source: of at most a few thousand characters; see ``markdown_source``.
        is_listed: whether a link may lead to an address.
    """
    tokens = _parser.parse(source)
    for token in tokens:
        if token.children:
            token.children = _inline(token.children, is_listed)
    lines = _plain(tokens)
    _dress(tokens)
    html: str = _parser.renderer.render(tokens, _parser.options, {})
    return Written(html.strip(), lines)


def markdown_source(value: str, length: int, lines: int) -> str:
    """A text as printable lines that keep their indentation, cut after ``length`` characters."""
    kept: list[str] = []
    for raw in value.splitlines():
        line = printable(raw).rstrip()
        if not line and not (kept and kept[-1]):
            continue
        if length <= 0 or len(kept) == lines:
            kept.append("…")
            break
        if len(line) > length:
            indent = " " * min(len(line) - len(line.lstrip()), length - 1)
            line = indent + one_line(line, max(1, length - len(indent)))
        kept.append(line)
        length -= len(line)
    return "\n".join(kept).rstrip()


def plain_text(value: str) -> str:
    """Markdown as one plain line: the beginning of an answer in a subject or a text message."""
    written = write_markdown(markdown_source(value, 1_000, 20), lambda _: False)
    return " ".join(" ".join(written.lines).split())


def _fence(tokens: Sequence[Token], index: int, _options: Any, _env: Any) -> str:
    text = escape(tokens[index].content.rstrip("\n"))
    return f'<pre class="code" dir="ltr" style="{_BLOCK}{_CODE}">{text}</pre>\n'


def _made() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False, "breaks": True, "maxNesting": MAX_DEPTH})
    parser.enable(["table", "strikethrough"])
    parser.add_render_rule("fence", lambda _self, *given: _fence(*given))
    parser.add_render_rule("code_block", lambda _self, *given: _fence(*given))
    return parser


_parser = _made()


def _inline(children: Sequence[Token], is_listed: Callable[[str], bool]) -> list[Token]:
    """The tokens without pictures, and without links to addresses that are not listed."""
    kept: list[Token] = []
    opened: list[tuple[str, int, bool]] = []
    for token in children:
        if token.type == "image":
            kept.append(_text_token(token.content))
        elif token.type == "link_open":
            url = str(token.attrGet("href") or "")
            opened.append((url, len(kept), is_listed(url)))
            if opened[-1][2]:
                token.attrs = {"href": url}
                kept.append(token)
        elif token.type == "link_close" and opened:
            url, start, is_link = opened.pop()
            label = "".join(one.content for one in kept[start:])
            if is_link:
                token.meta = {"href": "" if label == url else url}
                kept.append(token)
            elif label not in (url, url.removeprefix("mailto:")):
                kept.append(_text_token(f" ({one_line(url, MAX_ADDRESS)})"))
        else:
            kept.append(token)
    return kept


def _text_token(content: str) -> Token:
    return Token("text", "", 0, content=content)


def _dress(tokens: Sequence[Token]) -> None:
    """Give each block its look and the direction of its own text."""
    following = ""
    for token in reversed(tokens):
        if token.type == "inline":
            following = token.content
        if token.type.startswith("heading"):
            token.tag = "h3"
        if token.nesting >= 0 and token.block:
            _style(token)
            if token.tag in _DIRECTED and token.nesting == 1:
                way = direction(following)
                token.attrSet("dir", way)
                if token.tag != "table":  # it would float
                    token.attrSet("align", "right" if way == "rtl" else "left")
        for child in token.children or ():
            if child.nesting >= 0:
                _style(child)


def _style(token: Token) -> None:
    if style := _STYLES.get(token.tag):
        token.attrSet("style", style + str(token.attrGet("style") or ""))
    if name := _CLASSES.get(token.tag):
        token.attrSet("class", name)


@dataclass(slots=True)
class _Writer:
    """Gathers plain lines; lists and quotes put their marks before them."""

    lines: list[str] = field(default_factory=list)
    lists: list[int | None] = field(default_factory=list)
    quotes: int = 0
    mark: str = ""

    def write(self, text: str) -> None:
        depth = max(0, len(self.lists) - 1)
        for line in text.split("\n"):
            before = "> " * self.quotes + "  " * depth
            self.lines.append((before + self.mark + line).rstrip())
            if self.mark:
                self.mark = " " * len(self.mark)

    def part(self) -> None:
        """One empty line between blocks; none within a list."""
        if self.lines and self.lines[-1] and not self.lists:
            self.lines.append("> " * self.quotes if self.quotes else "")

    def item(self) -> None:
        number = self.lists[-1] if self.lists else None
        self.mark = "- " if number is None else f"{number}. "
        if number is not None:
            self.lists[-1] = number + 1


def _plain(tokens: Sequence[Token]) -> tuple[str, ...]:
    writer = _Writer()
    cells: list[str] | None = None
    for token in tokens:
        match token.type:
            case "bullet_list_open" | "ordered_list_open":
                writer.part()
                start = int(token.attrGet("start") or 1) if token.tag == "ol" else None
                writer.lists.append(start)
            case "bullet_list_close" | "ordered_list_close":
                writer.lists.pop()
                writer.mark = ""
            case "list_item_open":
                writer.item()
            case "blockquote_open":
                writer.part()
                writer.quotes += 1
            case "blockquote_close":
                writer.quotes -= 1
            case "paragraph_open" | "heading_open" | "table_open":
                writer.part()
            case "tr_open":
                cells = []
            case "tr_close":
                writer.write(" | ".join(cells or ()))
                cells = None
            case "inline" if cells is not None:
                cells.append(" ".join(_words(token).split()))
            case "inline":
                writer.write("\n".join(one_line(s, 3_000) for s in _words(token).split("\n")))
            case "fence" | "code_block":
                writer.part()
                writer.write("\n".join("    " + s for s in token.content.rstrip("\n").split("\n")))
            case "hr":
                writer.part()
                writer.write("---")
    return tuple(writer.lines)


def _words(inline: Token) -> str:
    """The words of a line; an address stands behind the words that link to it."""
    found: list[str] = []
    for token in inline.children or ():
        if token.type in ("softbreak", "hardbreak"):
            found.append("\n")
        elif token.type == "link_close" and token.meta.get("href"):
            found.append(f" ({token.meta['href']})")
        else:
            found.append(token.content)
    return "".join(found)
