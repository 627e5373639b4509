"""The embedding plot shows every cell once, in the right colour, and leaves the data as they were."""

import anndata as ad
import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numba
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from matplotlib.colors import to_hex, to_rgba, to_rgba_array
from scipy import sparse

from sc_vaenb import pl
from sc_vaenb.pl import _umap
from sc_vaenb.pl._colors import MISSING, PALETTE
from sc_vaenb.pl._grid import MAX_ENTRIES

N = 120


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture
def adata():
    """Three groups far apart in five dimensions, a plane of their own, and a stored UMAP."""
    rng = np.random.default_rng(0)
    group = np.arange(N) % 3
    obs = pd.DataFrame(
        {
            "type": pd.Categorical.from_codes(group, ["T", "B", "NK", "never"]),
            "batch": np.where(group == 1, None, "one"),
            "depth": np.where(group == 2, np.nan, rng.gamma(2, size=N)),
            "doublet": group == 0,
        },
        index=[f"cell{i}" for i in range(N)],
    )
    adata = ad.AnnData(rng.poisson(1.0, (N, 4)).astype(np.float32), obs=obs)
    adata.var_names = ["CD3D", "MS4A1", "NKG7", "LYZ"]
    adata.layers["twice"] = 2 * adata.X
    adata.obsm["X_vae"] = rng.normal(size=(N, 5)) + 20 * group[:, None]
    adata.obsm["X_pca"] = rng.normal(size=(N, 5))
    adata.obsm["X_umap_pca"] = rng.normal(size=(N, 2))
    adata.obsm["X_umap"] = rng.normal(size=(N, 2))
    return adata


def drawn(ax):
    """Positions and colours of the points of one panel, in drawing order."""
    (points,) = ax.collections
    return np.asarray(points.get_offsets()), points.get_facecolors()


def colours_by_cell(ax, plane):
    """Colours in the order of the cells, found by their positions."""
    xy, rgba = drawn(ax)
    at = {tuple(p): c for p, c in zip(xy, rgba, strict=True)}
    assert len(at) == len(plane)
    return np.array([at[tuple(p)] for p in plane])


def legends(ax):
    """Titles and entries (label: colour) of all legends of the figure."""
    found = [strip.get_legend() for strip in ax.figure.axes]
    return {
        legend.get_title().get_text(): {
            text.get_text(): handle.get_color()
            for text, handle in zip(legend.get_texts(), legend.legend_handles, strict=True)
        }
        for legend in found
        if legend is not None
    }


def test_grid_of_embeddings_and_colours(adata):
    axes = pl.embedding(adata, ["X_umap", "X_pca"], color=["type", "depth", "CD3D"], show=False)
    assert axes.shape == (2, 3)
    assert [ax.get_title() for ax in axes.flat] == [
        *("X_umap · type", "X_umap · depth", "X_umap · CD3D"),
        *("UMAP of X_pca · type", "UMAP of X_pca · depth", "UMAP of X_pca · CD3D"),
    ]
    for ax in axes.flat:
        assert ax.get_aspect() == 1
        assert len(ax.get_xticks()) == len(ax.get_yticks()) == 0
        assert ax.collections[0].get_rasterized()


def test_stored_umap_is_used(adata, monkeypatch):
    monkeypatch.setattr(sc.tl, "umap", lambda *_, **__: pytest.fail("computed a UMAP that is stored"))
    (ax,) = pl.embedding(adata, "X_pca", show=False).flat
    xy, _ = drawn(ax)
    np.testing.assert_array_equal(np.sort(xy, axis=0), np.sort(adata.obsm["X_umap_pca"], axis=0))


def line_of_cells(n=N):
    """Cells on a line, as scanpy's `neighbors` records them: each has its neighbours on the line."""
    i = np.arange(n - 1)
    graph = sparse.coo_array((np.ones(n - 1), (i, i + 1)), (n, n))
    return (graph + graph.T).tocsr()


