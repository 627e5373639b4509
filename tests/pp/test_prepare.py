import io

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from scipy import sparse as sp

from sc_vaenb import datasets
from sc_vaenb.pp import prepare

# anndata and scanpy (with pandas 3) use deprecated options of pandas; not ours to fix.
pytestmark = pytest.mark.filterwarnings("ignore:.*(future.infer_string|mode.chained_assignment|inplace keyword)")

ADVICE = "Put the raw counts into adata.layers['counts'], or name their layer (layer=...)."


@pytest.fixture
def adata():
    """200 cells of two batches, 120 genes, raw counts in X."""
    return datasets.simulate(200, 120, n_types=3, n_batches=2, mean_depth=800, rng=3)


@pytest.fixture
def log():
    """What scanpy logs when it says all."""
    logfile, verbosity, stream = sc.settings.logfile, sc.settings.verbosity, io.StringIO()
    sc.settings.logfile, sc.settings.verbosity = stream, 3
    yield stream
    sc.settings.logfile, sc.settings.verbosity = logfile, verbosity


def dense(matrix):
    return matrix.toarray() if sp.issparse(matrix) else np.asarray(matrix)


def log_normalise(adata):
    sc.pp.normalize_total(adata)
    sc.pp.log1p(adata)


def snapshot(adata):
    """All that prepare could change."""
    layers = {str(name): dense(adata.layers[name]).copy() for name in adata.layers if name is not None}
    uns = {key: value.copy() if isinstance(value, dict) else value for key, value in adata.uns.items()}
    return dense(adata.X).copy(), layers, adata.obs.copy(), adata.var.copy(), uns, set(adata.obsm)


def assert_unchanged(adata, before):
    X, layers, obs, var, uns, obsm = before
    now = snapshot(adata)
    np.testing.assert_array_equal(now[0], X)
    assert now[1].keys() == layers.keys()
    for name, layer in layers.items():
        np.testing.assert_array_equal(now[1][name], layer)
    pd.testing.assert_frame_equal(now[2], obs)
    pd.testing.assert_frame_equal(now[3], var)
    assert now[4].keys() == uns.keys()
    assert now[5] == obsm


def assert_counts(adata, expected, source):
    assert adata.uns["prepare"]["source"] == source
    np.testing.assert_array_equal(dense(adata.layers["counts"]), expected)


def as_class(matrix, name):
    return matrix.toarray() if name == "dense" else getattr(sp, name)(matrix)


# where the counts are found


def test_x(adata, log):
    expected = adata.X.toarray()
    assert prepare(adata, n_top_genes=50) is None
    assert_counts(adata, expected, "X")
    np.testing.assert_array_equal(adata.X.toarray(), expected)
    assert isinstance(adata.layers["counts"], sp.csr_matrix)
    assert adata.layers["counts"].dtype == np.float32
    assert "preparing raw counts found in X" in log.getvalue()
    assert "'highly_variable', 50 genes by flavor 'seurat_v3' (adata.var)" in log.getvalue()


def test_counts_do_not_share_memory_with_x(adata):
    expected = adata.X.toarray()
    prepare(adata, n_top_genes=50)
    log_normalise(adata)
    np.testing.assert_array_equal(adata.layers["counts"].toarray(), expected)


