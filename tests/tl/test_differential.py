"""`tl.differential`: it finds what differs, its FDR holds, batches do not enter, and scanpy can read it."""

import subprocess
import sys

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import torch
from scipy.stats import spearmanr

import sc_vaenb

# pandas 3.1 warns of what scanpy 1.12 does in get.rank_genes_groups_df
pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame.drop is deprecated")

COLUMNS = [
    "group", "names", "scores", "logfoldchanges", "probability", "local_fdr", "fdr", "mean_group", "mean_reference",
    "pct_nz_group", "pct_nz_reference",
]  # fmt: skip


def compared(adata, groupby="cell_type", *args, **options):
    sc_vaenb.tl.differential(adata, groupby, *args, device="cpu", **options)
    return adata.uns[options.get("key_added", "differential")]["table"]


def of(table, group):
    return table[table["group"] == group].set_index("names")


def log_normalised(adata):
    adata = adata.copy()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    return adata


@pytest.fixture(scope="module")
def unequal(fast):
    """Types in unequal shares in batches that differ much, and in depth: a test of all cells finds the batches."""
    share = [[6, 3, 1], [1, 3, 6]]
    options = {"n_types": 3, "composition": share, "mean_depth": [400, 1200], "batch_strength": 0.7, "marker_fold": 3}
    adata = sc_vaenb.datasets.simulate(600, 300, rng=1, **options)
    adata.layers["counts"] = adata.X.copy()
    sc_vaenb.tl.cvae(adata, "batch", **fast | {"n_steps": 60})
    return adata


def true_log2_fold(adata, code, others):
    """Of one type against others of equal weight, within batches; rates are shares of the depth."""
    truth = adata.uns["truth"]
    share = np.exp(truth["type_log_rate"] + truth["batch_log_effect"][:, None])
    share /= share.sum(2, keepdims=True)
    return np.log2(share[:, code].mean(0) / share[:, others].mean(0))


def test_false_discoveries_are_as_few_as_promised_and_most_true_ones_are_found(unequal):
    wrong, found, n_true = {0.05: 0, 0.2: 0}, {0.05: 0, 0.2: 0}, 0
    for code, (other, reference) in enumerate([(1, "type_1"), (2, "type_2"), (0, "type_0")]):
        table = of(compared(unequal.copy(), groups=[f"type_{code}"], reference=reference), f"type_{code}")
        differs = np.abs(true_log2_fold(unequal, code, [other])) > 0.25
        fdr = table.loc[unequal.var_names, "fdr"].to_numpy()
        n_true += differs.sum()
        for nominal in wrong:
            wrong[nominal] += ((fdr <= nominal) & ~differs).sum()
            found[nominal] += ((fdr <= nominal) & differs).sum()
    for nominal, allowed in ((0.05, 0.1), (0.2, 0.3)):
        assert wrong[nominal] / (wrong[nominal] + found[nominal]) < allowed
    assert found[0.05] / n_true > 0.7


def test_batches_that_hold_other_shares_of_the_groups_do_not_make_differences(unequal):
    """The t-test, which does not know the batches, calls what they do."""
    same = ~unequal.var["is_marker"].to_numpy()
    table = of(compared(unequal.copy(), groups=["type_0"], reference="type_2"), "type_0").loc[unequal.var_names]
    lay = log_normalised(unequal)
    sc.tl.rank_genes_groups(lay, "cell_type", groups=["type_0"], reference="type_2", method="t-test")
    test = sc.get.rank_genes_groups_df(lay, "type_0").set_index("names").loc[unequal.var_names]
    assert (table["fdr"][same] <= 0.05).sum() <= 5
    assert (test["pvals_adj"][same] <= 0.05).sum() > 50


def test_it_finds_the_markers_and_ranks_genes_as_the_t_test_does(fitted):
    table = compared(fitted)
    lay = log_normalised(fitted)
    sc.tl.rank_genes_groups(lay, "cell_type", method="t-test")
    for group in ("type_0", "type_1", "type_2"):
        test, own = sc.get.rank_genes_groups_df(lay, group).set_index("names"), of(table, group)
        assert spearmanr(own["scores"], test["scores"].loc[own.index])[0] > 0.8
        markers = fitted.var_names[fitted.var["marker_of"] == group]
        assert markers.isin(own.index[: len(markers) + 2]).mean() >= 0.8
        assert own.loc[markers, "logfoldchanges"].median() == pytest.approx(2, abs=0.4)
        assert (own.loc[markers, "fdr"] < 0.05).mean() >= 0.9


def test_halves_of_one_group_do_not_differ(unequal):
    part = unequal[unequal.obs["cell_type"] == "type_1"].copy()
    for seed in range(3):
        part.obs["half"] = np.random.default_rng(seed).permutation(np.arange(part.n_obs) % 2).astype(str)
        table = compared(part, "half")
        assert (table["fdr"] > 0.05).all()
        assert table["scores"].std() == pytest.approx(1, abs=0.25)


