"""What a client remembers."""

import pytest

from delivery.client.store import FileStore, MemoryStore
from delivery.testing import make_id


@pytest.fixture(params=["memory", "file"])
def store(request, tmp_path):
    return MemoryStore(3) if request.param == "memory" else FileStore(tmp_path / "cursor", 3)


def test_an_empty_store_has_no_cursor(store):
    assert store.cursor is None
    assert make_id(1) not in store


def test_the_cursor_is_what_was_handled_last(store):
    store.remember(make_id(1))
    store.remember(make_id(2))
    assert store.cursor == make_id(2)
    assert make_id(1) in store


def test_the_oldest_ids_are_forgotten(store):
    for number in range(20):
        store.remember(make_id(number))
    assert [number for number in range(20) if make_id(number) in store] == [17, 18, 19]


def test_a_file_is_read_again_in_order(tmp_path):
    first = FileStore(tmp_path / "cursor", 3)
    for number in range(10):
        first.remember(make_id(number))
    again = FileStore(tmp_path / "cursor", 3)  # the first one was killed and never closed
    assert again.cursor == make_id(9)
    assert make_id(7) in again
    assert make_id(6) not in again


def test_a_file_does_not_grow_for_ever(tmp_path):
    store = FileStore(tmp_path / "cursor", 3)
    for number in range(100):
        store.remember(make_id(number))
    assert len((tmp_path / "cursor").read_text().splitlines()) < 6
    assert store.cursor == make_id(99)


def test_a_line_cut_by_a_crash_is_no_id(tmp_path):
    path = tmp_path / "cursor"
    path.write_text(f"{make_id(1)}\n{make_id(2)[:20]}")
    store = FileStore(path, 3)
    assert store.cursor == make_id(1)
    store.remember(make_id(3))
    assert path.read_text().splitlines() == [make_id(1), make_id(3)]
