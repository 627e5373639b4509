"""What every public function promises about the AnnData it is given, the session and the log: see `table.py`."""

from __future__ import annotations

import re
from functools import cache, partial

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pytest
import scanpy as sc

from sc_vaenb.report import _page
from sc_vaenb.report._figures import Figure
from sc_vaenb.tl import _counts

from . import table

WITH_COPY = [name for name in table.FUNCTIONS if "copy" in table.parameters(name)]
NEW_ANNDATA = ["tl.pseudobulk", "tl.sample"]  # these return one


def each(names):
    """Run a test for each of these functions; slow ones are marked."""
    slow = pytest.mark.slow
    return pytest.mark.parametrize("name", [pytest.param(n, marks=slow) if n in table.SLOW else n for n in names])


every_function = each(table.FUNCTIONS)
every_writer = each(WITH_COPY)
every_result = each([*WITH_COPY, *NEW_ANNDATA])


def umap(adata, *, key_added, **_):
    """In the place of a UMAP: as many coordinates, under the same keys."""
    adata.obsm[key_added] = np.random.default_rng(0).normal(size=(adata.n_obs, 2)).astype(np.float32)
    adata.uns[key_added] = {"params": {"a": 1.0, "b": 1.0}}


def draw(plot, *_, alt, caption, **__):
    """In the place of a figure of a page, which takes seconds."""
    return Figure(alt, caption, problem="not drawn")


