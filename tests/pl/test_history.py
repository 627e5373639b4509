"""The history plot shows the recorded numbers, marks the step that was kept and says how the fit ended."""

import copy

import anndata as ad
import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import scanpy as sc
from matplotlib.colors import same_color

from sc_vaenb import pl

PANELS = ["loss", "reconstruction", "kl", "learning_rate", "active_units", "kl_per_dim"]


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def fitted(n=21, *, first=5000.0, validation=True, status="converged", collapse=False):
    """Cells with the record of ``n`` evaluations, 100 steps and two epochs apart; the last but one was kept."""
    t = np.linspace(0, 1, n)
    reconstruction, kl, beta = 1000 + 50 * (1 - t), 20 * t, np.minimum(1, 2 * t)
    reconstruction[:1] = first
    history = {
        "step": 100 * np.arange(n),
        "epoch": 2.0 * np.arange(n),
        "beta": beta,
        "learning_rate": 1e-3 * (1 - t),
        "seconds": 0.5 * np.arange(n),
        "train_loss": reconstruction + beta * kl,
        "train_reconstruction": reconstruction,
        "train_kl": kl,
        "kl_per_dim": np.outer(kl, [0.7, 0.0, 0.3]),
        "active_units": np.full(n, 2),
    }
    shift = 7 + np.where(np.arange(n) == n - 2, -5, 0) if validation else np.nan
    history |= {f"validation_{name}": history[f"train_{name}"] + shift for name in ("loss", "reconstruction", "kl")}
    verdict = {
        "status": status,
        "posterior_collapse": collapse,
        "best_step": 100,
        "kept_step": 100 * max(n - 2, 0),
        "message": "The loss is flat.",
    }
    adata = ad.AnnData(np.zeros((3, 2), np.float32))
    adata.uns["vae"] = {"params": {}, "history": history, "verdict": verdict, "model": {}}
    return adata


def by_label(ax):
    return {line.get_label(): line for line in ax.lines}


def test_curves_are_the_recorded_numbers():
    adata = fitted()
    record = adata.uns["vae"]["history"]
    axes = pl.history(adata, show=False)
    assert list(axes) == PANELS
    for name in ("loss", "reconstruction", "kl"):
        for split in ("train", "validation"):
            np.testing.assert_array_equal(by_label(axes[name])[split].get_xdata(), record["step"])
            np.testing.assert_array_equal(by_label(axes[name])[split].get_ydata(), record[f"{split}_{name}"])
    np.testing.assert_array_equal(axes["learning_rate"].lines[0].get_ydata(), record["learning_rate"])
    np.testing.assert_array_equal(axes["active_units"].lines[0].get_ydata(), record["active_units"])
    twin = next(ax for ax in axes["kl"].figure.axes if ax.get_ylabel().startswith("β"))
    np.testing.assert_array_equal(twin.lines[0].get_ydata(), record["beta"])
    shown = {tuple(line.get_ydata()) for line in axes["kl_per_dim"].lines if len(line.get_ydata()) == 21}
    assert shown == {tuple(column) for column in record["kl_per_dim"].T}


@pytest.mark.parametrize("ncols", [1, 2, 4, 6, 9])
def test_panels_go_on_below_and_each_column_names_its_steps(ncols):
    axes = pl.history(fitted(), ncols=ncols, show=False)
    figure = axes["loss"].figure
    figure.draw_without_rendering()
    assert list(axes) == PANELS
    boxes = [ax.get_window_extent() for ax in axes.values()]
    assert len({round(box.x0) for box in boxes}) == min(ncols, 6)
    assert figure.get_figwidth() == 2.5 * min(ncols, 6)
    for ax, box in zip(axes.values(), boxes, strict=True):
        is_lowest = not any(other.y1 < box.y0 and round(other.x0) == round(box.x0) for other in boxes)
        is_highest = not any(other.y0 > box.y1 for other in boxes)
        assert (ax.get_xlabel() == "step") == is_lowest
        assert any(label.get_visible() and label.get_text() for label in ax.get_xticklabels()) == is_lowest
        assert bool(ax.child_axes) == is_highest  # the epochs


def test_train_and_validation_differ_in_colour_and_are_explained():
    axes = pl.history(fitted(), show=False)
    lines = by_label(axes["loss"])
    assert not same_color(lines["train"].get_color(), lines["validation"].get_color())
    (legend,) = axes["loss"].figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["train", "validation", "weights of step 1,900"]


def test_the_step_that_was_kept_is_marked():
    adata = fitted()
    axes = pl.history(adata, show=False)
    for ax in axes.values():
        assert list(by_label(ax)["weights of step 1,900"].get_xdata()) == [1900, 1900]
    for name in ("loss", "reconstruction", "kl"):
        (point,) = [line for line in axes[name].lines if line.get_marker() == "o"]
        assert point.get_xdata() == [1900]
        assert point.get_ydata() == pytest.approx([adata.uns["vae"]["history"][f"validation_{name}"][-2]])


def test_end_stays_readable_and_the_cut_is_said():
    axes = pl.history(fitted(first=5000), show=False)
    low, high = axes["loss"].get_ylim()
    record = fitted().uns["vae"]["history"]
    assert low < min(record["train_loss"])
    assert max(record["validation_loss"][5:]) < high < 1100
    assert [text.get_text() for text in axes["loss"].texts] == ["first steps off scale,\nup to 5,007"]


