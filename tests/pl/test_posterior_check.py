"""The plot of a posterior check shows the numbers of its tables."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

import sc_vaenb
from sc_vaenb import pl
from sc_vaenb.pl._posterior_check import STATISTICS

PANELS = ["variance", "zeros", "depth", "detected", "correlation", "coverage", "pit"]


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def _checked(simulated, fast):
    adata = sc_vaenb.tl.vae(simulated, copy=True, **fast)
    options = {"n_samples": 10, "n_seeds": 1, "device": "cpu"}
    return sc_vaenb.tl.posterior_check(adata, likelihoods=("nb", "zinb", "poisson"), copy=True, **options)


@pytest.fixture
def checked(_checked):
    return _checked.copy()


def lines(ax):
    """Points of each line by its label."""
    return {line.get_label(): line.get_xydata() for line in ax.lines}


def test_genes_of_data_and_replicates_stand_beside_the_poisson_curve(checked, unchanged):
    with unchanged(checked):
        axes = pl.posterior_check(checked, show=False)
    assert sorted(axes) == sorted([*PANELS, "likelihoods"])
    genes = checked.uns["posterior_check"]["genes"]
    for name in ("variance", "zeros"):
        found = lines(axes[name])
        for label, suffix in (("data", ""), ("replicates", "_replicates")):
            expected = genes[[f"mean{suffix}", f"{name}{suffix}"]]
            expected = expected[(genes[f"mean{suffix}"] > 0) & ((genes[f"{name}{suffix}"] > 0) | (name == "zeros"))]
            np.testing.assert_allclose(found[label], expected)
        mean, curve = found["Poisson"].T
        np.testing.assert_allclose(curve, mean if name == "variance" else np.exp(-mean))
    assert axes["variance"].get_xscale() == axes["variance"].get_yscale() == "log"
    assert [text.get_text() for text in axes["zeros"].get_legend().get_texts()] == ["data", "replicates", "Poisson"]


@pytest.mark.parametrize(
    ("name", "table"), [("depth", "cells"), ("detected", "cells"), ("correlation", "correlations")]
)
def test_cells_and_pairs_are_drawn_against_the_diagonal(checked, name, table):
    ax = pl.posterior_check(checked, show=False)[name]
    points, diagonal = (line.get_xydata() for line in ax.lines)
    np.testing.assert_allclose(points, checked.uns["posterior_check"][table][[name, f"{name}_replicates"]])
    np.testing.assert_allclose(diagonal[:, 0], diagonal[:, 1])
    assert diagonal[0, 0] == points.min()
    assert diagonal[1, 1] == points.max()
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("data", "mean of the replicates")


def test_coverage_and_pit_are_those_of_the_tables(checked):
    record = checked.uns["posterior_check"]
    axes = pl.posterior_check(checked, show=False)
    found = lines(axes["coverage"])
    for name, row in record["coverage"].iterrows():
        expected = np.c_[[0.5, 0.8, 0.9, 0.95], row[["50%", "80%", "90%", "95%"]].astype(float)]
        np.testing.assert_allclose(found[STATISTICS[name][0]], expected)
    steps = {patch.get_label(): patch.get_data().values for patch in axes["pit"].patches}
    np.testing.assert_allclose(steps["all counts"], record["pit"]["count"] * 40)
    assert steps["counts expected ≥ 1"].mean() == pytest.approx(1)  # a density
    legend = axes["pit"].get_legend()
    assert legend.get_title().get_text().startswith("flat: as the model says")
    assert axes["pit"].get_xlabel() == "replicates below the count"


@pytest.mark.parametrize("has_likelihoods", [True, False])
@pytest.mark.parametrize("ncols", [1, 2, 3, 4, 5, 9])
def test_the_panels_fill_as_many_columns_as_asked_for(checked, ncols, has_likelihoods):
    if not has_likelihoods:
        del checked.uns["posterior_check"]["likelihoods"]
    axes = pl.posterior_check(checked, ncols=ncols, show=False)
    n_panels = len(PANELS) + has_likelihoods
    assert len(axes) == n_panels
    assert axes["pit"].get_subplotspec().get_gridspec().ncols == min(ncols, n_panels)
    assert axes["pit"].get_subplotspec().colspan.stop == min(ncols, n_panels)  # the last one ends at the right


def test_likelihoods_have_two_standard_errors_to_each_side(checked):
    table = checked.uns["posterior_check"]["likelihoods"]
    ax = pl.posterior_check(checked, show=False)["likelihoods"]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["zinb", "poisson"]
    others = table.drop("nb")
    (points,) = (line.get_xydata() for line in ax.lines if line.get_marker() == "o")
    np.testing.assert_allclose(points[:, 0], others["difference"])
    (bars,) = ax.collections
    widths = [np.ptp(segment[:, 0]) for segment in bars.get_segments()]
    np.testing.assert_allclose(widths, 4 * others["difference_se"])
    shown = [f"{row['difference']:+.2f} ± {row['difference_se']:.2f}" for _, row in others.iterrows()]
    assert [text.get_text() for text in ax.texts] == shown
    assert f"{table.loc['nb', 'log_likelihood']:,.1f}" in ax.get_title(loc="left")
    low, high = ax.get_xlim()
    assert low == -high
    assert high > (others["difference"].abs() + 2 * others["difference_se"]).max()


def test_without_likelihoods_there_is_no_such_panel_and_the_verdict_is_the_title(checked):
    del checked.uns["posterior_check"]["likelihoods"]
    figure = plt.figure()
    assert list(pl.posterior_check(checked, fig=figure, show=False)) == PANELS
    words = figure.get_suptitle().replace("\n", " ")
    assert words == checked.uns["posterior_check"]["verdict"].replace("\n", " ")


def test_no_check_is_refused(checked, refused):
    text = r"uns\['vae'\] holds no posterior check\. Run sc_vaenb\.tl\.posterior_check\(adata\) first"
    with refused(checked, KeyError, text):
        pl.posterior_check(checked, "vae")
    assert not plt.get_fignums()
