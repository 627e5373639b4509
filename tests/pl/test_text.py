"""Names from the data in figures: `$` is no mathematics, what no file may hold is marked, very long names are cut."""

import io
from xml.etree import ElementTree

import anndata as ad
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from sc_vaenb import pl
from sc_vaenb.pl._text import MAX_LETTERS, as_label, plain, two_decimals

NAMES = {
    "$\\frac$": "$\\frac$",
    "a $ b": "a $ b",
    "bell\x07\ud800": "bell\ufffd\ufffd",
    "two\nlines": "two lines",
    "_first": "\N{WORD JOINER}_first",
    "x" * 80: "x" * (MAX_LETTERS - 1) + "…",
}  # as they are in the data, and as they are drawn


def drawn():
    """The texts of the figure, read from its SVG, which fails where matplotlib's mathematics or XML does."""
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.fonttype": "none"}):
        plt.gcf().savefig(buffer, format="svg")
    plt.close("all")
    root = ElementTree.fromstring(buffer.getvalue())
    return ["".join(text.itertext()).strip() for text in root.iter("{http://www.w3.org/2000/svg}text")]


@pytest.fixture
def adata():
    rng = np.random.default_rng(0)
    names = pd.Categorical(list(NAMES) * 5)
    obs = pd.DataFrame({"type": names, "leiden_$pca": names}, index=[f"cell{i}" for i in range(len(names))])
    obs.insert(0, "pct $ mt\x07", rng.normal(size=len(names)))
    adata = ad.AnnData(rng.poisson(1.0, (len(names), 2)).astype(np.float32), obs=obs)
    adata.obsm["X_$pca"] = rng.normal(size=(len(names), 2))
    return adata


@pytest.mark.parametrize("name", NAMES)
def test_one_name(name):
    plt.figure().text(0, 0, as_label(name))
    assert drawn() == [NAMES[name]]


def test_other_texts_keep_their_lines():
    assert plain("5 $ and\n10 $\x00") == "5 \\$ and\n10 \\$\ufffd"


def test_embeddings(adata):
    pl.embedding(adata, "X_$pca", color=["type", "pct $ mt\x07"], show=False)
    texts = drawn()
    assert {"type", "X_$pca · type", "X_$pca · pct $ mt\ufffd", "pct $ mt\ufffd", *NAMES.values()} <= set(texts)


def test_confusions(adata):
    pl.confusion(adata, "leiden_$pca", "type", show=False)
    texts = drawn()
    assert all(texts.count(name) == 2 for name in NAMES.values())  # a row and a column


def test_numbers_of_tables_have_a_minus_sign_and_no_minus_zero():
    assert [two_decimals(x) for x in (0.126, -0.126, -0.004, 0.0)] == ["0.13", "\N{MINUS SIGN}0.13", "0.00", "0.00"]
