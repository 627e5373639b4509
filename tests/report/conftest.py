"""A comparison whose names try to break out of a page, and ways to read a page."""

from __future__ import annotations

from functools import partial
from html.parser import HTMLParser

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import sc_vaenb
from sc_vaenb.report import _page
from sc_vaenb.report._figures import Figure
from sc_vaenb.tl import _graph, _runs

BATCHES = ["<script>alert(1)</script>", 'a & b "c"']
TYPES = ["T </td>", "B 'x' " + 60 * "y", "{{ 7 * 7 }}"]
ERROR = "no <img src=x onerror=alert(1)> today"


@pytest.fixture(scope="session")
def hostile():
    """A comparison with two seeds, a variant and a method that failed; not to be changed."""
    adata = sc_vaenb.datasets.simulate(200, 80, n_types=3, n_batches=2, mean_depth=500, rng=0)
    adata.obs["batch"] = adata.obs["batch"].cat.rename_categories(BATCHES)
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.rename_categories(TYPES)
    sc_vaenb.pp.prepare(adata, "batch")

    with pytest.MonkeyPatch.context() as patch:
        quick(patch)
        patch.setattr(_runs, "harmony", fails)
        variants = {"<i>wide": {"hidden": (32,), "decoder_hidden": (8,)}}
        sc_vaenb.tl.compare(adata, "batch", label_key="cell_type", n_seeds=2, variants=variants, device="cpu")
    return adata


def fails(*_, **__):
    raise RuntimeError(ERROR)


def quick(patch):
    """Models of a tenth of a second, as in the tests of tl.compare, and graphs and planes that need no compiler."""

    def umap(adata, *, key_added, **_):
        adata.obsm[key_added] = np.random.default_rng(0).normal(size=(adata.n_obs, 2))

    patch.setattr(_graph.sc.tl, "umap", umap)
    patch.setattr(_graph.sc.pp, "neighbors", partial(_graph.sc.pp.neighbors, method="gauss"))
    for name in ("vae", "cvae"):
        for parameter, value in {"n_latent": 4, "hidden": (16,), "n_steps": 20}.items():
            patch.setitem(getattr(_runs, name).__kwdefaults__, parameter, value)


@pytest.fixture
def compared(hostile):
    return hostile.copy()


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture
def undrawn(monkeypatch):
    """Pages with the names of the plots in the place of the plots, which take seconds."""

    def draw(plot, *_, alt, caption, **__):
        name = plot.func.__name__ if isinstance(plot, partial) else plot.__name__
        return Figure(alt, caption, problem=f"not drawn: {name}")

    monkeypatch.setattr(_page, "draw", draw)


class Page(HTMLParser):
    """The tags of a page, each with its attributes and all the text within it; fails where tags do not match."""

    ALONE = frozenset({"meta", "img"})

    def __init__(self, html):
        super().__init__()
        self.tags, self.open = [], []
        self.feed(html)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        found = {"tag": tag, "text": "", **dict(attrs)}
        self.tags.append(found)
        if tag not in self.ALONE:
            self.open.append(found)

    def handle_endtag(self, tag):
        last = self.open.pop()
        assert last["tag"] == tag, f"</{tag}> closes <{last['tag']}>"

    def handle_data(self, data):
        for tag in self.open:
            tag["text"] += data

    def all(self, tag, **attributes):
        return [t for t in self.tags if t["tag"] == tag and attributes.items() <= t.items()]

    def texts(self, tag, **attributes):
        return [" ".join(t["text"].split()) for t in self.all(tag, **attributes)]

    def tables(self):
        """The body rows of each table, the header of the row first."""
        tables = []
        for t in self.tags:
            if t["tag"] == "table":
                tables.append([])
            elif t["tag"] == "th" and t.get("scope") == "row":
                tables[-1].append([t["text"]])
            elif t["tag"] == "td" and tables and tables[-1]:
                tables[-1][-1].append(t["text"])
        return tables


@pytest.fixture
def read():
    """From a file to a page that can be asked."""
    return lambda path: Page(path.read_text(encoding="utf-8"))


@pytest.fixture
def record():
    """A comparison of numbers that were chosen: PCA, CVAE of two seeds, and Harmony."""
    values = pd.DataFrame(
        {
            "nmi": [0.9, 0.70, 0.72, 0.8], "same_batch_share": [0.8, 0.5, 0.5, 0.4],
            "same_batch_excess": [0.4, -0.2, -0.1, -0.01], "neighborhood_overlap": [1.0, 0.5, 0.6, 0.7],
            "private_kept": float("nan"), "bio": [0.9, 0.70, 0.72, 0.8], "batch": [0.1, 0.5, 0.5, 0.3],
            "total": [0.58, 0.62, 0.632, 0.6], "seconds": [1.0, 2.0, 3.0, 4.0],
        },
        index=pd.Index(["X_pca", "X_cvae", "X_cvae_seed1", "X_pca_harmony"], name="embedding"),
    )  # fmt: skip
    metrics = pd.DataFrame(
        {
            "kind": ["bio", "batch", "batch", "overcorrection", "overcorrection"],
            "higher_is_better": [True, False, False, True, True],
            "in_total": [True, False, False, False, False],
        },
        index=["nmi", "same_batch_share", "same_batch_excess", "neighborhood_overlap", "private_kept"],
    )
    methods = pd.DataFrame(
        {"method": ["PCA", "CVAE", "CVAE", "Harmony"], "seed": [0, 0, 1, 0], "embedding": values.index,
         "seconds": [0.25, 12.0, 14.0, 0.5]}
    )  # fmt: skip
    params = {"reference": "X_pca", "n_cells": 40, "max_cells": 100}
    return {
        "scores": {"values": values, "metrics": metrics, "params": params},
        "methods": methods,
        "verdict": "Best by the total score, 0.6 bio + 0.4 batch: CVAE (0.626).\nTake it.",
        "params": {"batch_key": "batch", "label_key": "cell_type", "n_seeds": 2, "resolution": 1.0, "rng": 0},
        "failed": {},
    }