def test_what_is_written(fitted, unchanged):
    with unchanged(fitted):
        result = sc_vaenb.tl.differential(fitted, "cell_type", copy=True, device="cpu")
    assert set(result.uns) - set(fitted.uns) == {"differential"}
    assert sc_vaenb.tl.differential(fitted, "cell_type", device="cpu", key_added="other") is None
    table = fitted.uns["other"]["table"]
    pd.testing.assert_frame_equal(table, result.uns["differential"]["table"])  # the same seed, the same result
    assert table.columns.tolist() == COLUMNS
    assert table["group"].cat.categories.tolist() == ["type_0", "type_1", "type_2"]
    x = fitted.layers["counts"].toarray()
    for group, part in table.groupby("group", observed=True):
        assert sorted(part["names"]) == sorted(fitted.var_names)
        assert part["scores"].is_monotonic_decreasing
        np.testing.assert_allclose(part["probability"] + part["local_fdr"], 1)
        ordered = part.sort_values("local_fdr")
        assert ordered["fdr"].is_monotonic_increasing
        assert (part["fdr"] <= part["local_fdr"] + 1e-12).all()
        here = (fitted.obs["cell_type"] == group).to_numpy()
        part = part.set_index("names").loc[fitted.var_names]
        np.testing.assert_allclose(part["pct_nz_group"], (x[here] > 0).mean(0))
        np.testing.assert_allclose(part["pct_nz_reference"], (x[~here] > 0).mean(0))
        for column, cells in (("mean_group", here), ("mean_reference", ~here)):
            expected = 1e4 * x[cells].sum(0) / x[cells].sum()
            assert np.median(np.abs(np.log(part[column] / expected))) < 0.1
            assert part[column].sum() == pytest.approx(1e4, rel=0.05)


