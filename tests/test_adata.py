"""What is read out of an AnnData is right whatever it is stored as, and what cannot be counts is refused by name."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse as sp

import sc_vaenb
from sc_vaenb import _adata, _anndata_checks, _obs
from sc_vaenb.data import matrix as _matrix

KINDS = {
    "dense": lambda x: x,
    "csr_matrix": sp.csr_matrix,
    "csc_matrix": sp.csc_matrix,
    "csr_array": sp.csr_array,
    "csc_array": sp.csc_array,
}
every_kind = pytest.mark.parametrize("kind", KINDS)

COUNTS = np.array([[1, 0, 2, 0], [0, 3, 0, 5], [4, 0, 0, 6], [0, 7, 8, 0], [9, 0, 1, 1]], dtype=np.float64)
EVERY_GENE = np.ones(4, dtype=bool)


@pytest.fixture
def table():
    """Five cells and four genes with names, to spoil one value of."""
    obs = pd.DataFrame({"batch": ["x", "x", "y", "y", "y"]}, index=[f"cell{i}" for i in range(5)])
    var = pd.DataFrame(index=["CD3D", "MS4A1", "NKG7", "LYZ"])
    return ad.AnnData(sp.csr_matrix(COUNTS), obs=obs, var=var)


def with_counts(table, values, kind="csr_matrix", dtype=np.float32):
    table.layers["counts"] = KINDS[kind](np.asarray(values, dtype=dtype))
    return table


def spoiled(cell, gene, value):
    values = COUNTS.copy()
    values[cell, gene] = value
    return values


# reading


@every_kind
@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "int64", "uint64", "float32", "float64"])
def test_every_kind_of_matrix_gives_the_same_counts(table, kind, dtype, monkeypatch):
    monkeypatch.setattr(_matrix, "ROWS_AT_ONCE", 2)
    mask = np.array([True, False, True, True])
    counts = _adata.read_counts(with_counts(table, COUNTS, kind, dtype), "counts", mask)
    np.testing.assert_array_equal(counts.toarray(), COUNTS[:, mask])
    assert isinstance(counts, sp.csr_matrix)
    assert counts.dtype == np.float32
    assert counts.has_canonical_format
    assert counts.nnz == (COUNTS[:, mask] > 0).sum()


def test_booleans_are_counts(table):
    counts = _adata.read_counts(with_counts(table, COUNTS > 0, dtype=bool), "counts", EVERY_GENE)
    np.testing.assert_array_equal(counts.toarray(), COUNTS > 0)


def test_explicit_zeros_and_unsorted_or_repeated_entries_are_tidied_and_the_original_is_not(table, unchanged):
    matrix = sp.csr_matrix(
        (np.array([2, 0, 1, 3, 2], np.float32), np.array([2, 1, 0, 3, 3]), np.array([0, 3, 5])), (2, 4)
    )
    table = table[:2].copy()
    table.layers["counts"] = matrix
    with unchanged(table):
        counts = _adata.read_counts(table, "counts", EVERY_GENE)
    np.testing.assert_array_equal(counts.toarray(), [[1, 0, 2, 0], [0, 0, 0, 5]])
    assert counts.indices.tolist() == [0, 2, 3]


@every_kind
def test_views_are_read_without_becoming_copies(table, kind):
    view = with_counts(table, COUNTS, kind)[[3, 1, 4], ["LYZ", "MS4A1"]]
    counts = _adata.read_counts(view, "counts", np.ones(2, dtype=bool))
    np.testing.assert_array_equal(counts.toarray(), COUNTS[[3, 1, 4]][:, [3, 1]])
    assert view.is_view


@every_kind
def test_backed_files_are_read_in_blocks(table, kind, tmp_path, monkeypatch):
    monkeypatch.setattr(_matrix, "ROWS_AT_ONCE", 2)
    table.X = KINDS[kind](COUNTS)
    table.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    mask = np.array([True, False, True, True])
    np.testing.assert_array_equal(_adata.read_counts(backed, None, mask).toarray(), COUNTS[:, mask])
    assert backed.isbacked
    backed.file.close()


# refusals of counts, with the cell and the gene


@every_kind
@pytest.mark.parametrize(
    ("value", "text"),
    [
        (-1, r"layers\['counts'\] holds negative values \(cell 'cell3', gene 'LYZ': -1\): this looks scaled or batch-"),
        (1.386, r"holds non-integer values \(cell 'cell3', gene 'LYZ': 1\.386\): this looks log-normalised\. Pass the"),
        (np.nan, r"holds values that are not finite \(cell 'cell3', gene 'LYZ': nan\)\. Give raw counts; a missing"),
        (np.inf, r"holds values that are not finite \(cell 'cell3', gene 'LYZ': inf\)\. Give raw counts"),
        (-np.inf, r"holds values that are not finite \(cell 'cell3', gene 'LYZ': -inf\)\. Give raw counts"),
    ],
)
def test_a_value_that_is_no_count_is_refused_by_name(table, refused, monkeypatch, kind, value, text):
    monkeypatch.setattr(_matrix, "ROWS_AT_ONCE", 2)  # the cell is in the second block
    with_counts(table, spoiled(3, 3, value), kind)
    with refused(table, ValueError, text):
        _adata.read_counts(table, "counts", np.array([False, True, True, True]))


@every_kind
def test_the_first_of_several_offenders_is_named(table, kind):
    values = spoiled(4, 0, -9)
    values[1, 3], values[1, 1], values[2, 0] = -2, -3, -4
    with pytest.raises(ValueError, match=r"cell 'cell1', gene 'MS4A1': -3"):
        _adata.read_counts(with_counts(table, values, kind), "counts", EVERY_GENE)


def test_a_bad_value_in_a_gene_that_is_not_used_does_no_harm(table):
    counts = _adata.read_counts(with_counts(table, spoiled(3, 3, -1)), "counts", np.array([True, True, True, False]))
    np.testing.assert_array_equal(counts.toarray(), COUNTS[:, :3])


def test_negative_integers_are_refused(table):
    with pytest.raises(ValueError, match=r"negative values \(cell 'cell0', gene 'MS4A1': -1\)"):
        _adata.read_counts(with_counts(table, spoiled(0, 1, -1), dtype=np.int32), "counts", EVERY_GENE)


def test_fractions_are_read_on_request(table):
    table = with_counts(table, COUNTS / 4)
    with pytest.raises(ValueError, match="or allow_non_integer=True for ambient-corrected counts"):
        _adata.read_counts(table, "counts", EVERY_GENE)
    counts = _adata.read_counts(table, "counts", EVERY_GENE, allow_non_integer=True)
    np.testing.assert_array_equal(counts.toarray(), COUNTS / 4)
    with pytest.raises(ValueError, match="holds negative values"):
        _adata.read_counts(with_counts(table, -COUNTS / 4), "counts", EVERY_GENE, allow_non_integer=True)


def test_x_is_named_as_x(table):
    table.X = np.log1p(COUNTS)
    with pytest.raises(ValueError, match=r"^X holds non-integer values \(cell 'cell0', gene 'CD3D': 0\.693147\)"):
        _adata.read_counts(table, None, EVERY_GENE)


@every_kind
def test_empty_cells_are_refused(table, refused, kind):
    values = COUNTS.copy()
    values[[2, 4]] = 0
    with_counts(table, values, kind)
    text = r"layers\['counts'\]: 2 cells have no counts in the 4 genes used \(first: 'cell2'\).*sc\.pp\.filter_cells"
    with refused(table, ValueError, text):
        _adata.read_counts(table, "counts", EVERY_GENE)


def test_a_cell_may_be_empty_in_the_genes_used_only(table):
    mask = np.array([False, True, False, False])
    with pytest.raises(ValueError, match=r"3 cells have no counts in the 1 genes used \(first: 'cell0'\).*mask_var"):
        _adata.read_counts(with_counts(table, COUNTS), "counts", mask)


@pytest.mark.parametrize("dtype", ["complex64", "object", "U3"])
def test_what_is_not_a_number_is_refused(table, dtype):
    text = r"layers\['counts'\] has dtype .*, which is not a number\. Give integer counts"
    with pytest.raises(TypeError, match=text):
        _adata.read_counts(with_counts(table, COUNTS, "dense", dtype), "counts", EVERY_GENE)


@pytest.mark.parametrize("kind", ["coo", "lil", "dok"])
def test_other_sparse_formats_are_refused(table, monkeypatch, kind):
    monkeypatch.setattr(_adata, "matrix_of", lambda adata, layer: (sp.csr_matrix(COUNTS).asformat(kind), "X"))
    with pytest.raises(TypeError, match=rf"X is a sparse matrix in {kind} format\. Convert it with \.tocsr\(\) first"):
        _adata.read_counts(table, None, EVERY_GENE)


def test_other_kinds_of_arrays_are_refused(table, monkeypatch):
    class Array:  # it has a shape and rows, and would compute who knows what
        shape, dtype = COUNTS.shape, COUNTS.dtype

        def __getitem__(self, rows):
            return COUNTS[rows]

    Array.__module__ = "cupy"
    monkeypatch.setattr(_adata, "matrix_of", lambda adata, layer: (Array(), "layers['counts']"))
    text = r"layers\['counts'\] is a cupy\.Array\. Give a numpy array, a scipy CSR or CSC matrix or array, a dask"
    with pytest.raises(TypeError, match=text):
        _adata.read_counts(table, "counts", EVERY_GENE)


def test_a_missing_layer_lists_those_there_are(table, refused):
    table.layers["raw"] = table.X.copy()
    with refused(
        table, KeyError, r"layer='counts' is not in adata\.layers, which holds \['raw'\]\. Run sc_vaenb\.pp\."
    ):
        _adata.matrix_of(table, "counts")
    with refused(table, KeyError, r"layer='spliced' .* which holds \['raw'\]\. Pass one of these, or layer=None for X"):
        _adata.matrix_of(table, "spliced")


def test_an_empty_x_is_refused():
    with pytest.raises(ValueError, match=r"adata\.X is empty\. Name the layer with raw counts"):
        _adata.matrix_of(ad.AnnData(obs=pd.DataFrame(index=["a"]), var=pd.DataFrame(index=["g"])), None)


# the AnnData as a whole


@pytest.mark.parametrize("thing", [COUNTS, sp.csr_matrix(COUNTS)])
def test_what_is_no_anndata_is_refused(thing):
    text = rf"adata is a {type(thing).__name__}, not an AnnData\. Wrap counts with anndata\.AnnData\(counts\) first"
    with pytest.raises(TypeError, match=text):
        _anndata_checks.check_anndata(thing)


@pytest.mark.parametrize(("cells", "genes"), [(0, 4), (5, 0), (0, 0)])
def test_nothing_to_fit_is_refused(table, cells, genes):
    with pytest.raises(ValueError, match=f"adata has {cells} cells and {genes} genes: there is nothing to fit"):
        _anndata_checks.check_anndata(table[:cells, :genes])


def test_duplicate_gene_names_are_refused(table, refused):
    table.var_names = ["CD3D", "LYZ", "NKG7", "LYZ"]
    text = r"var_names holds 1 duplicates \(first: 'LYZ'\).*Call adata\.var_names_make_unique\(\) first"
    with refused(table, ValueError, text):
        _anndata_checks.check_adata(table)


# masks of genes


def test_the_default_mask_is_used_where_it_exists(table):
    assert _adata.gene_mask(table, "highly_variable").tolist() == [True] * 4
    table.var["highly_variable"] = [True, False, False, True]
    assert _adata.gene_mask(table, "highly_variable").tolist() == [True, False, False, True]
    assert _adata.gene_mask(table, None).tolist() == [True] * 4


@pytest.mark.parametrize("make", [np.array, list, pd.Series, lambda m: pd.Series(m, dtype="boolean")])
def test_a_mask_can_be_an_array_or_a_column(table, make):
    chosen = [False, True, True, False]
    table.var["mine"] = np.asarray(make(chosen))
    assert _adata.gene_mask(table, "mine").tolist() == chosen
    if make(chosen) is not None and getattr(make(chosen), "dtype", bool) != "boolean":
        assert _adata.gene_mask(table, make(chosen)).tolist() == chosen


@pytest.mark.parametrize(
    ("mask", "error", "text"),
    [
        (
            np.zeros(4, bool),
            ValueError,
            r"mask_var selects no gene\. Run sc_vaenb\.pp\.prepare\(adata\) .*mask_var=None",
        ),
        ("none", ValueError, "mask_var selects no gene"),
        (np.ones(3, bool), ValueError, r"mask_var has dtype bool and shape \(3,\); give 4 booleans, one per gene"),
        (np.ones((4, 1), bool), ValueError, r"dtype bool and shape \(4, 1\); give 4 booleans"),
        (np.arange(4), ValueError, r"mask_var has dtype int64 and shape \(4,\); give 4 booleans, one per gene"),
        (["CD3D", "LYZ"], ValueError, r"mask_var has dtype <U4 and shape \(2,\); give 4 booleans"),
        ("number", ValueError, r"var\['number'\] has dtype float64, not bool without gaps\. Give a column of True and"),
        ("gaps", ValueError, r"var\['gaps'\] has dtype boolean, not bool without gaps"),
        ("absent", KeyError, r"mask_var='absent' is not in adata\.var\. Its columns are \['none', 'number', 'gaps'\]"),
    ],
)
def test_a_mask_that_cannot_be_is_refused(table, refused, mask, error, text):
    table.var["none"] = False
    table.var["number"] = 1.0
    table.var["gaps"] = pd.array([True, None, True, False], dtype="boolean")
    with refused(table, error, text):
        _adata.gene_mask(table, mask)


# genes without counts


def test_silent_genes_are_left_out_and_logged(log):
    values = COUNTS.copy()
    values[:, [1, 2]] = 0
    counts, genes = _adata.without_silent_genes(sp.csr_matrix(values), np.array(["CD3D", "MS4A1", "NKG7", "LYZ"]))
    assert genes.tolist() == ["CD3D", "LYZ"]
    np.testing.assert_array_equal(counts.toarray(), values[:, [0, 3]])
    text = "WARNING: 2 of 4 genes have no counts in these cells (first: 'MS4A1') and are left out of the model.\n"
    assert log.getvalue() == text


def test_nothing_is_logged_where_every_gene_has_counts(log):
    matrix = sp.csr_matrix(COUNTS)
    assert _adata.without_silent_genes(matrix, np.array(list("abcd")))[0] is matrix
    assert log.getvalue() == ""


# size factors


def test_size_factors_are_the_depth_of_the_genes_used_or_a_column(table):
    depth = _adata.read_size_factor(table, None, sp.csr_matrix(COUNTS[:, :2]))
    np.testing.assert_array_equal(depth, COUNTS[:, :2].sum(axis=1))
    for column in ([0.5, 1, 1.5, 2, 3], pd.array([1, 2, 3, 4, 5], dtype="Int64"), pd.Categorical([1, 2, 1, 2, 1])):
        table.obs["sf"] = column
        np.testing.assert_array_equal(_adata.read_size_factor(table, "sf", None), [float(x) for x in column])


@pytest.mark.parametrize(
    ("column", "text"),
    [
        (
            [1, 2, 0, 4, 5],
            r"obs\['sf'\] holds 1 size factors that are not positive numbers \(cell 'cell2': 0\)\. Remove",
        ),
        ([1, -2.5, 0, 4, 5], r"holds 2 size factors that are not positive numbers \(cell 'cell1': -2\.5\)"),
        (
            [1, 2, 3, np.nan, 5],
            r"holds 1 size .* \(cell 'cell3': nan\)\. Remove these cells or give other size factors",
        ),
        ([1, 2, np.inf, 3, 5], r"\(cell 'cell2': inf\)"),
        (pd.array([1, None, 3, 4, 5], dtype="Int64"), r"\(cell 'cell1': <NA>\)"),
        (["1", "2", "3", "4", "deep"], r"\(cell 'cell4': deep\)"),
    ],
)
def test_size_factors_that_cannot_be_are_refused(table, refused, column, text):
    table.obs["sf"] = column
    with refused(table, ValueError, text):
        _adata.read_size_factor(table, "sf", None)


@pytest.mark.parametrize("key", ["depth", None, 3, ["batch"]])
def test_an_unknown_obs_key_lists_the_columns(table, refused, key):
    with refused(table, KeyError, r"size_factor=.* is not in adata\.obs\. Its columns are \['batch'\]"):
        _obs.check_obs_key(table, "size_factor", key)


# batches


@pytest.mark.parametrize(
    ("column", "codes", "names"),
    [
        (["y", "x", "x", "y", "y"], [1, 0, 0, 1, 1], ["x", "y"]),
        ([10, 2, 2, 10, 10], [1, 0, 0, 1, 1], ["2", "10"]),
        ([True, False, False, True, True], [1, 0, 0, 1, 1], ["False", "True"]),
        (pd.Categorical(["y", "x", "x", "y", "y"], ["y", "x"]), [0, 1, 1, 0, 0], ["y", "x"]),
        (pd.Categorical(["y", "x", "x", "y", "y"], ["ghost", "y", "x", "z"]), [0, 1, 1, 0, 0], ["y", "x"]),
        (pd.array(["y", "x", "x", "y", "y"], dtype="string"), [1, 0, 0, 1, 1], ["x", "y"]),
    ],
)
def test_batches_of_any_type(table, column, codes, names, unchanged):
    table.obs["batch"] = column
    with unchanged(table):
        found, found_names = _obs.read_batches(table, "batch")
    assert found.tolist() == codes
    assert found.dtype == np.int64
    assert found_names.tolist() == names


@pytest.mark.parametrize(
    ("column", "text"),
    [
        (
            ["x"] * 5,
            r"obs\['batch'\] holds only one batch \('x'\): there is nothing to integrate\. Use sc_vaenb\.tl\.vae",
        ),
        (pd.Categorical(["x"] * 5, ["x", "y"]), r"holds only one batch \('x'\)"),
        (["x", "y", "y", "y", "y"], r"obs\['batch'\]: batch 'x' has one cell, .* Remove the cell, or merge the batch"),
        (
            ["x", None, "y", None, "y"],
            r"obs\['batch'\] is missing for 2 cells \(first: 'cell1'\)\. Label or remove them",
        ),
        ([1, 1, 2, 2, np.nan], r"obs\['batch'\] is missing for 1 cells \(first: 'cell4'\)"),
        (pd.Categorical(["x", "x", "y", "y", None]), r"is missing for 1 cells \(first: 'cell4'\)"),
    ],
)
def test_batches_that_cannot_be_are_refused(table, refused, column, text):
    table.obs["batch"] = column
    with refused(table, ValueError, text):
        _obs.read_batches(table, "batch")


def test_batches_are_found_among_those_a_model_knows(table):
    assert _obs.batch_codes(table, "batch", ["z", "y", "x"]).tolist() == [2, 2, 1, 1, 1]
    assert _obs.batch_codes(table[:1], "batch", ["z", "y", "x"]).tolist() == [2]
    with pytest.raises(ValueError, match=r"batches that the model was not fitted on: \['y'\]\. It knows \['x', 'z'\]"):
        _obs.batch_codes(table, "batch", ["x", "z"])


# choices and numbers


def test_a_column_that_is_there_twice_is_refused(table):
    table.obs = pd.concat([table.obs, table.obs], axis=1)
    table.var["chosen"] = True
    table.var = pd.concat([table.var, table.var], axis=1)
    with pytest.raises(ValueError, match=r"obs holds 2 columns named 'batch'\. Rename one of them, or keep one\."):
        _obs.batch_labels(table, "batch")
    with pytest.raises(ValueError, match=r"var holds 2 columns named 'chosen'"):
        _adata.gene_mask(table, "chosen")


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([1, "1", 1, 1, 1], r"holds values of one name and different types \(first: '1'\)\. Make all of them strings"),
        ([["a"]] * 5, r"holds values that are no names \(\['a'\]\)\. Make them strings: adata\.obs\['odd'\] = "),
    ],
)
def test_values_that_are_no_names_are_refused(table, values, text):
    table.obs["odd"] = pd.Series(values, index=table.obs_names, dtype=object)
    with pytest.raises(ValueError, match=text):
        _obs.read_categories(table, "batch_key", "odd")


def test_a_mask_in_another_order_is_refused(table):
    mask = pd.Series([True, False, True, True], index=table.var_names[::-1])
    with pytest.raises(ValueError, match=r"mask_var is a Series whose index is not var_names\. Give mask_var\.reindex"):
        _adata.gene_mask(table, mask)
    assert _adata.gene_mask(table, mask.reindex(table.var_names)).tolist() == [True, True, False, True]


def test_an_empty_cell_is_empty_in_the_genes_used_or_in_all(table):
    values = COUNTS.copy()
    values[0], values[1] = 0, [5, 0, 0, 0]
    mask = np.array([False, True, True, True])
    text = r"2 cells have no counts in the 3 genes used \(first: 'cell0'\).* 1 of them have none in any gene: remove"
    with pytest.raises(ValueError, match=text + r".*filter_cells.* 1 of them have counts in other genes: use more"):
        _adata.read_counts(with_counts(table, values), "counts", mask)
    values[0, 0] = 1
    with pytest.raises(ValueError, match=r"size factor\. They have counts in other genes: use more genes \(mask_var\)"):
        _adata.read_counts(with_counts(table, values), "counts", mask)


# the record


def test_genes_are_located_by_name(table, refused):
    assert _adata.locate_genes(table, ["LYZ", "CD3D"], "vae").tolist() == [3, 0]
    text = (
        r"2 of the 3 genes of the model in uns\['vae'\] are not in var_names \(first: 'FOXP3'\)\. Use an AnnData with"
    )
    with refused(table, ValueError, text):
        _adata.locate_genes(table, ["FOXP3", "CD3D", "IL7R"], "vae")


def test_a_result_on_a_view_makes_it_its_own(table, unchanged):
    view = table[:2]
    with unchanged(table):
        _adata.write_result(view, "mine", np.ones((2, 3), np.float32), {"params": {}})
    assert not view.is_view
    np.testing.assert_array_equal(view.obsm["X_mine"], 1)
    assert view.uns["mine"] == {"params": {}}


def test_batches_of_one_name_and_two_types_are_refused(adata, refused):
    adata.obs["mixed"] = pd.Series([1, "1"] * (adata.n_obs // 2), index=adata.obs_names, dtype=object).astype(
        "category"
    )
    with refused(adata, ValueError, "values of one name and different types"):
        sc_vaenb.tl.cvae(adata, "mixed", n_steps=2)


def test_values_beyond_float32_are_refused(adata, refused):
    adata.layers["huge"] = adata.layers["counts"].astype(np.float64)
    adata.layers["huge"].data[0] = 1e39
    with refused(adata, ValueError, "values that are not finite .*1e\\+39"):
        sc_vaenb.tl.vae(adata, layer="huge", n_steps=2)


def test_half_precision_counts_are_read(adata, fast):
    adata.layers["half"] = adata.layers["counts"].toarray().astype(np.float16)
    a, b = (sc_vaenb.tl.vae(adata, layer=layer, copy=True, **fast).obsm["X_vae"] for layer in ("half", "counts"))
    assert np.array_equal(a, b)


def test_all_of_many_genes_are_used_with_a_warning(monkeypatch, adata, fast, log):
    monkeypatch.setattr(_adata, "MANY_GENES", 50)
    sc_vaenb.tl.vae(adata, **fast)
    assert f"so all {adata.n_vars:,} genes are used; sc_vaenb.pp.prepare(adata) chooses 2,000" in log.getvalue()
