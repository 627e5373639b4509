"""`tl.differential(sample_key=)`: donors are the replicates, nested or crossed; it says when they are too few."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from scipy import sparse

import sc_vaenb

# pandas 3.1 warns of what scanpy 1.12 does in get.rank_genes_groups_df
pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame.drop is deprecated")
DELTA = 0.25


def donors_in_conditions(rng, n_donors=(4, 4), crossed=0, donor_sd=0.4, response_sd=0.0, share=0.25, n_genes=200):
    """Counts of 25 to 75 cells of each donor and condition; the first `crossed` donors have cells of both."""
    base, fold = rng.normal(0, 1, n_genes), np.zeros(n_genes)
    fold[: round(share * n_genes)] = rng.choice([-2, -1, 1, 2], round(share * n_genes))
    units = [(d, "case") for d in range(n_donors[0])]
    units += [(d if d < crossed else n_donors[0] + d, "control") for d in range(n_donors[1])]
    own = rng.normal(0, donor_sd, (sum(n_donors), n_genes))
    counts, obs = [], []
    for donor, condition in units:
        effect = own[donor] + rng.normal(0, response_sd, n_genes)
        rate = np.exp(base + effect + (condition == "case") * fold * np.log(2))
        n = rng.integers(25, 76)
        mean = 600 * rng.lognormal(0, 0.3, (n, 1)) * rate / rate.sum()
        counts.append(rng.poisson(rng.gamma(2, mean / 2)))
        obs += [(f"d{donor}", condition)] * n
    adata = ad.AnnData(
        sparse.csr_matrix(np.concatenate(counts).astype(np.float32)),
        obs=pd.DataFrame(
            obs, columns=["donor", "condition"], index=[f"c{i}" for i in range(len(obs))], dtype="category"
        ),
        var=pd.DataFrame({"fold": fold}, index=[f"g{i}" for i in range(n_genes)]),
    )
    sc.pp.filter_cells(adata, min_counts=10)
    return adata


def with_model(adata, fast, batch_key=None):
    """A model knows genes, size factors and batches, which is all that is read of it here: two steps are enough."""
    options = fast | {"n_steps": 2, "layer": None}
    if batch_key is None:
        sc_vaenb.tl.vae(adata, **options)
    else:
        sc_vaenb.tl.cvae(adata, batch_key, **options)
    return adata


@pytest.fixture(scope="module")
def model(fast):
    """The record of a model of these genes."""
    return with_model(donors_in_conditions(np.random.default_rng(0)), fast).uns["vae"]


def case_table(adata, **options):
    options = {"groups": ["case"], "reference": "control", "sample_key": "donor", "device": "cpu"} | options
    sc_vaenb.tl.differential(adata, "condition", **options)
    return adata.uns["differential"]["table"].set_index("names").loc[adata.var_names]


DESIGNS = {
    "nested": {},
    "nested, null": {"share": 0.0},
    "crossed": {"n_donors": (5, 5), "crossed": 5, "response_sd": 0.2},
    "crossed, null": {"n_donors": (5, 5), "crossed": 5, "response_sd": 0.3, "share": 0.0},
    "mixed": {"n_donors": (6, 6), "crossed": 3, "response_sd": 0.2},
}
POWER = {"nested": 0.4, "crossed": 0.6, "mixed": 0.5}


@pytest.mark.slow
@pytest.mark.parametrize("design", DESIGNS)
def test_false_discoveries_are_few_where_donors_differ_and_most_true_ones_are_found(model, design):
    """The test of cells calls many genes that do not differ between the populations of donors."""
    false, true, n_true, by_cells = 0, 0, 0, 0
    for seed in range(8):
        adata = donors_in_conditions(np.random.default_rng(seed), **DESIGNS[design])
        adata.uns["vae"] = model
        same = (adata.var["fold"] == 0).to_numpy()
        called = (case_table(adata)["fdr"] <= 0.05).to_numpy()
        false, true, n_true = false + (called & same).sum(), true + (called & ~same).sum(), n_true + (~same).sum()
        if seed == 0:
            by_cells = ((case_table(adata, sample_key=None)["fdr"] <= 0.05).to_numpy() & same).sum()
    assert by_cells > 10
    if n_true:
        assert false / (false + true) < 0.08
        assert true / n_true > POWER[design]
    else:
        assert false <= 1


def test_the_batch_may_be_the_donor(fast):
    """Without sample_key this is refused, as no batch holds both; the refusal says what to do."""
    data = donors_in_conditions(np.random.default_rng(0))
    adata = with_model(data, fast, "donor")
    with pytest.raises(
        ValueError, match=r"no batch holds cells .* compare donors with sample_key='donor' \(at least two"
    ):
        case_table(adata, sample_key=None)
    table = case_table(adata)
    # the model is not asked about expression
    pd.testing.assert_frame_equal(table, case_table(with_model(data.copy(), fast)))
    assert (table["fdr"] <= 0.05).sum() > 10


def test_what_is_written(fast, tmp_path, unchanged):
    adata = with_model(
        donors_in_conditions(np.random.default_rng(0), n_donors=(6, 6), crossed=3, response_sd=0.3), fast
    )
    with unchanged(adata):
        result = sc_vaenb.tl.differential(adata, "condition", sample_key="donor", copy=True, device="cpu")
    found = result.uns["differential"]
    assert found["params"]["sample_key"] == "donor"
    assert found["donors"]["group"].tolist() == ["case", "control"]
    assert found["donors"][["n_donors_group", "n_donors_reference", "n_pairs"]].to_numpy().tolist() == [[6, 6, 3]] * 2
    table = found["table"]
    assert table.columns[-3:].tolist() == ["p_value", "df", "donor_sd"]
    assert table["donor_sd"].mean() > 0.1
    own, other = (table[table["group"] == g].set_index("names").loc[adata.var_names] for g in ("case", "control"))
    np.testing.assert_allclose(own["scores"], -other["scores"], atol=1e-6)
    x = adata.X.toarray()[(adata.obs["condition"] == "case").to_numpy()]
    np.testing.assert_allclose(own["pct_nz_group"], (x > 0).mean(0))
    assert np.corrcoef(np.log(own["mean_group"]), np.log(x.sum(0)))[0, 1] > 0.95
    raw = np.log2(own["mean_group"] / own["mean_reference"])
    assert np.corrcoef(raw, own["logfoldchanges"])[0, 1] > 0.8
    result.write_h5ad(tmp_path / "a.h5ad")
    back = ad.read_h5ad(tmp_path / "a.h5ad")
    frame = sc.get.rank_genes_groups_df(back, "case", key="differential").set_index("names").loc[adata.var_names]
    np.testing.assert_allclose(frame["pvals_adj"], own["fdr"], rtol=1e-5)
    pd.testing.assert_frame_equal(back.uns["differential"]["donors"], found["donors"], check_dtype=False)


def test_donors_that_differ_in_depth_and_a_gene_that_takes_many_counts(fast):
    """Depth is a share: a gene that takes half of one donor's counts lowers all its others."""
    adata = donors_in_conditions(np.random.default_rng(1), donor_sd=0.1, share=0.0)
    x = adata.X.toarray()
    odd = adata.obs["donor"].isin(["d0", "d1"]).to_numpy()
    x[odd, 0] += x[odd].sum(1)
    adata.X = sparse.csr_matrix(x)
    table = case_table(with_model(adata, fast))
    assert (table["fdr"].iloc[1:] > 0.05).all()
    assert table["donor_sd"].iloc[1:].median() < 0.3