@pytest.mark.slow
def test_scanpy_reads_it_also_from_a_file_and_in_a_fresh_process(fitted, tmp_path):
    table = of(compared(fitted), "type_1")
    fitted.write_h5ad(tmp_path / "a.h5ad")
    code = (
        "import sys, anndata, scanpy, sc_vaenb\n"
        "adata = anndata.read_h5ad(sys.argv[1])\n"
        "sc_vaenb.tl.differential(adata, 'cell_type', device='cpu', key_added='again')\n"
        "for key in ('differential', 'again'):\n"
        "    scanpy.get.rank_genes_groups_df(adata, 'type_1', key=key).to_csv(sys.argv[2] + key)\n"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "a.h5ad", f"{tmp_path}/"], check=True)
    frames = [sc.get.rank_genes_groups_df(fitted, "type_1", key="differential").set_index("names")]
    frames += [pd.read_csv(tmp_path / name, index_col="names") for name in ("differential", "again")]
    for frame in frames:
        assert frame.index.tolist() == table.index.tolist()
        for own, name in (("local_fdr", "pvals"), ("fdr", "pvals_adj"), ("scores", "scores")):
            np.testing.assert_allclose(frame[name], table[own], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(frame["pct_nz_group"], table["pct_nz_group"])
    every = sc.get.rank_genes_groups_df(fitted, None, key="differential", pval_cutoff=0.05)
    assert len(every) == (fitted.uns["differential"]["table"]["fdr"] < 0.05).sum()
    back = ad.read_h5ad(tmp_path / "a.h5ad").uns["differential"]["table"]
    np.testing.assert_allclose(of(back, "type_1")["probability"], table["probability"])


def test_groups_with_a_slash_in_their_name_can_be_written(fitted, tmp_path):
    fitted.obs["cell_type"] = fitted.obs["cell_type"].cat.rename_categories({"type_0": "CD4+/CD25 T"})
    table = of(compared(fitted), "CD4+/CD25 T")
    fitted.write_h5ad(tmp_path / "a.h5ad")
    frame = sc.get.rank_genes_groups_df(ad.read_h5ad(tmp_path / "a.h5ad"), "CD4+/CD25 T", key="differential")
    assert frame["names"].tolist() == table.index.tolist()


def test_groups_references_and_cells_without_a_group(fitted):
    fitted.obs["kind"] = fitted.obs["cell_type"].astype(object)
    fitted.obs.loc[fitted.obs["cell_type"] == "type_2", "kind"] = None
    alone = compared(fitted, "kind")  # without type_2, the rest of type_0 is type_1
    named = compared(fitted, groups=["type_0"], reference="type_1")
    assert named["group"].unique().tolist() == ["type_0"]
    own = of(alone, "type_0")
    np.testing.assert_allclose(own["scores"], of(named, "type_0").loc[own.index, "scores"], atol=0.3)
    opposite = of(alone, "type_1").loc[own.index]
    np.testing.assert_allclose(own["scores"], -opposite["scores"], atol=1e-6)
    assert compared(fitted, reference="type_1")["group"].unique().tolist() == ["type_0", "type_2"]


def test_the_larger_delta_the_fewer_genes(fitted):
    called = [(compared(fitted, delta=delta)["fdr"] < 0.05).sum() for delta in (0.1, 0.5, 1.5, 3.0)]
    assert called == sorted(called, reverse=True)
    assert called[0] > called[-1] == 0


@pytest.mark.slow
@pytest.mark.parametrize("likelihood", ["poisson", "zinb", "gaussian"])
def test_every_likelihood_finds_the_same(fitted, fast, likelihood):
    own = of(compared(fitted), "type_0")
    sc_vaenb.tl.vae(fitted, likelihood=likelihood, key_added="other", **fast)  # a model that knows no batches, besides
    other = of(compared(fitted, "cell_type", "other"), "type_0").loc[own.index]
    assert spearmanr(own["scores"], other["scores"])[0] > 0.9
    assert np.abs(own["logfoldchanges"] - other["logfoldchanges"]).median() < 0.15


def test_the_seed_changes_samples_and_nothing_else_random(fitted):
    before = torch.get_rng_state()
    first, second = (compared(fitted, n_samples=1, rng=seed).set_index(["group", "names"]) for seed in (0, 1))
    assert (torch.get_rng_state() == before).all()
    second = second.loc[first.index]
    assert 0 < np.abs(first["scores"] - second["scores"]).median() < 0.2


def test_the_log_says_what_was_done(fitted, log):
    compared(fitted, groups=["type_0"])
    assert "comparing 1 groups of obs['cell_type'] with 'rest', by uns['vae']" in log.getvalue()


# refusals


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"groupby": "no"}, KeyError, r"groupby='no' is not in adata\.obs"),
        ({"groupby": "one"}, ValueError, r"obs\['one'\] holds the groups \['a'\]: two or more are needed"),
        ({"groups": "B"}, ValueError, r"groups=\['B'\] are not in obs\['cell_type'\]"),
        ({"groups": {"B"}}, TypeError, r"groups=\{'B'\} is not possible\. Give names of groups"),
        ({"groups": ["B"]}, ValueError, r"groups=\['B'\] are not in obs\['cell_type'\], which holds \['type_0', "),
        ({"groups": []}, ValueError, r"groups=\[\] leaves nothing to compare with reference='rest'"),
        (
            {"groups": ["type_1"], "reference": "type_1"},
            ValueError,
            "leaves nothing to compare with reference='type_1'",
        ),
        ({"reference": "B"}, ValueError, r"reference='B' is not in obs\['cell_type'\]\. Choose 'rest' or one of \['ty"),
        ({"delta": 0}, ValueError, r"delta=0 is not possible\. Give a number above 0"),
        ({"n_samples": 0.5}, ValueError, r"n_samples=0\.5 is not possible\. Give a whole number at least 1"),
        ({"rng": -1}, ValueError, "rng=-1 is not possible"),
        ({"key_added": "a/b"}, ValueError, "key_added='a/b' is not possible"),
        ({"key_added": "vae"}, ValueError, "key_added='vae' names a model in uns, which would be lost"),
        ({"key": "cvae"}, KeyError, r"uns\['cvae'\] holds no model fitted by sc_vaenb; uns has \['vae'\]"),
        ({"device": "abacus"}, ValueError, "device='abacus' is not available here"),
        ({"groupby": "single"}, ValueError, r"group 'a' has one cell, too few to compare\. Leave it out"),
        ({"groupby": "batch"}, ValueError, r"no batch holds cells of both 'batch_0' and 'rest', so that their diff"),
    ],
)
def test_what_cannot_be_is_refused(fitted, refused, options, error, text):
    fitted.obs["one"] = "a"
    fitted.obs["single"] = ["a"] + ["b"] * 299
    with refused(fitted, error, text):
        sc_vaenb.tl.differential(fitted, **{"groupby": "cell_type"} | options)


def test_genes_counts_and_models_that_cannot_be_are_refused(fitted, refused):
    part = fitted[:, 2:].copy()
    with refused(part, ValueError, r"2 of the 100 genes of the model in uns\['vae'\] are not in var_names"):
        sc_vaenb.tl.differential(part, "cell_type")
    with pytest.raises(TypeError, match="adata is a dict, not an AnnData"):
        sc_vaenb.tl.differential({}, "cell_type")
    fitted.uns["vae"]["model"]["config"] = "{}"
    with refused(fitted, ValueError, r"the model in uns\['vae'\] is damaged"):
        sc_vaenb.tl.differential(fitted, "cell_type")