@pytest.fixture
def with_scanpy(adata, monkeypatch):
    """A graph of X_vae in which neighbours follow each other, and the UMAP of it."""
    monkeypatch.setattr(_umap, "_umap", lambda *_: pytest.fail("computed a UMAP that is there"))
    adata.obsp["connectivities"] = line_of_cells()
    adata.uns["neighbors"] = {"connectivities_key": "connectivities", "params": {"use_rep": "X_vae"}}
    angle = np.linspace(0, 6, N)
    adata.obsm["X_umap"] = np.c_[np.cos(angle), np.sin(angle)]
    adata.uns["umap"] = {"params": {"a": 1.0, "b": 1.0}}
    return adata


def test_the_umap_of_scanpy_is_used_for_its_embedding(with_scanpy):
    (ax,) = pl.embedding(with_scanpy, "X_vae", show=False).flat
    assert ax.get_title() == "UMAP of X_vae"
    np.testing.assert_array_equal(np.sort(drawn(ax)[0], axis=0), np.sort(with_scanpy.obsm["X_umap"], axis=0))


def test_the_graph_may_have_any_key_and_the_pca_need_not_be_named(with_scanpy, monkeypatch):
    monkeypatch.setattr(_umap, "MAX_GENES_WITHOUT_PCA", 3)
    del with_scanpy.obsm["X_umap_pca"]
    with_scanpy.uns["mine"] = {"connectivities_key": "mine", "params": {"n_pcs": 5}}
    with_scanpy.obsp["mine"] = with_scanpy.obsp["connectivities"]
    del with_scanpy.uns["neighbors"]
    (ax,) = pl.embedding(with_scanpy, "X_pca", show=False).flat
    np.testing.assert_array_equal(np.sort(drawn(ax)[0], axis=0), np.sort(with_scanpy.obsm["X_umap"], axis=0))
    monkeypatch.setattr(_umap, "MAX_GENES_WITHOUT_PCA", 4)  # scanpy takes X
    with pytest.raises(pytest.fail.Exception, match="computed a UMAP"):
        pl.embedding(with_scanpy, "X_pca", show=False)
    monkeypatch.setattr(_umap, "MAX_GENES_WITHOUT_PCA", 3)
    with_scanpy.uns["mine"]["params"]["n_pcs"] = 0  # X too
    with pytest.raises(pytest.fail.Exception, match="computed a UMAP"):
        pl.embedding(with_scanpy, "X_pca", show=False)


def test_a_umap_of_another_embedding_or_an_older_graph_is_not_used(with_scanpy):
    del with_scanpy.obsm["X_umap_pca"]
    with pytest.raises(pytest.fail.Exception, match="computed a UMAP"):
        pl.embedding(with_scanpy, "X_pca", show=False)
    shuffled = np.random.default_rng(0).permutation(N)
    newer = with_scanpy.copy()
    newer.obsp["connectivities"] = line_of_cells()[shuffled][:, shuffled]  # neighbors ran again, umap did not
    with pytest.raises(pytest.fail.Exception, match="computed a UMAP"):
        pl.embedding(newer, "X_vae", show=False)
    del with_scanpy.uns["umap"]
    with pytest.raises(pytest.fail.Exception, match="computed a UMAP"):
        pl.embedding(with_scanpy, "X_vae", show=False)


def test_a_computed_umap_is_computed_once(adata, monkeypatch):
    computed = []

    def umap(coordinates, rng):
        computed.append(rng)
        return np.random.default_rng(rng).normal(size=(len(coordinates), 2))

    monkeypatch.setattr(_umap, "_umap", umap)
    monkeypatch.setattr(_umap, "_computed", {})
    (first,), (second,) = (pl.embedding(adata, "X_vae", color=color, show=False).flat for color in ("type", "depth"))
    np.testing.assert_array_equal(np.sort(drawn(first)[0], axis=0), np.sort(drawn(second)[0], axis=0))
    assert computed == [0]
    pl.embedding(adata, "X_vae", rng=1, show=False)
    adata.obsm["X_vae"][0, 0] += 1
    pl.embedding(adata, "X_vae", show=False)
    assert computed == [0, 1, 0]
    monkeypatch.setattr(_umap, "N_KEPT", 2)
    adata.obsm["X_vae"][0, 0] += 1
    pl.embedding(adata, "X_vae", show=False)
    assert len(_umap._computed) == 2