@pytest.fixture(scope="module", autouse=True)
def _quick():
    """Fits, graphs, planes and pages are quick, because here only what is written counts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_counts, "default_steps", lambda *_: 5)
        patch.setattr(sc.pp, "neighbors", partial(sc.pp.neighbors, method="gauss"))  # umap-learn compiles for long
        patch.setattr(sc.tl, "umap", umap)
        patch.setattr(_page, "draw", draw)
        yield


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def whole(_quick):
    """An AnnData in which every function finds what it needs; not to be changed."""
    return table.small()


@pytest.fixture(scope="module")
def rows(whole, tmp_path_factory):
    return table.rows(whole, tmp_path_factory.mktemp("table"))


@pytest.fixture(scope="module")
def start(whole, rows):
    """The data without what a function writes."""
    return cache(lambda name: table.without(whole, rows[name].writes))


@pytest.fixture(scope="module")
def call(rows):
    def run(name, adata, **changes):
        show = {"show": False} if name.startswith("pl.") else {}
        return table.function(name)(adata, **rows[name].call | show | changes)

    return run


@pytest.fixture(scope="module")
def result(start, call):
    """What a call in place leaves and what it returns, and that as bytes."""

    @cache
    def make(name):
        adata = start(name).copy()
        returned = call(name, adata)
        return adata, returned, table.snapshot(adata)

    return make


def test_every_public_function_has_a_row_and_every_row_a_function(rows):
    assert sorted(rows) == sorted(table.FUNCTIONS)
    assert all(row.bad for row in rows.values())


# what is written


@every_function
def test_what_is_written_is_what_the_table_says(name, start, result, rows):
    adata, returned, after = result(name)
    assert table.written(table.snapshot(start(name)), after) == set(rows[name].writes.split())
    assert not adata.is_view
    if rows[name].writes:
        assert returned is None
    assert isinstance(returned, ad.AnnData) == (name in NEW_ANNDATA)
    assert (name in WITH_COPY) == bool(rows[name].writes)


@every_writer
def test_a_copy_has_the_results_and_the_original_stays(name, start, call, result, unchanged):
    original = start(name)
    with unchanged(original):
        copy = call(name, original, copy=True)
    assert table.differing(table.snapshot(copy), result(name)[2]) == set()


@every_result
def test_the_same_seed_gives_the_same_bits(name, start, call, result):
    adata = start(name).copy()
    assert table.snapshot(call(name, adata)) == table.snapshot(result(name)[1])
    assert table.differing(table.snapshot(adata), result(name)[2]) == set()


@each([name for name in table.FUNCTIONS if "rng" in table.parameters(name)])
def test_a_generator_is_a_seed(name, start, call):
    results = []
    for state in (3, 3):
        adata = start(name).copy()
        rng = np.random.default_rng(state)
        returned = call(name, adata, rng=rng)
        results.append(table.snapshot({"adata": adata, "returned": returned if name in NEW_ANNDATA else None}))
        assert rng.bit_generator.state != np.random.default_rng(state).bit_generator.state  # it was drawn from
    assert table.differing(results[0], results[1]) == set()


@every_function
def test_a_bad_call_is_refused_by_name_and_changes_nothing(name, start, call, rows, unchanged):
    adata = start(name).copy()
    for argument, value in rows[name].bad.items():
        said = f"{argument}|{re.escape(str(value))}"
        with unchanged(adata), pytest.raises((KeyError, OSError, TypeError, ValueError), match=said):
            call(name, adata, **{argument: value})


# views and files


@pytest.fixture(scope="module")
def on_disk(whole, tmp_path_factory):
    """A file with the counts of the data; what else they hold is small and stays in memory."""
    path = tmp_path_factory.mktemp("backed") / "a.h5ad"
    ad.AnnData(whole.X, obs=whole.obs, var=whole.var).write_h5ad(path)
    return path


@every_function
def test_a_view_gives_what_its_copy_gives_and_its_parent_stays(name, start, call, rows, result, unchanged):
    parent = start(name)[::-1, ::-1].copy()
    view = parent[::-1, ::-1]  # the cells and genes in the order of the copy
    with unchanged(parent):
        call(name, view)
    assert view.is_view == (not rows[name].writes)
    assert table.differing(table.snapshot(view), result(name)[2]) == set()


@every_function
def test_a_backed_anndata_gives_what_one_in_memory_gives(name, start, call, rows, result, on_disk):
    backed = ad.read_h5ad(on_disk, backed="r")
    rest = start(name).copy()
    backed.obs = rest.obs
    for slot in ("uns", "obsm", "varm", "obsp", "layers"):
        parts = getattr(rest, slot).items()
        getattr(backed, slot).update({key: part for key, part in parts if key is not None})  # anndata 0.13: X as None
    try:
        if name in WITH_COPY:
            before = table.snapshot(backed)  # the file is only read
            for adata, options in ((backed, {"copy": True}), (backed[10:70], {})):
                with pytest.raises(ValueError, match=r"backed by a file, .* Call adata\.to_memory\(\) first"):
                    call(name, adata, **options)
            assert table.snapshot(backed) == before
        returned = call(name, backed)
        if name in NEW_ANNDATA:
            assert table.snapshot(returned) == table.snapshot(result(name)[1])
        expected = table.snapshot(table.without(result(name)[0], rows[name].in_memory))
        assert table.differing(table.snapshot(backed), expected) == set()
        assert backed.isbacked
    finally:
        backed.file.close()


@pytest.mark.filterwarnings("ignore:Writing zarr v2", "ignore::UserWarning:zarr")
@pytest.mark.parametrize("kind", ["h5ad", pytest.param("zarr", marks=pytest.mark.slow)])
@every_result
def test_results_survive_a_file(name, kind, rows, result, tmp_path):
    adata, returned, _ = result(name)
    adata = table.only(adata, rows[name].writes) if returned is None else returned
    path = tmp_path / f"a.{kind}"
    getattr(adata, f"write_{kind}")(path)
    assert table.differing(table.snapshot(adata), table.snapshot(getattr(ad, f"read_{kind}")(path))) == set()


# the session and the log


@every_function
def test_the_session_stays_as_it_is(name, start, call):
    adata = start(name).copy()
    before = table.session()
    call(name, adata)
    after = table.session()
    assert {part for part in before if after[part] != before[part]} == set()


@every_result
def test_the_log_says_what_is_done_and_what_was_added(name, start, call, rows, log):
    adata = start(name).copy()
    sc.settings.verbosity = "info"
    call(name, adata)
    assert log.getvalue().strip()
    sc.settings.verbosity = "hint"
    call(name, start(name).copy())
    if keys := [place.partition("/")[2] for place in rows[name].writes.split()]:
        assert any(f"{key!r}" in log.getvalue() for key in keys)
