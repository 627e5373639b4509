import threading

import pytest

from sc_vaenb.data.on_disk import prefetch


def test_items_come_in_order_made_by_one_other_thread():
    threads = []

    def items():
        for i in range(5):
            threads.append(threading.get_ident())
            yield i

    assert list(prefetch(items())) == [0, 1, 2, 3, 4]
    assert len(set(threads)) == 1
    assert threads[0] != threading.get_ident()


def test_the_next_item_is_made_while_one_is_in_use():
    made = threading.Event()

    def items():
        yield 0
        made.set()
        yield 1

    taken = prefetch(items())
    next(taken)
    assert made.wait(5)
    assert list(taken) == [1]


def test_an_error_reaches_who_waits_after_what_came_before_it():
    def items():
        yield 0
        raise ValueError("cell 'AAAC'")

    taken = prefetch(items())
    assert next(taken) == 0
    with pytest.raises(ValueError, match="cell 'AAAC'"):
        next(taken)


def test_a_thread_ends_with_who_stops_taking():
    before = threading.active_count()
    taken = prefetch(iter(range(100)))
    next(taken)
    taken.close()
    assert threading.active_count() == before
