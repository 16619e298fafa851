import gc
from collections.abc import Iterator

import pytest

from bitzones.run import garbage


@pytest.fixture(autouse=True)
def _nothing_is_set_aside() -> Iterator[None]:
    """As in a new process: tests/conftest.py sets aside what tests import, and `bitzones collect` leaves the collector off."""
    gc.unfreeze()
    gc.enable()
    yield
    gc.freeze()


def test_nothing_is_looked_for_while_libraries_load():
    with garbage.suspended():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_a_caller_who_looks_for_no_garbage_is_not_made_to():
    gc.disable()
    try:
        with garbage.suspended():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_what_is_loaded_is_in_no_search_until_the_end():
    kept = [[] for _ in range(1000)]  # tracked by the collector
    with garbage.set_aside():
        assert gc.get_freeze_count() >= len(kept)
        assert not any(found is kept for found in gc.get_objects())
    assert gc.get_freeze_count() == 0
    assert any(found is kept for found in gc.get_objects())


def test_what_was_set_aside_for_good_stays_so():
    gc.freeze()
    with garbage.set_aside():
        pass
    assert gc.get_freeze_count() > 0