@pytest.mark.parametrize("kind", ["dense", "csr_matrix", "csc_matrix", "csr_array", "csc_array"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_classes(adata, kind, dtype):
    expected = adata.X.toarray()
    adata.X = as_class(adata.X.astype(dtype), kind)
    prepare(adata, "batch", n_top_genes=50)
    assert_counts(adata, expected, "X")
    assert adata.layers["counts"].format == "csr"
    assert adata.layers["counts"].dtype == np.float32
    np.testing.assert_allclose(adata.obs["size_factor"], expected.sum(1) / expected.sum() * 200, rtol=1e-6)


def test_layer_counts_goes_first_and_is_kept(adata):
    kept = adata.X.astype(np.int64).tocsc()
    adata.layers["counts"] = kept
    adata.X = adata.X * 2  # integers too
    expected = kept.toarray()
    prepare(adata, n_top_genes=50)
    assert_counts(adata, expected, "layers['counts']")
    assert adata.layers["counts"].format == "csc"
    assert adata.layers["counts"].dtype == np.int64


def test_raw_with_more_genes_in_another_order(adata):
    expected = pd.DataFrame(adata.X.toarray(), columns=adata.var_names)
    adata.raw = adata[:, ::-1].copy()
    adata = adata[:, 10:90].copy()
    log_normalise(adata)
    prepare(adata, n_top_genes=50)
    assert_counts(adata, expected[adata.var_names].to_numpy(), "raw")


@pytest.mark.parametrize("name", ["raw_counts", "UMIs", "my Counts"])
def test_other_layer(adata, name):
    expected = adata.X.toarray()
    adata.layers["scaled"] = adata.X.copy()  # integers, but its name does not say counts
    adata.layers[name] = adata.X.copy()
    adata.layers["scaled"].data *= 2
    log_normalise(adata)
    prepare(adata, n_top_genes=50)
    assert_counts(adata, expected, f"layers[{name!r}]")


def test_named_layer_wins_over_x(adata):
    adata.layers["nuclear"] = adata.X.copy()
    adata.layers["nuclear"].data += 1
    expected = adata.layers["nuclear"].toarray()
    prepare(adata, layer="nuclear", n_top_genes=50)
    assert_counts(adata, expected, "layers['nuclear']")


def test_empty_x(adata):
    expected = adata.X.toarray()
    adata.layers["raw"] = adata.X.copy()
    adata.X = None
    prepare(adata, n_top_genes=50)
    assert_counts(adata, expected, "layers['raw']")
    assert adata.X is None


def test_again_changes_nothing(adata):
    prepare(adata, "batch", n_top_genes=50, log1p=True)
    before = snapshot(adata)
    prepare(adata, "batch", n_top_genes=50, log1p=True)
    assert_unchanged(adata, before)
    assert_counts(adata, before[1]["counts"], "layers['counts']")


# what is refused


def test_log_normalised_everywhere(adata):
    adata.layers["raw_log"] = adata.X.copy()
    log_normalise(adata)
    adata.layers["raw_log"].data[:] = 0.5
    adata.layers["scaled"] = adata.X.copy()
    adata.raw = adata[:, 5:].copy()
    before = snapshot(adata)
    cell, gene, value = adata.obs_names[0], adata.var_names[adata.X[0].indices[0]], adata.X[0].data[0]
    advice = (
        "this looks log-normalised. Pass the layer with raw counts, or allow_non_integer=True for "
        "ambient-corrected counts."
    )
    with pytest.raises(ValueError, match="adata holds no raw counts") as error:
        prepare(adata)
    assert str(error.value) == (
        "adata holds no raw counts. Looked at:\n"
        f"- X holds non-integer values (cell {cell!r}, gene {gene!r}: {value:.6g}): {advice}\n"
        f"- raw lacks 5 of the 120 genes (first: {adata.var_names[0]!r}).\n"
        f"- layers['raw_log'] holds non-integer values (cell {cell!r}, gene {gene!r}: 0.5): {advice}\n"
        f"Not looked at: layers ['scaled']. {ADVICE}"
    )
    assert_unchanged(adata, before)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (-1, "holds negative values (cell {cell!r}, gene {gene!r}: -1): this looks scaled or batch-corrected."),
        (np.nan, "holds values that are not finite (cell {cell!r}, gene {gene!r}: nan)."),
        (np.inf, "holds values that are not finite (cell {cell!r}, gene {gene!r}: inf)."),
        (0.25, "holds non-integer values (cell {cell!r}, gene {gene!r}: 0.25): this looks log-normalised."),
    ],
)
@pytest.mark.parametrize("layer", [None, "spliced"])
def test_bad_value_is_named(adata, value, said, layer):
    bad = adata.X.toarray()
    bad[17, 23] = value
    if layer is None:
        adata.X = bad
    else:
        adata.layers[layer] = bad
    said = said.format(cell=adata.obs_names[17], gene=adata.var_names[23])
    with pytest.raises(ValueError, match="holds") as error:
        prepare(adata, layer=layer)
    assert ("X " if layer is None else "layers['spliced'] ") + said in str(error.value)
    assert "counts" not in adata.layers


def test_empty_cells_are_named(adata):
    adata.X = adata.X.toarray()
    adata.X[[4, 9]] = 0
    before = snapshot(adata)
    with pytest.raises(ValueError, match="have no counts") as error:
        prepare(adata)
    assert str(error.value) == (
        f"X: 2 cells have no counts (first: {adata.obs_names[4]!r}), so they have no size factor. Remove them, e.g. "
        "with sc.pp.filter_cells(adata, min_counts=1)."
    )
    assert_unchanged(adata, before)


