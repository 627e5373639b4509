"""The data of the table and its rows, made once; fits and plots are quick, because here only what is written counts."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from sc_vaenb.report import _page
from sc_vaenb.report._figures import Figure
from sc_vaenb.tl import _counts, _graph

from . import table


def umap(adata, *, key_added, **_):
    """In the place of a UMAP: as many coordinates, under the same keys."""
    adata.obsm[key_added] = np.random.default_rng(0).normal(size=(adata.n_obs, 2)).astype(np.float32)
    adata.uns[key_added] = {"params": {"a": 1.0, "b": 1.0}}


def draw(plot, *_, alt, caption, **__):
    """In the place of a figure of a page, which takes seconds."""
    return Figure(alt, caption, problem="not drawn")


@pytest.fixture(scope="package", autouse=True)
def _quick():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_counts, "default_steps", lambda *_: 5)
        patch.setattr(_graph.sc.tl, "umap", umap)
        patch.setattr(_page, "draw", draw)
        yield


@pytest.fixture(scope="package")
def whole(_quick):
    """An AnnData in which every function finds what it needs; not to be changed."""
    return table.small()


@pytest.fixture(scope="package")
def rows(whole, tmp_path_factory):
    return table.rows(whole, tmp_path_factory.mktemp("table"))


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")