@pytest.mark.slow
def test_computed_umap_keeps_groups_apart_and_leaves_everything_alone(adata):
    before = adata.copy()
    state, threads, verbosity = np.random.get_state()[1].copy(), numba.get_num_threads(), sc.settings.verbosity  # noqa: NPY002
    (ax,) = pl.embedding(adata, show=False).flat
    assert ax.get_title() == "UMAP of X_vae"

    xy, _ = drawn(ax)
    own = xy[np.argsort(np.random.default_rng(0).permutation(N))]  # back in the order of the cells
    centres = np.stack([own[i::3].mean(axis=0) for i in range(3)])
    spread = max(np.linalg.norm(own[i::3] - centres[i], axis=1).max() for i in range(3))
    assert min(np.linalg.norm(centres[i] - centres[j]) for i, j in [(0, 1), (0, 2), (1, 2)]) > 2 * spread

    (again,) = pl.embedding(adata, show=False).flat
    np.testing.assert_array_equal(xy, drawn(again)[0])
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    assert numba.get_num_threads() == threads
    assert sc.settings.verbosity == verbosity
    assert set(adata.obsm) == set(before.obsm)
    assert not set(adata.uns) | set(adata.obsp)
    np.testing.assert_array_equal(adata.X, before.X)
    np.testing.assert_array_equal(adata.obsm["X_vae"], before.obsm["X_vae"])
    pd.testing.assert_frame_equal(adata.obs, before.obs)


@pytest.mark.slow
def test_umap_of_more_cells_than_scanpy_searches_exactly():
    n = 8_300
    rng = np.random.default_rng(0)
    side = np.arange(n) % 2
    adata = ad.AnnData(obs=pd.DataFrame({"side": side.astype(str)}, index=np.arange(n).astype(str)))
    adata.obsm["X_vae"] = (rng.normal(size=(n, 3)) + 30 * side[:, None]).astype(np.float32)
    (ax,) = pl.embedding(adata, color="side", show=False).flat
    xy, rgba = drawn(ax)
    blue = (rgba == to_rgba(PALETTE[0])).all(axis=1)
    assert blue.sum() == n // 2
    gap = np.linalg.norm(xy[blue].mean(axis=0) - xy[~blue].mean(axis=0))
    assert gap > max(xy[blue].std(axis=0).max(), xy[~blue].std(axis=0).max())


@pytest.mark.slow
@pytest.mark.parametrize(("n_cells", "n_dims"), [(4, 3), (10, 1), (20, 10)])
def test_umap_of_few_cells(n_cells, n_dims):
    adata = ad.AnnData(np.zeros((n_cells, 1), np.float32))
    adata.obsm["X_vae"] = np.random.default_rng(0).normal(size=(n_cells, n_dims))
    (ax,) = pl.embedding(adata, show=False).flat
    assert np.isfinite(drawn(ax)[0]).all()


def test_categories_are_coloured_and_explained(adata):
    (ax,) = pl.embedding(adata, "X_umap", color="type", show=False).flat
    assert legends(ax) == {"type": dict(zip(["T", "B", "NK"], PALETTE, strict=False))}  # none for the unused one
    expected = to_rgba_array(PALETTE[:3])[np.arange(N) % 3]
    np.testing.assert_array_equal(colours_by_cell(ax, adata.obsm["X_umap"]), expected)