def test_nothing_is_cut_when_all_fits():
    axes = pl.history(fitted(first=1050), show=False)
    assert not axes["loss"].texts
    low, high = axes["loss"].get_ylim()
    record = fitted(first=1050).uns["vae"]["history"]
    assert low < min(record["train_loss"])
    assert high > max(record["validation_loss"])


def test_a_late_spike_is_not_hidden():
    adata = fitted(first=1050)
    adata.uns["vae"]["history"]["train_loss"][-3] = 9000
    assert pl.history(adata, show=False)["loss"].get_ylim()[1] > 9000


@pytest.mark.parametrize("absent", [False, True])
def test_without_validation_the_training_curve_carries_the_mark(absent):
    adata = fitted(validation=False)
    history = adata.uns["vae"]["history"]
    if absent:
        for name in ("loss", "reconstruction", "kl"):
            del history[f"validation_{name}"]
    axes = pl.history(adata, show=False)
    assert "validation" not in by_label(axes["loss"])
    (point,) = [line for line in axes["loss"].lines if line.get_marker() == "o"]
    assert point.get_ydata() == pytest.approx([history["train_loss"][-2]])


def test_gaps_in_the_validation_curve_are_bridged():
    adata = fitted()
    adata.uns["vae"]["history"]["validation_loss"][1::2] = np.nan
    line = by_label(pl.history(adata, show=False)["loss"])["validation"]
    np.testing.assert_array_equal(line.get_xdata(), 200 * np.arange(11))


def test_without_kl_per_dim_the_panel_says_so():
    adata = fitted()
    adata.uns["vae"]["history"]["kl_per_dim"][:] = np.nan
    assert [text.get_text() for text in pl.history(adata, show=False)["kl_per_dim"].texts] == ["not recorded"]


@pytest.mark.parametrize(
    ("status", "collapse", "headline"),
    [
        ("converged", False, "vae: converged · 2,000 steps · 40 epochs · 10 s"),
        ("still_improving", True, "vae: still improving · posterior collapse · 2,000 steps · 40 epochs · 10 s"),
    ],
)
def test_title_is_the_verdict(status, collapse, headline):
    axes = pl.history(fitted(status=status, collapse=collapse), show=False)
    assert axes["loss"].figure.get_suptitle() == f"{headline}\nThe loss is flat."


@pytest.mark.slow
def test_epochs_are_on_top():
    axes = pl.history(fitted(), show=False)
    (top,) = axes["loss"].child_axes
    axes["loss"].figure.draw_without_rendering()
    assert top.get_xlabel() == "epoch"
    assert np.asarray(top.get_xlim()) == pytest.approx(np.asarray(axes["loss"].get_xlim()) / 50)
    assert axes["learning_rate"].get_xlabel() == "step"


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 2])
def test_short_fits_can_be_drawn(n):
    axes = pl.history(fitted(n), show=False)
    axes["loss"].figure.draw_without_rendering()
    assert len(by_label(axes["loss"])["train"].get_xdata()) == n


def test_nothing_recorded():
    with pytest.raises(ValueError, match=r"uns\['vae'\] ended before its first evaluation"):
        pl.history(fitted(0), show=False)


def test_a_record_from_disk_gives_the_same_figure(tmp_path):
    adata = fitted()
    adata.write_h5ad(tmp_path / "fit.h5ad")
    again = pl.history(ad.read_h5ad(tmp_path / "fit.h5ad"), show=False)
    axes = pl.history(adata, show=False)
    assert again["loss"].figure.get_suptitle() == axes["loss"].figure.get_suptitle()
    for name in PANELS:
        assert again[name].get_ylim() == axes[name].get_ylim()


def test_draws_into_a_subfigure():
    figure = plt.figure()
    left, right = figure.subfigures(1, 2)
    axes = pl.history(fitted(), fig=right, show=False)
    assert all(ax.get_figure(root=False) is right for ax in axes.values())
    assert not left.axes
    assert plt.get_fignums() == [figure.number]


def test_show_follows_the_argument_then_scanpy(monkeypatch):
    shows, before = [], sc.settings.autoshow
    monkeypatch.setattr(plt, "show", lambda: shows.append(1))
    assert pl.history(fitted(), show=True) is None
    try:
        sc.settings.autoshow = True
        assert pl.history(fitted()) is None
        sc.settings.autoshow = False
        assert pl.history(fitted()) is not None
    finally:
        sc.settings.autoshow = before
    assert len(shows) == 2


def test_unknown_key_says_what_there_is():
    adata = fitted()
    adata.uns["pca"] = {"params": {}}
    with pytest.raises(KeyError, match=r"uns\['cvae'\] holds no model fitted by sc_vaenb; uns has \['vae'\]"):
        pl.history(adata, "cvae")
    with pytest.raises(KeyError, match=r"uns\['pca'\] holds no model"):
        pl.history(adata, "pca")
    with pytest.raises(KeyError, match=r"uns has \[\]"):
        pl.history(ad.AnnData(np.zeros((3, 2), np.float32)))


def test_adata_stays_as_it_was():
    adata = fitted()
    before = copy.deepcopy(adata.uns["vae"])
    pl.history(adata, show=False)
    assert list(adata.uns) == ["vae"]
    for name, values in before["history"].items():
        np.testing.assert_array_equal(adata.uns["vae"]["history"][name], values)
