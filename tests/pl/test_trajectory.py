"""Expression along time: dots are samples, the line is their mean, bars are the interval of that mean."""

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy.stats import t

from sc_vaenb import pl


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture
def adata():
    """Time 0 in captures a, b and c, time 2 in d; two cells each."""
    obs = pd.DataFrame({"time": [0.0] * 6 + [2.0] * 2, "capture": list("aabbccdd")}, index=[f"c{i}" for i in range(8)])
    adata = ad.AnnData(np.ones((8, 2), np.float32), obs=obs, var=pd.DataFrame(index=["up", "flat"]))
    adata.layers["normalized"] = np.array([[0, 2, 3, 3, 4, 6, 8, 10], [7] * 8], np.float32).T
    return adata


def drawn(ax):
    """Dots, the line, and the bars, each as (x, y) or (x, low, high)."""
    dots, bars = ax.collections
    (line,) = ax.lines
    ends = [(segment[0, 0], *segment[:, 1]) for segment in bars.get_segments()]
    return dots.get_offsets().tolist(), line.get_xydata().tolist(), ends


def test_samples_are_dots_and_their_mean_has_the_interval_of_a_t_test(adata, unchanged):
    with unchanged(adata):
        up, flat = pl.trajectory(adata, ["up", "flat"], "time", sample_key="capture", show=False)
    dots, line, bars = drawn(up)
    assert dots == [[0, 1], [0, 3], [0, 5], [2, 9]]
    assert line == [[0, 3], [2, 9]]
    half = t.ppf(0.975, 2) * 2 / np.sqrt(3)
    assert bars == [(0, 0, pytest.approx(3 + half))]  # one sample has no interval, and none is below 0
    assert half > 3
    assert drawn(flat)[2] == [(0, 7, 7)]
    assert [ax.get_title() for ax in (up, flat)] == ["up", "flat"]
    assert up.figure.get_suptitle().startswith("dots: one capture each; line: their mean; bars: its 95 %")
    assert (up.get_xlabel(), up.get_ylabel(), flat.get_ylabel()) == ("time", "normalized", "")


def test_cells_of_a_pseudotime_are_in_groups_of_equal_size(adata):
    adata.obs["pseudotime"] = np.linspace(0, 0.7, 8)[::-1]
    (ax,) = pl.trajectory(adata, "up", "pseudotime", sample_key="capture", n_points=2, show=False)
    dots, line, _ = drawn(ax)
    np.testing.assert_allclose(line, [[0.15, np.mean([5, 9])], [0.55, np.mean([1, 3])]])
    assert len(dots) == 4


def test_a_table_in_obsm_and_times_as_categories(adata):
    adata.obsm["table"] = pd.DataFrame({"up": adata.layers["normalized"][:, 0]}, index=adata.obs_names)
    adata.obs["day"] = pd.Categorical(adata.obs["time"].astype(int).astype(str))
    (ax,) = pl.trajectory(adata, "up", "day", sample_key="capture", layer="table", show=False)
    assert drawn(ax)[1] == [[0, 3], [2, 9]]


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"genes": "no"}, KeyError, r"there is no 'no' in layers\['normalized'\] or obsm\['normalized'\]"),
        ({"layer": "no"}, KeyError, r"there is no 'up' in layers\['no'\].*Layers are \['normalized'\]"),
        ({"time_key": "capture"}, ValueError, r"obs\['capture'\] is not a finite number for 8 cells \(first: 'c0'"),
        ({"time_key": "gap"}, ValueError, r"obs\['gap'\] is not a finite number for 1 cells \(first: 'c3', 'inf'\)"),
        ({"sample_key": "no"}, KeyError, "sample_key='no' is not in adata.obs"),
    ],
)
def test_what_cannot_be_drawn_is_refused(adata, refused, arguments, error, text):
    adata.obs["gap"] = adata.obs["time"].where(adata.obs_names != "c3", np.inf)
    with refused(adata, error, text):
        pl.trajectory(adata, **{"genes": "up", "time_key": "time", "sample_key": "capture"} | arguments)