def test_stored_colours_are_respected(adata):
    adata.uns["type_colors"] = np.array(["#ff0000", "#00ff00", "#0000ff", "#ffff00"])
    (ax,) = pl.embedding(adata, "X_umap", color="type", show=False).flat
    assert legends(ax) == {"type": {"T": "#ff0000", "B": "#00ff00", "NK": "#0000ff"}}


def test_stored_colours_that_do_not_fit_are_ignored_and_said_so(adata, monkeypatch):
    adata.uns["type_colors"] = ["red", "green"]
    said = []
    monkeypatch.setattr(sc.logging, "warning", said.append)
    (ax,) = pl.embedding(adata, "X_umap", color="type", show=False).flat
    assert legends(ax)["type"]["T"] == PALETTE[0]
    assert said == ["uns['type_colors'] does not hold a colour for each of the 4 categories: ignored."]
    assert list(adata.uns["type_colors"]) == ["red", "green"]


@pytest.mark.parametrize("n", [5, 12, 20, MAX_ENTRIES])
def test_the_colour_of_a_label_does_not_depend_on_how_many_there_are(adata, n):
    adata.obs["many"] = pd.Categorical.from_codes(np.arange(N) % n, [f"c{i}" for i in range(n)])
    (ax,) = pl.embedding(adata, "X_umap", color="many", show=False).flat
    assert legends(ax) == {"many": {f"c{i}": PALETTE[i] for i in range(n)}}


def test_too_many_categories_have_a_note_in_the_place_of_a_legend(adata):
    adata.obs["clone"] = pd.Categorical.from_codes(np.arange(N) % (MAX_ENTRIES + 1), range(MAX_ENTRIES + 1))
    adata.obs["barcode"] = adata.obs_names
    for loc in ("right margin", "on data"):
        (clone, barcode) = pl.embedding(adata, "X_umap", color=["clone", "barcode"], legend_loc=loc, show=False).flat
        assert legends(clone) == {
            "clone\n61 categories: too\nmany for a legend": {},
            "barcode\n120 categories: too\nmany for a legend;\ncolours repeat": {},
        }
        assert not clone.texts
    assert len(np.unique(drawn(clone)[1], axis=0)) == MAX_ENTRIES + 1
    assert len(np.unique(drawn(barcode)[1], axis=0)) == len(PALETTE)


def test_the_first_twenty_colours_can_be_told_apart_and_eight_without_red_or_green_cones():
    """Distances in Oklab, with the matrices of Machado et al. (2009); scanpy's first 20 of 28 come as close as 0.03."""
    xyz = to_rgba_array(PALETTE)[:, :3]
    linear = np.where(xyz <= 0.04045, xyz / 12.92, ((xyz + 0.055) / 1.055) ** 2.4)
    views = {
        "all cones": np.eye(3),
        "no green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        "no red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    }
    to_lms = [[0.41222, 0.53633, 0.05145], [0.21190, 0.68070, 0.10740], [0.08830, 0.28172, 0.62998]]
    to_lab = [[0.21045, 0.79362, -0.00407], [1.97800, -2.42859, 0.45059], [0.02590, 0.78277, -0.80868]]

    def closest(n, view):
        lms = np.clip(linear[:n] @ np.transpose(views[view]), 0, 1) @ np.transpose(to_lms)
        lab = np.cbrt(lms) @ np.transpose(to_lab)
        return (np.linalg.norm(lab[:, None] - lab, axis=2) + np.eye(n)).min()

    assert len(set(PALETTE)) == len(PALETTE) == 100
    assert closest(20, "all cones") > 0.09
    assert min(closest(8, view) for view in views) > 0.07


