"""The page on the dimensions: rows in order, numbers as described, genes in words."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from sc_vaenb import pl


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def described():
    """Three dimensions, z1 before z0, z2 inactive; z1 goes with the type, z0 falls with the day."""
    names = ["z1", "z0", "z2"]
    about = pd.DataFrame({"variance": [0.6, 0.3, 0.001], "kl": [1.5, 1.0, 0.001], "active": [True, True, False]}, names)
    about["up"], about["down"] = ["A, B", "B, C", "C, D"], ["C, D", "A, D", "A, B"]
    association = pd.DataFrame(
        {
            "measure": ["eta2", "spearman", "eta2"],
            "z1": [0.9, 0.1, 0.02],
            "z0": [0.2, -0.8, 0.01],
            "z2": [0.0, 0.0, 0.0],
        },
        index=["type", "day", "batch"],
    )
    rng = np.random.default_rng(0)
    types = np.repeat(["T", "B", "NK"], [10, 20, 3])
    obs = pd.DataFrame({"type": types, "batch": "a"}, index=[f"cell{i}" for i in range(33)])
    adata = AnnData(np.ones((33, 4), np.float32), obs=obs)
    state = rng.normal(0, 0.1, (33, 3)).astype(np.float32)
    state[:, 1] += np.select([types == "T", types == "B"], [2, -2], 0)
    adata.obsm["X_vae_factors"] = state
    points = np.linspace(0, 1, 5)
    lines = np.stack([2 * points, points, 2.5 - points, 2 - 2 * points])
    adata.uns["vae_factors"] = {
        "dimensions": about,
        "association": association,
        "sweep": {
            "z": np.stack([np.linspace(-2, 2, 5), np.linspace(-1, 1, 5), np.linspace(-1, 1, 5)]),
            "genes": np.array([["A", "B", "C", "D"], ["B", "C", "A", "D"], ["C", "D", "A", "B"]], dtype=object),
            "log1p": np.stack([lines, lines / 2, lines / 4]),
        },
    }
    return adata


@pytest.fixture
def adata():
    return described()


def texts(ax):
    return [text.get_text() for text in ax.texts]


def test_rows_are_the_active_dimensions_with_their_numbers(adata, unchanged):
    with unchanged(adata):
        axes = pl.factors(adata, show=False)
    assert list(axes) == ["variance", "eta2", "spearman", "genes"]
    assert [tick.get_text() for tick in axes["variance"].get_yticklabels()] == ["z1", "z0"]
    assert [bar.get_width() for bar in axes["variance"].patches] == [0.6, 0.3]
    assert texts(axes["variance"]) == ["60.0 %", "30.0 %"]
    assert texts(axes["eta2"]) == ["0.90", "0.02", "0.20", "0.01"]
    assert [tick.get_text() for tick in axes["eta2"].get_xticklabels()] == ["type", "batch"]
    assert texts(axes["spearman"]) == ["0.10", "\N{MINUS SIGN}0.80"]
    assert texts(axes["genes"]) == ["▲ A, B\n▼ C, D", "▲ B, C\n▼ A, D"]
    assert axes["genes"].figure.get_suptitle() == "Latent dimensions of vae; 1 more are not shown"
    for ax in axes.values():
        assert ax.get_ylim() == (1.5, -0.5)


def test_colours_follow_the_numbers_and_text_can_be_read(adata):
    axes = pl.factors(adata, n_dimensions=3, show=False)
    rgba = axes["eta2"].images[0].get_array()
    light = rgba[..., :3] @ (0.299, 0.587, 0.114)
    assert light[0, 0] < light[1, 0] < light[2, 0]
    for text in axes["eta2"].texts:
        column, row = text.get_position()
        assert text.get_color() == ("white" if light[row, column] < 0.5 else "black")
    red, _, blue, _ = np.moveaxis(axes["spearman"].images[0].get_array(), -1, 0)
    assert blue[1, 0] > red[1, 0]  # negative
    assert red[0, 0] > blue[0, 0]
    assert "not shown" not in axes["genes"].figure.get_suptitle()


def test_without_covariates_there_are_no_tables(adata):
    record = adata.uns["vae_factors"]
    record["association"] = record["association"].iloc[:0]
    assert list(pl.factors(adata, show=False)) == ["variance", "genes"]


def test_everything_stays_on_the_page_and_apart(adata):
    figure = pl.factors(adata, show=False)["genes"].figure
    figure.draw_without_rendering()
    for ax in figure.axes:
        box = ax.get_tightbbox()
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1


@pytest.mark.parametrize(
    ("kwargs", "error", "text"),
    [
        (
            {"key": "no"},
            KeyError,
            r"uns\['no_factors'\] does not say .* uns has \['vae_factors'\].*factors\(adata, 'no'\)",
        ),
        (
            {"n_dimensions": 4},
            ValueError,
            r"n_dimensions=4 is not possible. The model in uns\['vae'\] has 3",
        ),
    ],
)
def test_what_cannot_be_drawn_is_refused(adata, refused, kwargs, error, text):
    with refused(adata, error, text):
        pl.factors(adata, show=False, **kwargs)
    assert not plt.get_fignums()