def test_existing_other_counts_are_not_lost(adata):
    adata.layers["counts"] = adata.X * 0.5
    before = snapshot(adata)
    message = (
        r"layers\['counts'\] exists and differs from the counts found in X; it is not overwritten. Rename or delete "
        r"it, or pass layer='counts' to use it\."
    )
    with pytest.raises(ValueError, match=message):
        prepare(adata)
    assert_unchanged(adata, before)


def test_same_counts_elsewhere_are_no_conflict(adata):
    adata.layers["counts"] = adata.X.toarray()
    adata.layers["umi"] = adata.X.copy()
    prepare(adata, layer="umi", n_top_genes=50)
    assert_counts(adata, adata.X.toarray(), "layers['umi']")
    assert isinstance(adata.layers["counts"], np.ndarray)  # left as it was


def test_raw_with_doubled_names(adata):
    raw = adata.copy()
    raw.var_names = ["twin", "twin", *adata.var_names[2:]]
    adata.raw = raw
    log_normalise(adata)
    with pytest.raises(ValueError, match=r"- raw names genes twice \(first: 'twin'\), so they cannot be matched\."):
        prepare(adata)


def test_layer_of_no_numbers(adata):
    adata.layers["counts"] = np.full(adata.shape, "1")
    with pytest.raises(ValueError, match=r"layers\['counts'\] exists and differs from the counts found in X"):
        prepare(adata)
    log_normalise(adata)
    with pytest.raises(ValueError, match=r"- layers\['counts'\] has dtype <U1, which is not a number"):
        prepare(adata)
    with pytest.raises(TypeError, match=r"layers\['counts'\] has dtype <U1, which is not a number"):
        prepare(adata, layer="counts")


def test_arguments(adata):
    with pytest.raises(TypeError, match="adata is a ndarray, not an AnnData"):
        prepare(np.ones((3, 3)))
    with pytest.raises(KeyError, match=r"batch_key='donor' is not in adata\.obs"):
        prepare(adata, "donor")
    with pytest.raises(KeyError, match=r"layer='umi' is not in adata\.layers"):
        prepare(adata, layer="umi")
    with pytest.raises(ValueError, match="n_top_genes=0 is not possible"):
        prepare(adata, n_top_genes=0)
    with pytest.raises(TypeError, match="positional argument"):
        prepare(adata, "batch", None)
    adata.obs["batch"] = adata.obs["batch"].where(np.arange(200) != 6)
    with pytest.raises(ValueError, match=f"is missing for 1 cells \\(first: '{adata.obs_names[6]}'\\)"):
        prepare(adata, "batch")
    assert "prepare" not in adata.uns


# non-integer counts


def test_ambient_corrected_only_on_request(adata):
    adata.X = adata.X * 0.9
    expected = adata.X.toarray()
    with pytest.raises(ValueError, match="holds non-integer values"):
        prepare(adata)
    prepare(adata, "batch", n_top_genes=50, allow_non_integer=True)
    assert_counts(adata, expected, "X")


def test_integers_go_before_non_integers(adata):
    expected = adata.X.toarray()
    adata.layers["raw"] = adata.X.copy()
    adata.X = adata.X * 0.9
    prepare(adata, n_top_genes=50, allow_non_integer=True)
    assert_counts(adata, expected, "layers['raw']")


def test_known_logs_are_never_counts(adata):
    log_normalise(adata)
    adata.raw = adata
    with pytest.raises(ValueError, match="X and raw do not pass for ambient-corrected counts, as uns"):
        prepare(adata, allow_non_integer=True)


# size factors


def test_size_factor(adata):
    total = adata.X.toarray().astype(np.float64).sum(1)
    prepare(adata, n_top_genes=50)
    np.testing.assert_allclose(adata.obs["size_factor"], total / total.mean(), rtol=1e-12)
    assert adata.obs["size_factor"].mean() == pytest.approx(1)


# variable genes