def test_a_label_has_one_colour_in_all_panels(adata):
    adata.obs["predicted"] = pd.Categorical.from_codes(np.arange(N) % 3, ["B", "ILC", "NK"])
    (ax, *_) = pl.embedding(adata, "X_umap", color=["type", "predicted"], show=False).flat
    first, second = legends(ax).values()
    assert list(second) == ["B", "ILC", "NK"]
    assert (second["B"], second["NK"]) == (first["B"], first["NK"])
    assert second["ILC"] not in first.values()
    adata.uns["predicted_colors"] = ["red", "green", "blue"]  # stored colours are for the other column too
    (ax, *_) = pl.embedding(adata, "X_umap", color=["type", "predicted"], show=False).flat
    first, second = legends(ax).values()
    assert second == {"B": to_hex("red"), "ILC": to_hex("green"), "NK": to_hex("blue")}
    assert (first["B"], first["NK"]) == (second["B"], second["NK"])
    assert "type_colors" not in adata.uns


def test_colours_that_are_asked_for(adata):
    adata.uns["type_colors"] = ["#111111", "#222222", "#333333", "#444444"]

    def colours(palette):
        (ax,) = pl.embedding(adata, "X_umap", color="type", palette=palette, show=False).flat
        return list(legends(ax)["type"].values())

    assert colours(["red", "blue"]) == [to_hex("red"), to_hex("blue"), to_hex("red")]
    assert colours({"B": "red"}) == ["#111111", to_hex("red"), "#333333"]
    assert colours("tab20") == [to_hex(colour) for colour in plt.get_cmap("tab20").colors[:3]]
    assert colours("viridis")[0] == to_hex(plt.get_cmap("viridis")(0.0))
    assert list(adata.uns["type_colors"]) == ["#111111", "#222222", "#333333", "#444444"]


def test_the_colormap_of_numbers(adata):
    (ax,) = pl.embedding(adata, "X_umap", color="CD3D", cmap="Blues", show=False).flat
    highest = adata.X[:, 0].argmax()
    np.testing.assert_allclose(colours_by_cell(ax, adata.obsm["X_umap"])[highest], plt.get_cmap("Blues")(1.0))


def test_names_on_the_cells(adata):
    adata.obsm["X_umap"][:, 1] += 20 * (np.arange(N) % 3)  # types far apart, so that no name makes room for another
    (ax,) = pl.embedding(adata, "X_umap", color="type", legend_loc="on data", show=False).flat
    assert not legends(ax)
    for text, code in zip(ax.texts, range(3), strict=True):
        assert text.get_text() == ["T", "B", "NK"][code]
        expected = np.median(adata.obsm["X_umap"][np.arange(N) % 3 == code], axis=0)
        np.testing.assert_allclose(text.get_position(), expected, atol=0.01)
    (ax, numbers) = pl.embedding(adata, "X_umap", color=["type", "depth"], legend_loc="none", show=False).flat
    assert legends(ax) == {"": {"missing": MISSING}}  # beside the colour bar
    assert not ax.texts
    assert any(child.get_title(loc="left") == "depth" for a in numbers.figure.axes for child in a.child_axes)


def test_many_colours_go_on_below(adata):
    keys, colors = ["X_umap", "X_pca"], ["type", "depth", "CD3D", "LYZ", "doublet"]
    axes = pl.embedding(adata, keys, color=colors, ncols=2, show=False)
    assert axes.shape == (2, 5)
    titles = [[ax.get_title() for ax in row] for row in axes]
    assert titles == [[f"{name} · {color}" for color in colors] for name in ("X_umap", "UMAP of X_pca")]
    axes[0, 0].figure.draw_without_rendering()
    corner = [[ax.get_window_extent().p0.round() for ax in row] for row in axes]
    assert corner[0][0][0] == corner[1][0][0] == corner[0][2][0] == corner[0][4][0] < corner[0][1][0]
    rows = [corner[0][0][1], corner[1][0][1], corner[0][2][1], corner[1][2][1], corner[0][4][1], corner[1][4][1]]
    assert rows == sorted(rows, reverse=True)
    assert len(set(rows)) == 6


