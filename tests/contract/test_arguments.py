"""Odd arguments and odd data in every public function: an error of ours that names them, and nothing has changed.

The table of calls, odd values and odd data is that of `benchmarks/attack/calls.py`, which makes all of them.
"""

import importlib.util
import inspect
import warnings
from pathlib import Path

import pytest

from sc_vaenb import datasets, metrics, pl, pp, report, tl

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "attack" / "calls.py"
spec = importlib.util.spec_from_file_location("calls", SCRIPT)
calls = importlib.util.module_from_spec(spec)
spec.loader.exec_module(calls)

GOOD = {"returned", "refused"}
# what is slow even on small data, and what costs a fit for each value that is possible
LONG = {"tl.compare", "tl.tune", "pl.compare", "report.write", "tl.posterior_check", "datasets.demo", "pl.tune"}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("calls")
    adata = calls.small(whole=False)
    return adata, calls.calls(adata, folder)


@pytest.fixture(scope="module")
def odd_data(small):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that are there twice
        return calls.data(small[0], names=False)


def test_the_table_has_every_public_function(small):
    parts = {"pp": pp, "tl": tl, "pl": pl, "report": report, "datasets": datasets, "metrics": metrics}
    public = {f"{part}.{name}" for part, module in parts.items() for name in module.__all__}
    public -= {f"metrics.{name}" for name in ("METRICS", "RESOLUTIONS", "Case", "ClusterScore", "Metric", "Mixing")}
    public -= {f"metrics.{name}" for name in ("BIO_WEIGHTS", "READINGS", "SCIB")}
    assert set(small[1]) == public - {"metrics.Neighbors"}


IMPOSSIBLE = ("[None]", "object()", "bytes", "set", "nan")  # of no argument but arrays, labels and free texts


@pytest.mark.parametrize("part", ["pp", "tl", "pl", "report", "datasets", "metrics"])
def test_impossible_values_are_refused_by_the_name_of_the_argument(small, part):
    adata, table = small
    n = 0
    for name, base in table.items():
        if not name.startswith(part):
            continue
        for argument in inspect.signature(calls.function_of(name)).parameters:
            for label in IMPOSSIBLE:
                value = calls.values(adata)[label]
                arguments = base | {argument: value} | ({"show": False} if part == "pl" and argument != "show" else {})
                end, said = calls.call(name, arguments, None, (argument,))
                assert end == "refused", f"{name}({argument}={label}) {end}: {said}"
                n += 1
    assert n >= 5


@pytest.mark.slow
@pytest.mark.parametrize("odd", ["12 cells", "1 gene", "obs columns twice"])
def test_odd_data_end_in_a_result_or_in_an_error_of_ours(small, odd_data, odd):
    for name, base in small[1].items():
        if "adata" in base and name not in LONG:
            new = odd_data[odd].copy()
            end, said = calls.call(name, base | {"adata": new} | ({"show": False} if name[:3] == "pl." else {}), new)
            assert end in GOOD, f"{name} with {odd} {end}: {said}"