def test_batches_of_several_donors_are_compared_within_themselves(fast):
    rng = np.random.default_rng(2)
    adata = donors_in_conditions(rng, n_donors=(6, 6), donor_sd=0.1, share=0.0)
    lane = adata.obs["donor"].astype(str).str[1:].astype(int).isin([0, 1, 2, 3, 6, 7]).to_numpy()
    adata.obs["lane"] = pd.Categorical(np.where(lane, "lane 1", "lane 2"))
    x = adata.X.toarray()
    x[lane] = rng.poisson(x[lane] * rng.lognormal(0, 1, adata.n_vars))
    adata.X = sparse.csr_matrix(x.astype(np.float32))
    sc.pp.filter_cells(adata, min_counts=10)
    unaware = case_table(with_model(adata.copy(), fast))
    aware = case_table(with_model(adata, fast, "lane"))
    assert (aware["fdr"] > 0.05).all()
    assert aware["donor_sd"].median() < unaware["donor_sd"].median() / 2


WARNING = "seems to hold"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("column", "values", "warned"),
    [
        ("donor", "donor", True),
        ("Patient_ID", "donor", True),
        ("sample", "donor", True),
        ("orig.ident", "donor", True),  # nested in conditions
        ("library", "donor", True),
        ("library", "half", False),  # crosses conditions: a batch as good as any
        ("mouse", "half", True),
        ("sample", "condition", False),  # the groups themselves
        ("donor", "cell", False),  # a value for each cell
        ("donor_age", "donor", False),
        ("n_samples", "number", False),
    ],
)
def test_a_column_that_seems_to_hold_donors_is_named_if_it_is_left_out(fast, log, column, values, warned):
    adata = donors_in_conditions(np.random.default_rng(0), share=0.0)
    kinds = {
        "donor": adata.obs["donor"].to_numpy(),
        "condition": adata.obs["condition"].to_numpy(),
        "half": np.arange(adata.n_obs) % 2,
        "cell": np.arange(adata.n_obs),
        "number": np.linspace(0, 1, adata.n_obs),
    }
    del adata.obs["donor"]
    adata.obs[column] = kinds[values]
    with_model(adata, fast)
    sc_vaenb.tl.differential(adata, "condition", device="cpu")
    assert (WARNING in log.getvalue()) == warned
    if warned:
        assert f"obs[{column!r}] seems to hold" in log.getvalue()
        assert f"Pass sample_key={column!r} to compare donors" in log.getvalue()
        sc_vaenb.tl.differential(adata, "condition", sample_key=column, device="cpu")
        assert log.getvalue().count(WARNING) == 1