def test_legend_of_many_categories_stays_within_the_figure(adata):
    adata.obs["many"] = pd.Categorical.from_codes(np.arange(N) % 40, [f"a rather long name {i}" for i in range(40)])
    (ax,) = pl.embedding(adata, "X_umap", color="many", show=False).flat
    ax.figure.draw_without_rendering()
    (legend,) = [a.get_legend() for a in ax.figure.axes if a.get_legend()]
    box, page = legend.get_window_extent(), ax.figure.bbox
    assert box.x0 > ax.get_window_extent().x1
    assert box.x1 <= page.x1
    assert box.y0 >= page.y0
    assert box.y1 <= page.y1
    assert ax.get_window_extent().width > 2.3 * ax.figure.dpi


def test_booleans_are_categories(adata):
    (ax,) = pl.embedding(adata, "X_umap", color="doublet", show=False).flat
    assert list(legends(ax)["doublet"]) == ["False", "True"]


def test_missing_categories_are_grey_below_the_others_and_explained(adata):
    (ax,) = pl.embedding(adata, "X_umap", color="batch", show=False).flat
    assert legends(ax) == {"batch": {"one": PALETTE[0], "missing": MISSING}}
    _, rgba = drawn(ax)
    grey = (rgba == to_rgba(MISSING)).all(axis=1)
    assert grey.sum() == N // 3
    assert grey[: N // 3].all()


def test_numbers_are_viridis_with_a_colour_bar(adata):
    (ax,) = pl.embedding(adata, "X_umap", color="depth", show=False).flat
    depth = adata.obs["depth"].to_numpy()
    low, high = np.nanquantile(depth, [0.01, 0.99])
    expected = plt.get_cmap("viridis")((depth - low) / (high - low))
    expected[np.isnan(depth)] = to_rgba(MISSING)
    np.testing.assert_allclose(colours_by_cell(ax, adata.obsm["X_umap"]), expected)
    assert legends(ax) == {"": {"missing": MISSING}}
    bar = next(child for a in ax.figure.axes for child in a.child_axes)
    assert bar.get_title(loc="left") == "depth"
    assert bar.get_ylim() == pytest.approx((low, high))


@pytest.mark.parametrize("layer", [None, "twice"])
def test_genes_are_colours_too(adata, layer):
    adata.X[:, 3] = 0
    adata.X[0, 3] = 5  # so rare that both percentiles are zero
    axes = pl.embedding(adata, "X_umap", color=["CD3D", "LYZ"], layer=layer, show=False)
    source = adata.X if layer is None else adata.layers[layer]
    bars = [child for a in axes[0, 0].figure.axes for child in a.child_axes]
    for bar, gene in zip(bars, [0, 3], strict=True):
        assert bar.get_ylim()[1] == pytest.approx(
            source[:, gene].max() if gene == 3 and layer is None else np.quantile(source[:, gene], 0.99)
        )


@pytest.mark.parametrize(("value", "grey"), [(np.nan, True), (3.0, False)])
def test_one_number_alone(adata, value, grey):
    adata.obs["flat"] = value
    (ax,) = pl.embedding(adata, "X_umap", color="flat", show=False).flat
    ax.figure.draw_without_rendering()
    assert (drawn(ax)[1] == to_rgba(MISSING)).all() == grey
    assert bool(legends(ax)) == grey


def test_drawing_order_is_shuffled_and_fixed(adata):
    first, second = (drawn(pl.embedding(adata, "X_umap", color="type", show=False)[0, 0])[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, adata.obsm["X_umap"])
    other = drawn(pl.embedding(adata, "X_umap", color="type", rng=1, show=False)[0, 0])[0]
    assert not np.array_equal(first, other)


def test_points_shrink_with_the_number_of_cells(adata):
    def area(data, **kwargs):
        return pl.embedding(data, "X_umap", show=False, **kwargs)[0, 0].collections[0].get_sizes()[0]

    many = ad.AnnData(obs=pd.DataFrame(index=np.arange(20_000).astype(str)))
    many.obsm["X_umap"] = np.random.default_rng(0).normal(size=(20_000, 2))
    assert area(many) < area(adata)
    assert area(many, size=7) == 7


def test_panels_are_filled_whatever_the_legend(adata):
    """Equal aspect widens the limits of one axis; no panel may be left mostly white by that."""
    axes = pl.embedding(adata, "X_umap", color=["type", "depth"], show=False)
    axes[0, 0].figure.draw_without_rendering()
    for ax in axes.flat:
        filled = np.ptp(adata.obsm["X_umap"], axis=0) / [np.ptp(ax.get_xlim()), np.ptp(ax.get_ylim())]
        assert filled.max() > 0.8


def test_draws_into_a_figure_of_the_user(adata):
    figure = plt.figure(figsize=(9, 4))
    left, right = figure.subfigures(1, 2)
    (ax,) = pl.embedding(adata, "X_umap", color="type", fig=right, show=False).flat
    assert ax.get_figure(root=False) is right
    assert not left.axes
    assert tuple(figure.get_size_inches()) == (9, 4)
    assert plt.get_fignums() == [figure.number]


def test_show_follows_the_argument_then_scanpy(adata, monkeypatch):
    shows, before = [], sc.settings.autoshow
    monkeypatch.setattr(plt, "show", lambda: shows.append(1))
    assert pl.embedding(adata, "X_umap", show=True) is None
    try:
        sc.settings.autoshow = True
        assert pl.embedding(adata, "X_umap") is None
        sc.settings.autoshow = False
        assert pl.embedding(adata, "X_umap") is not None
    finally:
        sc.settings.autoshow = before
    assert len(shows) == 2


def test_views_and_backed_files(adata, tmp_path):
    adata.obs["batch"] = pd.Categorical(adata.obs["batch"])
    adata.write_h5ad(tmp_path / "cells.h5ad")
    backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    (ax,) = pl.embedding(backed, "X_umap", color="CD3D", show=False).flat
    assert len(drawn(ax)[0]) == N
    backed.file.close()
    view = adata[::2]
    (ax,) = pl.embedding(view, "X_umap", color="type", show=False).flat
    assert len(drawn(ax)[0]) == N // 2
    assert view.is_view


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"keys": "X_cvae"}, KeyError, r"obsm has no 'X_cvae'; found: \['X_vae', .*key_added='cvae'\)"),
        ({"keys": []}, ValueError, "keys is empty"),
        ({"color": []}, ValueError, "color is empty"),
        ({"color": "typo"}, KeyError, r"color 'typo' is neither .* 4 genes in var_names; obs has: \['type', 'batch'"),
        ({"color": "CD3D", "layer": "raw"}, KeyError, r"layers has no 'raw'; found: \['twice'\]"),
        ({"palette": "no"}, ValueError, "palette='no' is no colormap of matplotlib"),
        ({"cmap": "no"}, ValueError, "cmap='no' is no colormap of matplotlib"),
        ({"palette": ["red", "no"]}, ValueError, r"palette holds no colours: \['no'\]"),
        ({"palette": {"T": "no"}}, ValueError, r"palette holds no colours: \['no'\]"),
    ],
)
def test_what_is_not_there(adata, kwargs, error, message):
    with pytest.raises(error, match=message):
        pl.embedding(adata, **kwargs)
    assert not plt.get_fignums()


def test_non_finite_embedding_names_the_cell(adata):
    adata.obsm["X_vae"][7, 2] = np.nan
    with pytest.raises(ValueError, match=r"obsm\['X_vae'\] holds non-finite values in 1 of 120 cells .*'cell7'"):
        pl.embedding(adata)


def test_too_few_cells_for_a_umap(adata):
    with pytest.raises(ValueError, match="a UMAP needs at least 4 cells; found 3"):
        pl.embedding(adata[:3])
