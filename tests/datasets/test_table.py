"""The fast way of reading numbers; what the tables may look like is tested with `hcc`."""

import numpy as np
import pytest

from sc_vaenb.datasets import _table


@pytest.mark.parametrize("numbers", [[0] * 9, [0, 0, 10, 100, 7, 0, 999_999_999, 90, 1], [5], [0], [123, 0]])
def test_digits_are_read_as_python_reads_them(numbers):
    line = b"GENE 10-\t" + b"\t".join(str(number).encode() for number in numbers)
    which, value = _table._digits(line)
    assert which.tolist() == np.flatnonzero(numbers).tolist()
    assert value.tolist() == [number for number in numbers if number]


@pytest.mark.parametrize("fields", [b"01", b"00", b"1.0", b"-1", b"", b"1\t", b"\t1", b"1 ", b"1000000000", b"0x"])
def test_whatever_is_not_plain_digits_is_left_to_the_slow_way(fields):
    assert _table._digits(b"GENE\t0\t" + fields) is None
    assert _table._digits(b"GENE\t12\t" + fields) is None


def test_the_fast_and_the_slow_way_agree():
    rng = np.random.default_rng(0)
    counts = rng.poisson(10 ** rng.uniform(-2, 7, 5000))
    cells = [f"cell_{i}" for i in range(len(counts))]
    line = b"GENE\t" + b"\t".join(str(count).encode() for count in counts)
    assert _table._digits(line) is not None
    assert _table._digits(line + b".0") is None
    for text in (line, line + b".0"):
        gene, which, value = _table._parse(text, cells, "counts.txt")
        assert gene == "GENE"
        assert which.tolist() == np.flatnonzero(counts).tolist()
        assert value.tolist() == counts[counts > 0].tolist()