@pytest.mark.parametrize("batch_key", [None, "batch"])
def test_genes_are_those_of_scanpy(adata, batch_key):
    prepare(adata, batch_key, n_top_genes=40)
    expected = sc.pp.highly_variable_genes(
        adata, layer="counts", flavor="seurat_v3", n_top_genes=40, batch_key=batch_key, inplace=False
    )
    for name in expected.columns.drop("gene_name", errors="ignore"):
        np.testing.assert_array_equal(adata.var[name], expected[name], err_msg=name)
        assert adata.var[name].dtype == expected[name].dtype
    assert adata.uns["hvg"] == {"flavor": "seurat_v3"}
    assert adata.uns["prepare"] == {
        "source": "X",
        "flavor": "seurat_v3",
        "fallback": "",
        "left_out": "",
        "n_top_genes": 40,
        "n_genes": 40,
        "batch_key": batch_key or "",
        "log1p": False,
    }


def test_batches_change_the_choice():
    adata = datasets.simulate(400, 200, n_types=2, marker_share=0.1, n_batches=2, batch_strength=1.5, rng=0)
    marker = adata.uns["truth"]["type_log_rate"].std(0) > 0.5
    hits = {}
    for key in [None, "batch"]:
        found = prepare(adata, key, n_top_genes=30, copy=True)
        hits[key] = (found.var["highly_variable"].to_numpy() & marker).sum()
    assert hits["batch"] > hits[None]


@pytest.mark.parametrize("dtype", [object, "category", np.int64])
def test_batch_labels_of_any_type(adata, dtype):
    prepare(adata, "batch", n_top_genes=40)
    expected = adata.var["highly_variable"].copy()
    adata.obs["lane"] = adata.obs["batch"].cat.codes.to_numpy() * 7
    adata.obs["lane"] = adata.obs["lane"].astype(str if dtype is object else np.int64).astype(dtype)
    before = adata.obs["lane"].copy()
    prepare(adata, "lane", n_top_genes=40)
    np.testing.assert_array_equal(adata.var["highly_variable"], expected)
    pd.testing.assert_series_equal(adata.obs["lane"], before)


def test_silent_genes_change_nothing_and_are_never_chosen(adata):
    padded = ad.AnnData(sp.hstack([sp.csr_matrix((200, 30)), adata.X], format="csr"), obs=adata.obs.copy())
    silent = np.arange(150) < 30
    for n_top_genes in [40, 119]:
        prepare(adata, "batch", n_top_genes=n_top_genes)
        prepare(padded, "batch", n_top_genes=n_top_genes)
        for name in ["highly_variable", "highly_variable_rank", "variances_norm", "highly_variable_nbatches"]:
            np.testing.assert_array_equal(padded.var[name][~silent], adata.var[name], err_msg=name)
            assert padded.var[name].dtype == adata.var[name].dtype
        assert not padded.var["highly_variable"][silent].any()
        assert (padded.var["variances"][silent] == 0).all()
        assert padded.var["highly_variable_rank"][silent].isna().all()


@pytest.mark.parametrize("n_top_genes", [117, 120, 2000])
def test_few_genes_are_all_chosen_but_silent_ones(adata, n_top_genes):
    adata.X = adata.X.toarray()
    adata.X[:, [3, 50, 119]] = 0
    prepare(adata, "batch", n_top_genes=n_top_genes)
    assert adata.var["highly_variable"].dtype == bool
    assert list(np.flatnonzero(~adata.var["highly_variable"])) == [3, 50, 119]
    assert adata.uns["prepare"]["flavor"] == "all"
    assert adata.uns["prepare"]["n_genes"] == 117
    assert "hvg" not in adata.uns


def sized(*sizes):
    """Batches of given sizes; 30 cells of this depth are too few for seurat_v3's loess, 150 are enough."""
    return datasets.simulate(
        sum(sizes), 300, n_types=1, n_batches=len(sizes), composition=[[n] for n in sizes], mean_depth=100, rng=0
    )


def assert_loess_fails(adata):
    with pytest.raises(ValueError, match=r"singular|svddc|condition"):
        sc.pp.highly_variable_genes(adata.copy(), flavor="seurat_v3", n_top_genes=100, batch_key="batch")


@pytest.fixture
def small_batch():
    return sized(150, 30)


