"""The docs' pictures: each has a text in its place, and none is too big."""

import re
import struct
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "pictures"
SHOWN = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)")
MOVING = 1_500_000
STILL = 250_000


def shown() -> list[tuple[Path, str]]:
    """Each picture that a page shows, and its words."""
    pages = (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
    return [
        ((page.parent / target).resolve(), words)
        for page in pages
        for words, target in SHOWN.findall(page.read_text())
        if "://" not in target
    ]


def test_every_picture_is_shown_and_every_shown_one_is_there() -> None:
    files = {path for path in FOLDER.iterdir() if path.suffix in (".png", ".webp")}
    assert {path for path, _ in shown()} == files


def test_every_picture_says_what_is_to_be_seen() -> None:
    assert [path.name for path, words in shown() if len(words.split()) < 4] == []


def test_pictures_load_quickly() -> None:
    for path, _ in shown():
        assert path.stat().st_size < (MOVING if path.suffix == ".webp" else STILL), path.name


def test_the_tour_moves_and_begins_anew() -> None:
    film = (FOLDER / "tour.webp").read_bytes()
    assert film[:4] == b"RIFF"
    assert struct.unpack_from("<I", film, 4)[0] == len(film) - 8
    assert film[8:16] == b"WEBPVP8X"
    at, frames = 12, []
    while at < len(film):
        length = struct.unpack_from("<I", film, at + 4)[0]
        if film[at : at + 4] == b"ANIM":
            assert struct.unpack_from("<H", film, at + 12)[0] == 0  # for ever
        if film[at : at + 4] == b"ANMF":
            frames.append(int.from_bytes(film[at + 20 : at + 23], "little"))
        at += 8 + length + length % 2
    assert len(frames) > 10
    assert 15_000 < sum(frames) < 60_000