@pytest.fixture(scope="module")
def nested(fast):
    adata = donors_in_conditions(np.random.default_rng(0))
    number = adata.obs["donor"].astype(str).str[1:].astype(int)
    adata.obs["lane"] = pd.Categorical(np.where(number < 4, "1", "2"))  # one for each condition
    adata.obs["one"] = pd.Categorical(np.where(number < 4, "all", adata.obs["donor"].astype(str)))
    adata.obs["gap"] = adata.obs["donor"].astype(object).where(np.arange(adata.n_obs) > 1, None)
    return with_model(adata, fast, "lane")


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"sample_key": "no"}, KeyError, r"sample_key='no' is not in adata\.obs"),
        ({"sample_key": "condition"}, ValueError, "sample_key='condition' is also groupby"),
        ({"sample_key": "gap"}, ValueError, r"obs\['gap'\] is missing for 2 of the cells to compare \(first: 'c0'\)"),
        (
            {"sample_key": "one"},
            ValueError,
            r"'case' has cells of only one donor \('all' in obs\['one'\]\).*At least two donors are needed on each",
        ),
        ({"groups": ["control"], "reference": "rest", "sample_key": "one"}, ValueError, "'rest' has cells of only one"),
        (
            {"sample_key": "donor"},
            ValueError,
            r"no batch in obs\['lane'\] holds donors of both 'case' and 'control'.*pass sample_key='lane'",
        ),
    ],
)
def test_donors_that_cannot_tell_are_refused(nested, refused, options, error, text):
    with refused(nested, error, text):
        case_table(nested, **options)


def test_knockout_airways_of_seven_animals(published, fast):
    """Published: among 3 and 4 animals only CFTR itself is sure to differ; a test of cells calls hundreds of genes."""
    adata = published("de_pig_airway_cf_7animals")
    adata = with_model(adata[adata.obs["cell_type"] == "Secretory cell"].copy(), fast, "donor")
    sc_vaenb.tl.differential(adata, "condition", groups=["CFTRKO"], sample_key="donor", device="cpu")
    table = adata.uns["differential"]["table"]
    assert (table["fdr"] <= 0.05).sum() <= 1
    assert table.loc[table["p_value"].idxmin(), "names"] == "CFTR"