def test_fallback_says_so(small_batch, log):
    assert_loess_fails(small_batch)
    before = small_batch.X.toarray()
    prepare(small_batch, "batch", n_top_genes=100)
    record = small_batch.uns["prepare"]
    assert record["flavor"] == "seurat"
    assert record["fallback"].startswith("loess failed (")
    assert record["fallback"].endswith(" in batches ['batch_1']")
    assert record["left_out"] == ""
    assert record["n_genes"] == small_batch.var["highly_variable"].sum() == 100
    assert (
        "WARNING: variable genes: chosen by flavor='seurat' on log-normalised counts, because flavor='seurat_v3' is "
        f"not possible here: {record['fallback']}. Merge small batches to avoid this."
    ) in log.getvalue()
    assert "extracting" not in log.getvalue().partition("preparing")[2]  # of scanpy, for each try
    assert small_batch.uns["hvg"] == {"flavor": "seurat"}
    assert "log1p" not in small_batch.uns
    np.testing.assert_array_equal(small_batch.X.toarray(), before)


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore:`n_top_genes` .*> number")
def test_fallback_genes_are_those_of_scanpy(small_batch):
    expected = small_batch.copy()
    log_normalise(expected)
    sc.pp.highly_variable_genes(expected, flavor="seurat", n_top_genes=100, batch_key="batch")
    prepare(small_batch, "batch", n_top_genes=100, log1p=True)
    for name in ["highly_variable", "highly_variable_nbatches", "means", "dispersions_norm"]:
        np.testing.assert_array_equal(small_batch.var[name], expected.var[name], err_msg=name)


def test_tiny_batches_do_not_change_the_choice(log):
    adata = sized(150, 5, 150, 3)
    assert_loess_fails(adata)
    large = adata[adata.obs["batch"].isin(["batch_0", "batch_2"])].copy()
    prepare(adata, "batch", n_top_genes=100)
    prepare(large, "batch", n_top_genes=100)
    assert large.uns["prepare"]["flavor"] == adata.uns["prepare"]["flavor"] == "seurat_v3"
    for name in ["highly_variable", "highly_variable_rank", "highly_variable_nbatches"]:
        np.testing.assert_array_equal(adata.var[name], large.var[name], err_msg=name)
    assert adata.uns["prepare"]["left_out"] == "batch_1, batch_3"
    assert large.uns["prepare"]["left_out"] == ""
    assert (
        "WARNING: variable genes: batches ['batch_1', 'batch_3'] (8 cells) have too few cells or counts for seurat_v3 "
        "and are left out of the choice."
    ) in log.getvalue()


def test_batch_of_equal_cells(adata):
    """Without a check before it, loess on no point at all ends the process with a segmentation fault."""
    adata.X = adata.X.toarray()
    adata.X[1] = adata.X[0]
    adata.obs["lane"] = np.where(np.arange(200) < 2, "tiny", "large")
    prepare(adata, "lane", n_top_genes=40)
    assert adata.uns["prepare"]["left_out"] == "tiny"
    assert adata.uns["prepare"]["flavor"] == "seurat_v3"
    assert adata.var["highly_variable"].sum() == 40


def test_batches_of_equal_cells_everywhere():
    """Neither flavor works within such batches, so all cells are regarded as one batch."""
    counts = np.ones((20, 30), dtype=np.float32)
    counts[10:] = np.arange(1, 31)
    adata = ad.AnnData(counts, obs=pd.DataFrame({"lane": ["a"] * 10 + ["b"] * 10}, index=[str(i) for i in range(20)]))
    prepare(adata, "lane", n_top_genes=10)
    record = adata.uns["prepare"]
    assert record["flavor"] == "seurat"
    assert record["fallback"] == (
        "loess failed (only 0 genes vary) in batches ['a', 'b']; seurat failed too, and regards all cells as one batch"
    )
    assert adata.var["highly_variable"].sum() >= 10


def test_nothing_varies():
    adata = ad.AnnData(np.ones((20, 30), dtype=np.float32))
    with pytest.raises(ValueError, match="Give n_top_genes=30 to use all genes with counts"):
        prepare(adata, n_top_genes=10)
    assert "counts" not in adata.layers
    prepare(adata, n_top_genes=30)
    assert adata.var["highly_variable"].all()


# X, views, copies, files


def test_x_only_on_request(adata):
    expected = adata.copy()
    log_normalise(expected)
    prepare(adata, n_top_genes=50, log1p=True)
    np.testing.assert_array_equal(adata.X.toarray(), expected.X.toarray())
    assert adata.uns["log1p"] == expected.uns["log1p"]
    assert adata.uns["prepare"]["log1p"] is True


