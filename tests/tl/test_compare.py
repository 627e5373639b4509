from functools import wraps

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc

import sc_vaenb
from sc_vaenb.fit import history
from sc_vaenb.tl import _compare, _graph, _runs
from sc_vaenb.tl._findings import ADVICE, BEST, NEEDED
from sc_vaenb.tl._fingerprints import side_input_checksums

from ..contract.table import snapshot

KEYS = ["pca", "pca_harmony", "vae", "cvae"]


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Models of a tenth of a second."""
    for name in ("vae", "cvae"):
        defaults = getattr(_runs, name).__kwdefaults__
        for parameter, value in {"n_latent": 4, "hidden": (16,), "n_steps": 20}.items():
            monkeypatch.setitem(defaults, parameter, value)


@pytest.fixture(scope="module")
def _ready(simulated):
    adata = simulated.copy()
    sc_vaenb.pp.prepare(adata, batch_key="batch")
    return adata


@pytest.fixture
def ready(_ready):
    return _ready.copy()


def refuses_to_run(monkeypatch, name, error):
    original = getattr(_runs, name)

    @wraps(original)
    def function(*_, **__):
        raise error

    function.__kwdefaults__ = original.__kwdefaults__
    monkeypatch.setattr(_runs, name, function)


def run(adata, **arguments):
    return sc_vaenb.tl.compare(adata, "batch", label_key="cell_type", device="cpu", **arguments)


@pytest.mark.slow
def test_everything_is_there_and_a_second_call_computes_nothing(ready, tmp_path, monkeypatch, unchanged):
    with unchanged(ready):
        result = run(ready, copy=True)
    for key in KEYS:
        assert {f"X_{key}", f"X_umap_{key}"} <= set(result.obsm)
        assert f"leiden_{key}" in result.obs
        assert f"neighbors_{key}_connectivities" in result.obsp
    record = result.uns["compare"]
    assert record["methods"]["method"].tolist() == ["PCA", "Harmony", "VAE", "CVAE"]
    assert record["scores"]["values"].index.tolist() == [f"X_{key}" for key in KEYS]
    assert record["verdict"].startswith("Best: ")
    assert record["findings"]["question"].tolist()[:3] == [BEST, ADVICE, NEEDED]
    assert record["failed"] == {}

    result.write_h5ad(tmp_path / "a.h5ad")
    again = anndata.read_h5ad(tmp_path / "a.h5ad")
    monkeypatch.setattr(
        _compare, "neighbors_leiden_umap", lambda *_, again, **__: again and pytest.fail("computed again")
    )
    for name in ("vae", "cvae", "harmony", "log_pca"):
        refuses_to_run(monkeypatch, name, AssertionError("computed again"))
    pd.testing.assert_frame_equal(again.uns["compare"]["findings"], record["findings"], check_dtype=False)
    run(again)
    assert again.uns["compare"]["failed"] == {}
    assert again.uns["compare"]["verdict"] == record["verdict"]
    pd.testing.assert_frame_equal(
        again.uns["compare"]["scores"]["values"].drop(columns="seconds"),
        record["scores"]["values"].drop(columns="seconds"),
    )


@pytest.mark.slow
def test_a_comparison_goes_on_where_it_was(ready, monkeypatch):
    run(ready)
    before = {key: ready.obsm[f"X_{key}"].copy() for key in KEYS}
    seconds = ready.uns["compare"]["methods"]["seconds"].tolist()
    calls = []
    original = _compare.neighbors_leiden_umap
    monkeypatch.setattr(
        _compare,
        "neighbors_leiden_umap",
        lambda *a, again, **k: (calls.append((a[1], again)), original(*a, again=again, **k)),
    )
    run(ready, variants={"linear": {"hidden": ()}})
    assert calls == [*((key, False) for key in KEYS), ("linear", True)]
    for key in KEYS:
        np.testing.assert_array_equal(ready.obsm[f"X_{key}"], before[key])
    methods = ready.uns["compare"]["methods"]
    assert methods["method"].tolist() == ["PCA", "Harmony", "VAE", "CVAE", "linear"]
    assert methods["seconds"].tolist()[:4] == seconds


@pytest.mark.slow
def test_a_comparison_that_is_interrupted_loses_nothing(ready, monkeypatch):
    run(ready, variants={"linear": {"hidden": ()}})
    scores = ready.uns["compare"]["scores"]["values"]
    before = {key: ready.obsm[f"X_{key}"].copy() for key in [*KEYS, "linear"]}
    del ready.obsm["X_pca_harmony"]  # to be computed again, and then Ctrl-C
    with monkeypatch.context() as patch:
        patch.setattr(_runs, "harmony", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(ready)
    pd.testing.assert_frame_equal(ready.uns["compare"]["scores"]["values"], scores)
    run(ready)  # without the variant, and then with it again
    for name in ("vae", "cvae", "log_pca"):
        refuses_to_run(monkeypatch, name, AssertionError("computed again"))
    run(ready, variants={"linear": {"hidden": ()}})
    assert ready.uns["compare"]["failed"] == {}
    for key, embedding in before.items():
        np.testing.assert_allclose(ready.obsm[f"X_{key}"], embedding, atol=1e-5)
    assert not [key for key in ready.obsm if key.endswith("_compare")]


@pytest.mark.slow
def test_an_interruption_between_fit_and_umap_loses_no_fit(ready, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(_graph.sc.tl, "umap", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(ready)
    run(ready)
    assert ready.uns["compare"]["methods"]["embedding"].tolist() == [f"X_{key}" for key in KEYS]


@pytest.mark.slow
def test_half_a_fit_is_not_scored(ready, monkeypatch):
    """A fit alone keeps its best weights on Ctrl-C; a comparison ends there, and makes the fit anew the next time."""
    kept = history.History.is_due
    monkeypatch.setattr(history.History, "is_due", lambda self, step: interrupted() if step == 12 else kept(self, step))
    with pytest.raises(KeyboardInterrupt):
        run(ready)
    assert "X_vae" not in ready.obsm
    assert "vae" not in ready.uns
    monkeypatch.setattr(history.History, "is_due", kept)
    run(ready)
    assert ready.uns["compare"]["methods"]["embedding"].tolist() == [f"X_{key}" for key in KEYS]
    assert ready.uns["vae"]["verdict"]["status"] != "interrupted"


def interrupted(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.slow
def test_results_of_the_user_keep_their_names(ready):
    sc_vaenb.tl.cvae(ready, "batch", n_latent=3, n_steps=5, device="cpu")
    own = ready.obsm["X_vae"].copy()
    run(ready)
    np.testing.assert_array_equal(ready.obsm["X_vae"], own)
    assert ready.uns["vae"]["params"]["n_latent"] == 3
    assert ready.uns["vae_compare"]["params"]["method"] == "vae"
    first = ready.uns["compare"]["methods"]["embedding"].tolist()
    assert "X_vae_compare" in first
    run(ready, key_added="other")
    second = ready.uns["other"]["methods"]["embedding"].tolist()
    assert "X_vae_compare2" in second
    assert not set(first) & set(second)


@pytest.mark.slow
def test_clusters_and_planes_of_the_user_keep_their_names(ready):
    ready.obs["leiden_cvae"] = pd.Categorical(ready.obs["cell_type"])  # and they are the labels
    ready.obsm["X_umap_vae"] = np.zeros((300, 2))
    sc_vaenb.tl.compare(ready, "batch", label_key="leiden_cvae", device="cpu")
    assert ready.obs["leiden_cvae"].tolist() == ready.obs["cell_type"].tolist()
    assert not ready.obsm["X_umap_vae"].any()
    keys = ready.uns["compare"]["methods"]["embedding"].tolist()
    assert keys == ["X_pca", "X_pca_harmony", "X_vae_compare", "X_cvae_compare"]
    with pytest.raises(ValueError, match="label_key='leiden_pca' is a column that the comparison writes"):
        sc_vaenb.tl.compare(ready, "batch", label_key="leiden_pca", device="cpu")


@pytest.mark.slow
@pytest.mark.parametrize("change", ["batch", "counts", "rng", "own fit"])
def test_what_has_changed_is_computed_again(ready, change):
    run(ready)
    before = ready.obsm["X_cvae"].copy()
    if change == "batch":
        ready.obs["batch"] = pd.Categorical(np.where(np.arange(300) % 2, "x", "y"))
    elif change == "counts":
        ready.layers["counts"] = ready.layers["counts"] * 2
    elif change == "own fit":  # under the comparison's name, after it: the user's from then on
        sc_vaenb.tl.cvae(ready, "batch", key_added="cvae", n_latent=3, n_steps=5, device="cpu")
        before = ready.obsm["X_cvae"].copy()
    run(ready, rng=1 if change == "rng" else 0)
    if change == "own fit":
        np.testing.assert_array_equal(ready.obsm["X_cvae"], before)
        assert "X_cvae_compare" in ready.obsm
    else:
        assert "X_cvae_compare" not in ready.obsm
        assert np.abs(ready.obsm["X_cvae"] - before).max() > 1e-4


@pytest.mark.slow
def test_a_method_that_fails_takes_no_other_down(ready, monkeypatch, log):
    refuses_to_run(monkeypatch, "vae", RuntimeError("no memory for this"))
    run(ready)
    record = ready.uns["compare"]
    assert record["failed"] == {"vae": "RuntimeError: no memory for this"}
    assert record["methods"]["method"].tolist() == ["PCA", "Harmony", "CVAE"]
    assert "vae failed and is left out" in log.getvalue()


@pytest.mark.slow
def test_seeds_and_no_labels(ready):
    sc_vaenb.tl.compare(ready, "batch", n_seeds=2, device="cpu", key_added="mine")
    record = ready.uns["mine"]
    assert record["methods"]["embedding"].tolist() == [
        "X_pca", "X_pca_harmony", "X_vae", "X_vae_seed1", "X_cvae", "X_cvae_seed1"
    ]  # fmt: skip
    assert np.abs(ready.obsm["X_cvae"] - ready.obsm["X_cvae_seed1"]).max() > 1e-3
    assert "as there are no labels" in record["verdict"]
    assert "leiden_cvae_seed1" not in ready.obs
    assert record["seed_overlap"]["method"].tolist() == ["VAE", "CVAE"]
    assert record["seed_overlap"]["overlap"].between(0, 1, inclusive="neither").all()
    asked = record["findings"]["question"] == "Do other seeds give the same neighbours?"
    assert record["findings"].loc[asked, "subject"].tolist() == ["VAE", "CVAE"]


@pytest.mark.slow
def test_a_case_with_many_cells():
    """Above 8,192 cells scanpy's own choice of neighbour search can fail (pynndescent 0.7)."""
    adata = sc_vaenb.datasets.simulate(8_300, 30, n_types=2, mean_depth=100, rng=0)
    sc_vaenb.pp.prepare(adata, batch_key="batch")
    adata.obsm["X_pca"] = _runs.log_pca(adata, "counts", "highly_variable", 0)
    _compare.neighbors_leiden_umap(adata, "pca", 1.0, 0, again=True)
    assert adata.obs["leiden_pca"].nunique() >= 2
    assert adata.obsm["X_umap_pca"].shape == (8_300, 2)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"label_key": "no"}, KeyError, "label_key='no'"),
        ({"label_key": "one"}, ValueError, "holds a single label"),
        ({"n_seeds": 0}, ValueError, "n_seeds=0"),
        ({"layer": "no"}, KeyError, "layer='no'"),
        *(
            ({"variants": {name: {}}}, ValueError, "is or looks like a name of tl.compare's own")
            for name in ("cvae", "CVAE", "cvae_seed1", "umap_pca", "vae")
        ),
        ({"variants": {"compare": {}}}, ValueError, "two results would have the name 'compare'"),
        ({"variants": {"mine": None}}, TypeError, r"variants\['mine'\] is None"),
        ({"variants": {"mine": {"n_latent": 0}}}, ValueError, "n_latent=0"),
        ({"variants": {"mine": {"align": "no"}}}, TypeError, "align='no'"),
        ({"key_added": "cvae"}, ValueError, "two results would have the name 'cvae'"),
        ({"key_added": "truth"}, ValueError, r"uns\['truth'\] holds something that is no comparison"),
        ({"label_key": "partly"}, ValueError, "holds a single batch among the cells with a label"),
        ({"label_key": "few"}, ValueError, r"obs\['few'\] labels 3 cells: a score needs 10"),
        ({"variants": {"mine": {"widths": 3}}}, TypeError, r"variants\['mine'\] has \['widths'\]"),
        ({"variants": {"mine": {"rng": 3}}}, TypeError, r"has \['rng'\], which cannot be set here"),
        ({"resolution": 0}, ValueError, "resolution=0"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_computed(ready, unchanged, arguments, error, text):
    ready.obs["one"] = "same"
    types, codes = ready.obs["cell_type"].astype(str), ready.obs["batch"].cat.codes
    ready.obs["partly"] = types.where(codes == 0)
    ready.obs["few"] = types.where(np.arange(300) < 3)
    with unchanged(ready), pytest.raises(error, match=text):
        sc_vaenb.tl.compare(ready, "batch", **arguments)


def test_what_a_fit_reads_beside_the_counts_is_part_of_what_it_was_made_from(adata):
    params = {"size_factor": "depth", "covariate_keys": ("age",), "labels_key": "known", "protein_key": "prot"}
    adata.obs["depth"], adata.obs["age"], adata.obs["known"] = 1.0, np.arange(300.0), "a"
    adata.obsm["prot"] = np.ones((300, 2))
    prints = [side_input_checksums(adata, {})]
    for change in ("nothing", "depth", "age", "known", "prot", "names"):
        if change in adata.obs:
            adata.obs[change] = adata.obs[change].to_numpy()[::-1] + adata.obs[change].to_numpy()
        elif change == "prot":
            adata.obsm["prot"] = np.full((300, 2), 2.0)
        elif change == "names":
            adata.uns["protein_names"] = ["CD3", "CD19"]
        prints.append(side_input_checksums(adata, params))
        assert prints[-1] == side_input_checksums(adata.copy(), params)
    assert len({str(found) for found in prints}) == len(prints)


def fitted(adata, method="cvae", **arguments):
    """A fit of the user that is one of the comparison's, unless `arguments` say otherwise."""
    batch = ["batch"] if method == "cvae" else []
    getattr(sc_vaenb.tl, method)(adata, *batch, **{"device": "cpu"} | arguments)


@pytest.mark.slow
@pytest.mark.parametrize("key", ["cvae", "vae", "mine"])
def test_an_equal_fit_is_taken_as_it_is_to_the_same_bits(ready, monkeypatch, log, key):
    anew = run(ready, copy=True)
    fitted(ready, key_added=key)
    before = snapshot({"uns": ready.uns[key], "obsm": ready.obsm[f"X_{key}"]})
    refuses_to_run(monkeypatch, "cvae", AssertionError("computed again"))
    monkeypatch.setattr(_compare, "null_split", lambda *_: (pd.DataFrame(), {}))
    sc.settings.verbosity = "info"
    run(ready)
    assert ready.uns["compare"]["failed"] == {}
    assert f"CVAE: uns[{key!r}] holds this fit, so it is not computed again" in log.getvalue()
    expected = ["X_pca", "X_pca_harmony", "X_vae_compare" if key == "vae" else "X_vae", "X_cvae"]
    assert ready.uns["compare"]["methods"]["embedding"].tolist() == expected
    assert snapshot({"uns": ready.uns[key], "obsm": ready.obsm[f"X_{key}"]}) == before
    for slot, name in (("obsm", "X_cvae"), ("varm", "cvae_loadings"), ("uns", "cvae"), ("obsm", "X_umap_cvae")):
        assert snapshot(getattr(ready, slot)[name]) == snapshot(getattr(anew, slot)[name]), name


@pytest.mark.slow
def test_a_fit_that_was_taken_stays_the_users(ready, tmp_path):
    fitted(ready, key_added="cvae")
    own = snapshot({"uns": ready.uns["cvae"], "obsm": ready.obsm["X_cvae"]})
    run(ready)
    ready.write_h5ad(tmp_path / "a.h5ad")
    again = anndata.read_h5ad(tmp_path / "a.h5ad")
    run(again)  # nothing has changed
    assert again.uns["compare"]["methods"]["embedding"].tolist() == [f"X_{key}" for key in KEYS]
    run(again, rng=1)  # another fit, which has a key of its own
    assert again.uns["compare"]["methods"]["embedding"].tolist()[3] == "X_cvae_compare"
    assert snapshot({"uns": again.uns["cvae"], "obsm": again.obsm["X_cvae"]}) == own


@pytest.mark.slow
def test_a_taken_fit_leaves_the_users_clusters_alone(ready):
    fitted(ready, key_added="cvae")
    ready.obs["leiden_cvae"] = "mine"
    run(ready)
    assert set(ready.obs["leiden_cvae"]) == {"mine"}
    assert "X_cvae_compare" in ready.uns["compare"]["methods"]["embedding"].tolist()
    np.testing.assert_array_equal(ready.obsm["X_cvae_compare"], ready.obsm["X_cvae"])