def test_nothing_else_changes(adata):
    adata.obsm["X_pca"] = np.ones((200, 2))
    adata.obs["note"] = "x"
    before = snapshot(adata)
    prepare(adata, "batch", n_top_genes=50)
    np.testing.assert_array_equal(adata.X.toarray(), before[0])
    pd.testing.assert_frame_equal(adata.obs.drop(columns="size_factor"), before[2])
    pd.testing.assert_frame_equal(adata.var[before[3].columns], before[3])
    assert set(adata.uns) == {*before[4], "prepare", "hvg"}
    assert set(adata.obsm) == {"X_pca"}
    assert [name for name in adata.layers if name is not None] == ["counts"]


@pytest.mark.parametrize("log1p", [False, True])
def test_copy(adata, log1p):
    before = snapshot(adata)
    result = prepare(adata, "batch", n_top_genes=50, log1p=log1p, copy=True)
    assert_unchanged(adata, before)
    assert_counts(result, before[0], "X")
    assert result.var["highly_variable"].sum() == 50


@pytest.mark.parametrize("log1p", [False, True])
def test_view(adata, log1p):
    before = snapshot(adata)
    view = adata[20:180, 5:115]
    prepare(view, "batch", n_top_genes=50, log1p=log1p)
    assert not view.is_view
    assert_counts(view, before[0][20:180, 5:115], "X")
    assert view.var["highly_variable"].sum() == 50
    assert_unchanged(adata, before)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["h5ad", "zarr"])
@pytest.mark.filterwarnings("ignore::UserWarning:zarr", "ignore:Writing zarr v2:UserWarning")
def test_round_trip(adata, tmp_path, form):
    if form == "zarr":
        pytest.importorskip("zarr")
    prepare(adata, n_top_genes=50, log1p=True)
    path = tmp_path / f"a.{form}"
    getattr(adata, f"write_{form}")(path)
    back = getattr(ad, f"read_{form}")(path)
    record = {
        key: value.item() if isinstance(value, np.generic) else value for key, value in back.uns["prepare"].items()
    }
    assert record == adata.uns["prepare"]
    np.testing.assert_array_equal(back.layers["counts"].toarray(), adata.layers["counts"].toarray())
    np.testing.assert_array_equal(back.var["highly_variable"], adata.var["highly_variable"])
    np.testing.assert_array_equal(back.obs["size_factor"], adata.obs["size_factor"])


# published data


def test_pbmc(published):
    adata = published("pbmc_3studies_10xv1")
    expected = sc.pp.highly_variable_genes(
        adata, n_top_genes=2000, flavor="seurat_v3", batch_key="batch", inplace=False
    )
    prepare(adata, "batch")
    np.testing.assert_array_equal(adata.var["highly_variable"], expected["highly_variable"])
    assert adata.uns["prepare"]["flavor"] == "seurat_v3"
    assert adata.var["highly_variable"].sum() == 2000


def test_pancreas_falls_back(published, log):
    adata = published("pancreas_5tech_small")
    prepare(adata, "batch", n_top_genes=1000)
    assert adata.uns["prepare"]["flavor"] == "seurat"
    assert adata.uns["prepare"]["fallback"].endswith("in batches ['celseq', 'indrop']")
    assert adata.var["highly_variable"].sum() == 1000
    assert "flavor='seurat_v3' is not possible here: loess failed" in log.getvalue()


def test_a_second_choice_of_genes_leaves_nothing_of_the_first(adata, log):
    prepare(adata, "batch", n_top_genes=30)
    assert {"highly_variable_rank", "variances_norm"} <= set(adata.var)
    prepare(adata, n_top_genes=1000)  # all genes
    assert adata.uns["prepare"]["flavor"] == "all"
    assert "hvg" not in adata.uns
    assert not {"highly_variable_rank", "highly_variable_nbatches", "variances_norm", "means"} & set(adata.var)
    assert "is_marker" in adata.var  # what the user had stays
    assert "replacing var['highly_variable']" in log.getvalue()
    assert "replacing obs['size_factor']" in log.getvalue()


def test_a_part_of_the_counts_is_not_taken_for_them(adata):
    adata.layers["spliced_counts"], adata.X = adata.X.copy(), adata.X.log1p()
    with pytest.raises(ValueError, match=r"Not looked at: layers \['spliced_counts'\]"):
        prepare(adata)
    prepare(adata, layer="spliced_counts")
    assert adata.uns["prepare"]["source"] == "layers['spliced_counts']"
