"""`tl.vae`, and through it what it shares with `tl.cvae`: what goes in, what comes out, and what is refused."""

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
import torch
from scipy import sparse as sp
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import NearestNeighbors

import sc_vaenb
from sc_vaenb.fit.loop import Step
from sc_vaenb.tl import _fit

KINDS = {
    "dense": lambda x: x.toarray(),
    "csr_matrix": sp.csr_matrix,
    "csc_matrix": sp.csc_matrix,
    "csr_array": sp.csr_array,
    "csc_array": sp.csc_array,
}
COLUMNS = ["step", "epoch", "beta", "learning_rate", "seconds", "active_units", "kl_per_dim", "neighbors_explained"]
LOSSES = ["loss", "reconstruction", "kl"]


@pytest.fixture(scope="module")
def expected(simulated, fast):
    """The result that the ways to store the same counts must all give."""
    return sc_vaenb.tl.vae(simulated, copy=True, **fast)


def embedding(adata, **options):
    sc_vaenb.tl.vae(adata, **options)
    return adata.obsm["X_" + (options.get("key_added") or "vae")]


# the same counts, stored otherwise


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["int32", "float64"])
def test_storage_does_not_matter(adata, fast, expected, kind, dtype):
    adata.layers["counts"] = KINDS[kind](adata.X.astype(dtype))
    np.testing.assert_array_equal(embedding(adata, **fast), expected.obsm["X_vae"])


def test_x_is_used_on_request(adata, fast, expected):
    del adata.layers["counts"]
    np.testing.assert_array_equal(embedding(adata, layer=None, **fast), expected.obsm["X_vae"])


@pytest.mark.parametrize("kind", ["dense", "csr_matrix", "csc_matrix"])
def test_backed_files_give_the_same_and_stay_backed(adata, fast, expected, kind, tmp_path):
    adata.X = KINDS[kind](adata.X)
    del adata.layers["counts"]
    adata.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    np.testing.assert_array_equal(embedding(backed, layer=None, **fast), expected.obsm["X_vae"])
    assert backed.isbacked
    backed.file.close()


def test_a_view_gives_what_its_copy_gives_and_leaves_its_parent_alone(adata, fast, unchanged):
    view = adata[::2, 10:]
    copy = view.copy()
    with unchanged(adata):
        result = embedding(view, **fast)
    np.testing.assert_array_equal(result, embedding(copy, **fast))
    assert not view.is_view
    assert view.uns["vae"]["model"]["genes"].tolist() == adata.var_names[10:].tolist()


def test_masked_genes_are_as_if_removed(adata, fast):
    mask = np.arange(adata.n_vars) % 3 > 0
    without = embedding(adata[:, mask].copy(), **fast)
    np.testing.assert_array_equal(embedding(adata, mask_var=mask, **fast), without)
    adata.var["mine"] = mask
    np.testing.assert_array_equal(embedding(adata, mask_var="mine", **fast), without)
    adata.var["highly_variable"] = mask
    np.testing.assert_array_equal(embedding(adata, **fast), without)
    assert not np.array_equal(embedding(adata, mask_var=None, **fast), without)


def test_silent_genes_are_as_if_removed_and_logged(adata, fast, log):
    counts = adata.layers["counts"].tolil()
    counts[:, [3, 50]] = 0
    adata.layers["counts"] = counts.tocsr()
    kept = np.delete(np.arange(adata.n_vars), [3, 50])
    without = embedding(adata[:, kept].copy(), **fast)
    assert "left out" not in log.getvalue()
    np.testing.assert_array_equal(embedding(adata, **fast), without)
    assert "WARNING: 2 of 100 genes have no counts in these cells (first: 'gene_3') and are left" in log.getvalue()
    assert "gene_3" not in adata.uns["vae"]["model"]["genes"]


def test_size_factors_matter_by_their_ratios(adata, fast, expected):
    depth = np.asarray(adata.layers["counts"].sum(axis=1)).ravel()
    adata.obs["depth"], adata.obs["scaled"], adata.obs["one"] = depth, 4 * depth, 1
    np.testing.assert_array_equal(embedding(adata, size_factor="depth", **fast), expected.obsm["X_vae"])
    np.testing.assert_allclose(embedding(adata, size_factor="scaled", **fast), expected.obsm["X_vae"], atol=1e-5)
    assert np.abs(embedding(adata, size_factor="one", **fast) - expected.obsm["X_vae"]).max() > 0.01


def test_fractions_are_fitted_on_request(adata, fast):
    adata.layers["counts"].data *= 0.75
    result = embedding(adata, allow_non_integer=True, **fast)
    again = sc_vaenb.tl.embed(adata, copy=True, device="cpu").obsm["X_vae"]
    np.testing.assert_allclose(again, result, atol=1e-6)


# what is written


def test_the_embedding_is_float32_and_the_record_has_five_parts(expected):
    assert expected.obsm["X_vae"].dtype == np.float32
    assert set(expected.uns["vae"]) == {"params", "history", "verdict", "model", "fingerprint"}


def test_results_are_kept_side_by_side_and_replaced_with_a_word(adata, fast, log):
    first = embedding(adata, **fast).copy()
    other = embedding(adata, key_added="other", rng=1, **fast)
    assert "replacing" not in log.getvalue()
    np.testing.assert_array_equal(adata.obsm["X_vae"], first)
    assert adata.uns["other"]["params"]["rng"] == 1
    np.testing.assert_array_equal(embedding(adata, rng=1, **fast), other)
    text = "WARNING: replacing uns['vae'] and obsm['X_vae']; pass key_added to keep several results side by side"
    assert log.getvalue().count("replacing") == log.getvalue().count(text) == 1


def test_the_log_says_what_is_done_and_added(adata, fast, log):
    sc_vaenb.tl.vae(adata, **fast)
    assert "fitting vae to 300 cells x 100 genes on cpu (20 steps)" in log.getvalue()
    assert "'X_vae', the embedding (adata.obsm)" in log.getvalue()
    assert adata.uns["vae"]["verdict"]["message"] in log.getvalue()


def test_nothing_is_printed_at_verbosity_0(adata, fast, capsys):
    verbosity = sc.settings.verbosity
    sc.settings.verbosity = 0
    sc_vaenb.tl.vae(adata, **fast)
    sc.settings.verbosity = verbosity
    assert capsys.readouterr() == ("", "")


def leaves(value, path=""):
    if isinstance(value, dict):
        for key, part in value.items():
            assert isinstance(key, str)
            assert "/" not in key
            yield from leaves(part, f"{path}/{key}")
    else:
        yield path, value


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Writing zarr v2 data will no longer be the default")  # anndata 0.12's default
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"hidden": [], "decoder_hidden": (8, np.int64(4)), "rng": np.random.default_rng(0), "n_steps": np.int64(3)},
        {"mask_var": [True] * 60 + [False] * 40, "dropout": np.float32(0.1), "size_factor": "depth_factor"},
    ],
)
def test_the_record_is_plain_and_survives_files(adata, fast, options, tmp_path):
    result = embedding(adata, **(fast | options)).copy()
    record = dict(leaves(adata.uns["vae"]))
    for path, value in record.items():
        assert type(value) in {str, int, float, bool, np.ndarray}, path
        if isinstance(value, np.ndarray) and value.dtype.kind not in "fib":
            assert all(type(text) is str for text in value), path
    adata.write_h5ad(tmp_path / "a.h5ad")
    adata.write_zarr(tmp_path / "a.zarr")
    for again in (ad.read_h5ad(tmp_path / "a.h5ad"), ad.read_zarr(tmp_path / "a.zarr")):
        np.testing.assert_array_equal(again.obsm["X_vae"], result)
        found = dict(leaves(again.uns["vae"]))
        assert found.keys() == record.keys()
        for path, value in record.items():
            np.testing.assert_array_equal(found[path], value, err_msg=path)
        sc_vaenb.tl.embed(again, device="cpu")
        np.testing.assert_allclose(again.obsm["X_vae"], result, rtol=0, atol=1e-6)


def test_the_parameters_are_recorded_as_used(adata, fast):
    sc_vaenb.tl.vae(adata, rng=7, decoder_hidden=(), **(fast | {"hidden": (8, 6)}))
    params = adata.uns["vae"]["params"]
    assert params["method"] == "vae"
    assert params["version"] == sc_vaenb.__version__
    assert params["hidden"].tolist() == [8, 6]
    assert params["decoder_hidden"].tolist() == []
    assert {"layer": "counts", "rng": 7, "n_steps": 20, "n_latent": 4, "likelihood": "nb"}.items() <= {
        name: value for name, value in params.items() if not isinstance(value, np.ndarray)
    }.items()
    assert "size_factor" not in params  # None


def test_the_record_does_not_hold_the_users_own_arrays(adata, fast):
    mask, hidden = np.arange(100) < 60, [16]
    sc_vaenb.tl.vae(adata, mask_var=mask, **(fast | {"hidden": hidden}))
    mask[:], hidden[0] = False, 99
    assert adata.uns["vae"]["params"]["mask_var"].sum() == 60
    assert adata.uns["vae"]["params"]["hidden"].tolist() == [16]


def test_a_column_as_mask_can_be_written(adata, fast, tmp_path):
    adata.var["half"] = np.arange(100) < 50
    sc_vaenb.tl.vae(adata, mask_var=adata.var["half"], **fast)
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert ad.read_h5ad(tmp_path / "a.h5ad").uns["vae"]["params"]["mask_var"].sum() == 50


# randomness


def test_same_seed_same_bits_other_seed_other_result(adata, fast, expected):
    np.testing.assert_array_equal(embedding(adata, **fast), expected.obsm["X_vae"])
    np.testing.assert_array_equal(embedding(adata, rng=np.int64(0), **fast), expected.obsm["X_vae"])
    np.testing.assert_array_equal(
        adata.uns["vae"]["history"]["train_loss"], expected.uns["vae"]["history"]["train_loss"]
    )
    assert np.abs(embedding(adata, rng=1, **fast) - expected.obsm["X_vae"]).max() > 0.01


@pytest.mark.slow
def test_a_generator_or_none_gives_a_seed_that_is_recorded(adata, fast):
    generator = np.random.default_rng(5)
    first = embedding(adata, rng=generator, **fast)
    seed = adata.uns["vae"]["params"]["rng"]
    np.testing.assert_array_equal(embedding(adata, rng=seed, **fast), first)
    np.testing.assert_array_equal(embedding(adata, rng=np.random.default_rng(5), **fast), first)
    assert np.abs(embedding(adata, rng=generator, **fast) - first).max() > 0.01  # it has moved on
    one = embedding(adata, rng=None, **fast)
    assert np.abs(embedding(adata, rng=None, **fast) - one).max() > 0.01


# history and verdict


def test_history_has_its_columns_and_ends_at_the_end(adata, fast):
    sc_vaenb.tl.vae(adata, beta=0.5, warmup=0.5, **(fast | {"n_steps": 60}))
    history = adata.uns["vae"]["history"]
    assert set(history) == {*COLUMNS, *(f"{kind}_{loss}" for kind in ("train", "validation") for loss in LOSSES)}
    step = history["step"]
    assert {len(column) for column in history.values()} == {len(step)}
    assert step[-1] == 60
    assert (np.diff(step) > 0).all()
    np.testing.assert_allclose(history["epoch"], step * 128 / 270)  # 30 of 300 cells are held out
    np.testing.assert_allclose(history["beta"], 0.5 * np.minimum(step / 30, 1))
    assert history["beta"][-1] == 0.5
    assert history["learning_rate"].max() <= 6e-3
    assert history["learning_rate"][-1] < 1e-4
    assert (np.diff(history["seconds"]) > 0).all()
    assert history["kl_per_dim"].shape == (len(step), 4)
    np.testing.assert_allclose(history["kl_per_dim"].sum(axis=1), history["validation_kl"], rtol=1e-5)
    np.testing.assert_array_equal((history["kl_per_dim"] > 0.01).sum(axis=1), history["active_units"])
    objective = history["validation_reconstruction"] + 0.5 * history["validation_kl"]
    np.testing.assert_allclose(history["validation_loss"], objective, rtol=1e-5)


def test_without_cells_held_out_there_are_no_validation_columns(adata, fast):
    sc_vaenb.tl.vae(adata, validation_fraction=0, **fast)
    history = adata.uns["vae"]["history"]
    assert set(history) == {*COLUMNS, *(f"train_{loss}" for loss in LOSSES)}
    np.testing.assert_allclose(history["epoch"], history["step"] * 128 / 300)


def test_verdict_says_how_it_ended(adata, fast, log):
    sc_vaenb.tl.vae(adata, **(fast | {"n_steps": 60}))
    verdict, history = adata.uns["vae"]["verdict"], adata.uns["vae"]["history"]
    assert set(verdict) == {"status", "posterior_collapse", "best_step", "kept_step", "setbacks", "message"}
    assert verdict["status"] in {"not_judged", "still_improving"}  # 60 steps are fewer than the default
    assert "60 steps are fewer than the 161 that these data get by default" in verdict["message"]
    assert verdict["posterior_collapse"] is False
    assert verdict["setbacks"] == 0
    assert verdict["best_step"] == history["step"][history["validation_loss"].argmin()]
    assert verdict["message"] in log.getvalue()


def test_a_fit_without_progress_stops_early(adata, fast):
    sc_vaenb.tl.vae(adata, patience=1, warmup=0, **(fast | {"n_steps": 3000, "learning_rate": 0.03}))
    verdict, history = adata.uns["vae"]["verdict"], adata.uns["vae"]["history"]
    assert verdict["status"] == "stopped_early"
    assert verdict["best_step"] == history["step"][-2]
    assert history["step"][-1] < 3000


def test_posterior_collapse_is_called_by_its_name(adata, fast, log):
    sc_vaenb.tl.vae(adata, beta=1000.0, warmup=0, **(fast | {"n_steps": 200, "learning_rate": 0.02}))
    verdict = adata.uns["vae"]["verdict"]
    assert verdict["posterior_collapse"] is True
    assert adata.uns["vae"]["history"]["active_units"][-1] < 2
    text = "Posterior collapse: the latent state ignores the cells. Lower beta, or set free_bits=0.1."
    assert verdict["message"].endswith(text)
    assert "WARNING: " + verdict["message"] in log.getvalue()


# every choice runs, is learned from, matters, and is stored

CHOICES = [
    *({"likelihood": name} for name in ("zinb", "poisson", "gaussian")),
    *({"link": name} for name in ("exp", "softplus")),
    *({"activation": name} for name in ("relu", "silu")),
    *({"norm": name} for name in ("batch", "none")),
    {"hidden": ()},
    {"hidden": (24, 12)},
    {"decoder_hidden": ()},
    {"decoder_hidden": (6, 10)},
    {"size_factor_as": "covariate", "link": "exp"},
    {"size_factor_as": "covariate", "link": "softplus", "likelihood": "zinb"},
]


@pytest.mark.slow
@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_every_choice_learns_matters_and_is_stored(adata, fast, expected, choice):
    options = fast | {"n_steps": 40, "learning_rate": 0.01} | choice
    result = embedding(adata, **options)
    loss = adata.uns["vae"]["history"]["validation_loss"]
    assert loss[-1] < loss[0] - 0.1  # nats per cell
    assert np.isfinite(result).all()
    assert np.abs(result - expected.obsm["X_vae"]).max() > 0.01
    again = sc_vaenb.tl.embed(adata, copy=True, device="cpu").obsm["X_vae"]
    np.testing.assert_allclose(again, result, rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "option",
    [
        {"n_steps": 21},
        {"batch_size": 64},
        {"learning_rate": 1e-2},
        {"weight_decay": 10.0},
        {"validation_fraction": 0.3},
        {"beta": 20.0},
        {"warmup": 1},
        {"free_bits": 3.0},
        {"dropout": 0.5},
    ],
    ids=str,
)
def test_every_number_matters(adata, fast, expected, option):
    result = embedding(adata, **(fast | option))
    assert np.abs(result - expected.obsm["X_vae"]).max() > 1e-4


def test_n_latent_is_the_width(adata, fast):
    assert embedding(adata, **(fast | {"n_latent": 7})).shape == (300, 7)
    assert (adata.obsm["X_vae"].std(axis=0) > 0).all()


@pytest.mark.slow
def test_simulated_types_are_found_again():
    adata = sc_vaenb.datasets.simulate(400, 150, n_types=4, n_batches=1, mean_depth=800, rng=2)
    sc_vaenb.tl.vae(adata, layer=None, n_latent=8, hidden=(32,), n_steps=200, device="cpu")
    found = KMeans(4, n_init=5, random_state=0).fit_predict(adata.obsm["X_vae"])
    assert adjusted_rand_score(adata.obs["cell_type"], found) > 0.8


@pytest.mark.slow
def test_many_cells_go_through_in_parts_and_on_to_scanpy():
    adata = sc_vaenb.datasets.simulate(8500, 40, n_types=3, n_batches=1, mean_depth=1000, rng=0)
    sc_vaenb.tl.vae(adata, layer=None, n_latent=4, hidden=(16,), n_steps=60, learning_rate=0.01, device="cpu")
    part = adata[8000:].copy()
    sc_vaenb.tl.embed(part, key_added="part", device="cpu")
    np.testing.assert_allclose(part.obsm["X_part"], adata.obsm["X_vae"][8000:], rtol=0, atol=1e-5)
    sc.pp.neighbors(adata, use_rep="X_vae", transformer="sklearn", n_neighbors=10)
    near = NearestNeighbors(n_neighbors=2).fit(adata.obsm["X_vae"]).kneighbors(return_distance=False)[:, 0]
    weight = np.asarray(adata.obsp["connectivities"][np.arange(8500), near]).ravel()
    assert (weight > 0).all()
    type_ = adata.obs["cell_type"].cat.codes.to_numpy()
    assert (type_[near] == type_).mean() > 0.6  # chance 0.33


# fits that end badly


def test_ctrl_c_keeps_what_was_learned(adata, fast, monkeypatch, log):
    steps, minibatch = [], Step.minibatch

    def interrupted(self, cells):
        steps.append(1)
        if len(steps) == 31:
            raise KeyboardInterrupt
        return minibatch(self, cells)

    monkeypatch.setattr(Step, "minibatch", interrupted)
    result = embedding(adata, **(fast | {"n_steps": 1000, "warmup": 0}))
    monkeypatch.undo()
    verdict, history = adata.uns["vae"]["verdict"], adata.uns["vae"]["history"]
    assert verdict["status"] == "interrupted"
    assert history["step"][-1] <= 30
    assert verdict["best_step"] == history["step"][history["validation_loss"].argmin()]
    assert "WARNING: Interrupted; the best weights so far are kept." in log.getvalue()
    again = sc_vaenb.tl.embed(adata, copy=True, device="cpu").obsm["X_vae"]
    np.testing.assert_allclose(again, result, rtol=0, atol=1e-6)
    assert result.std() > 0


def test_ctrl_c_before_the_first_look_leaves_an_earlier_result(adata, fast, monkeypatch, unchanged):
    sc_vaenb.tl.vae(adata, **fast)

    def interrupted(self, *args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(Step, "minibatch", interrupted)
    with unchanged(adata), pytest.raises(KeyboardInterrupt):
        sc_vaenb.tl.vae(adata, **fast)


def test_a_loss_that_leaves_the_numbers_is_an_error(adata, fast, refused):
    sc_vaenb.tl.vae(adata, **fast)  # an earlier result stays
    text = (
        r"The fit broke down: the loss is (nan|inf), also with a learning rate 729 times lower\. "
        r"Lower learning_rate \(1e\+09\); look for extreme counts"
    )
    with refused(adata, FloatingPointError, text):
        sc_vaenb.tl.vae(adata, learning_rate=1e9, **fast)


@pytest.mark.slow
def test_a_learning_rate_that_is_much_too_high_is_lowered(adata, fast, log):
    options = fast | {"n_steps": 400}
    sc_vaenb.tl.vae(adata, learning_rate=3.0, **options)
    history, verdict = adata.uns["vae"]["history"], adata.uns["vae"]["verdict"]
    assert verdict["setbacks"] > 0
    assert "with a learning rate" in verdict["message"]
    assert verdict["message"] in log.getvalue()
    assert history["learning_rate"][len(history["step"]) // 2] < 3.0 / 3
    assert np.isfinite(history["train_loss"]).all()
    sc_vaenb.tl.vae(adata, key_added="good", **options)
    assert history["validation_loss"][-1] < 1.1 * adata.uns["good"]["history"]["validation_loss"][-1]


@pytest.mark.slow
@pytest.mark.parametrize("beta", [0.05, 5.0])
def test_beta_is_changed_until_the_kl_is_as_asked_for(adata, fast, beta):
    sc_vaenb.tl.vae(adata, beta=beta, target_kl=3.0, **fast | {"n_steps": 200})
    history = adata.uns["vae"]["history"]
    assert history["train_kl"][-1] == pytest.approx(3.0, rel=0.15)
    assert history["beta"][-1] == pytest.approx(0.5, abs=0.45)
    judged = history["validation_reconstruction"] + history["validation_kl"]  # at the weight 1, whatever beta is
    np.testing.assert_allclose(history["validation_loss"], judged, rtol=1e-5)


@pytest.mark.slow
def test_too_little_memory_is_an_error_with_advice(adata, fast, refused, monkeypatch):
    def fit(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    monkeypatch.setattr(_fit, "fit", fit)
    text = r"cpu ran out of memory\. Lower batch_size or hidden, or pass device='cpu'"
    with refused(adata, MemoryError, text):
        sc_vaenb.tl.vae(adata, batch_size=64, **fast)


# refusals

IMPOSSIBLE = {
    "n_latent": [0, -1, 2.5, "4", True, None],
    "n_steps": [0, 1.5, "many"],
    "batch_size": [0, 64.0, None],
    "patience": [0, 2.5],
    "learning_rate": [0, -1e-3, np.nan, np.inf, None],
    "weight_decay": [-0.1, np.inf, np.nan],
    "beta": [-1, np.inf, "1"],
    "free_bits": [-0.1, np.nan],
    "target_kl": [0, -1, np.inf, "20"],
    "warmup": [-0.1, 1.1],
    "dropout": [-0.1, 1, 0.95],
    "validation_fraction": [-0.1, 1, None],
    "rng": [-1, 2**32],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in IMPOSSIBLE.items() for value in values], ids=str
)
def test_impossible_numbers_are_refused(adata, fast, refused, name, value):
    with refused(adata, ValueError, rf"^{name}=.* is not possible\. Give a (whole )?number (above|at least) [01]"):
        sc_vaenb.tl.vae(adata, **(fast | {name: value}))


@pytest.mark.parametrize(
    ("name", "valid"),
    [
        ("likelihood", ["nb", "zinb", "poisson", "gaussian"]),
        ("link", ["softmax", "exp", "softplus"]),
        ("activation", ["relu", "gelu", "silu"]),
        ("norm", ["layer", "batch", "none"]),
        ("size_factor_as", ["multiplier", "covariate"]),
        ("dispersion", ["gene"]),
    ],
)
@pytest.mark.parametrize("value", ["NB", None, 3])
def test_unknown_choices_list_the_valid_ones(adata, fast, refused, name, valid, value):
    with refused(adata, ValueError, rf"^{name}={value!r} is not known\. Choose one of {valid}\.".replace("[", r"\[")):
        sc_vaenb.tl.vae(adata, **{name: value}, **fast)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        (
            {"hidden": 16},
            TypeError,
            r"^hidden=16 is not possible\. Give a sequence of widths: \(128,\), or \(\) for no",
        ),
        ({"hidden": None}, TypeError, r"^hidden=None is not possible\. Give a sequence of widths"),
        ({"decoder_hidden": 16}, TypeError, r"^decoder_hidden=16 is not possible\. Give a sequence of widths"),
        ({"hidden": (16, 0)}, ValueError, r"^hidden\[1\]=0 is not possible\. Give a whole number at least 1"),
        ({"decoder_hidden": (16.0,)}, ValueError, r"^decoder_hidden\[0\]=16\.0 is not possible"),
        (
            {"size_factor_as": "covariate"},
            ValueError,
            "but link='softmax' gives shares. Choose link='exp' or 'softplus'",
        ),
        (
            {"dispersion": "gene-batch"},
            ValueError,
            r"needs batches\. Use sc_vaenb\.tl\.cvae\(adata, batch_key=\.\.\.\)",
        ),
        (
            {"norm": "batch", "batch_size": 1},
            ValueError,
            "norm='batch' needs two cells or more in each minibatch. Raise batch",
        ),
        ({"rng": "0"}, TypeError, r"rng='0' .* Give a whole number .*, a numpy\.random\.Generator or None"),
        ({"rng": 1.5}, TypeError, "rng=1.5 is not possible. Give a whole number"),
        ({"rng": True}, TypeError, "rng=True is not possible. Give a whole number"),
        pytest.param(
            {"rng": np.random.RandomState(0)}, TypeError, "is not possible. Give a whole number", id="RandomState"
        ),  # whose words hold its address
        ({"key_added": "a/b"}, ValueError, "key_added='a/b' is not possible. Give a name without '/'"),
        ({"key_added": ""}, ValueError, "key_added='' is not possible. Give a name"),
        ({"key_added": 5}, ValueError, "key_added=5 is not possible. Give a name"),
        (
            {"layer": "spliced"},
            KeyError,
            r"layer='spliced' is not in adata\.layers, which holds \['counts'\]\. Pass one",
        ),
        (
            {"size_factor": "sf"},
            KeyError,
            r"size_factor='sf' is not in adata\.obs\. Its columns are \['cell_type', 'bat",
        ),
        ({"mask_var": "hvg"}, KeyError, r"mask_var='hvg' is not in adata\.var\. Its columns are \['theta'"),
        ({"mask_var": "theta"}, ValueError, r"var\['theta'\] has dtype float64, not bool without gaps"),
        ({"mask_var": np.ones(3, bool)}, ValueError, "give 100 booleans, one per gene"),
        ({"mask_var": np.zeros(100, bool)}, ValueError, "mask_var selects no gene"),
    ],
    ids=str,
)
def test_impossible_arguments_are_refused(adata, fast, refused, options, error, text):
    with refused(adata, error, text):
        sc_vaenb.tl.vae(adata, **(fast | options))


def test_a_missing_counts_layer_is_refused_with_the_way_to_get_it(adata, refused):
    del adata.layers["counts"]
    text = r"holds \[\]\. Run sc_vaenb\.pp\.prepare\(adata\) to find the raw counts and keep them there, or pass"
    with refused(adata, KeyError, text):
        sc_vaenb.tl.vae(adata)


@pytest.mark.parametrize("kind", ["dense", "csr_matrix", "csc_matrix"])
@pytest.mark.parametrize("view", [False, True])
def test_values_that_are_no_counts_are_refused_by_name(adata, refused, kind, view):
    counts = adata.layers["counts"].tolil()
    counts[7, 5] = 0.5
    adata.layers["counts"] = KINDS[kind](counts.tocsr())
    adata = adata[5:, 5:] if view else adata
    with refused(
        adata, ValueError, r"layers\['counts'\] holds non-integer values \(cell 'cell_7', gene 'gene_5': 0\.5\)"
    ):
        sc_vaenb.tl.vae(adata)
    assert adata.is_view is view


def test_empty_cells_are_refused(adata, refused):
    adata.layers["counts"] = sp.csr_matrix(adata.X.multiply(np.arange(300)[:, None] > 1))
    with refused(adata, ValueError, r"2 cells have no counts in the 100 genes used \(first: 'cell_0'\)"):
        sc_vaenb.tl.vae(adata)


def test_bad_size_factors_are_refused(adata, refused):
    adata.obs["sf"] = np.arange(300) - 1.0
    with refused(adata, ValueError, r"obs\['sf'\] holds 2 size factors .* \(cell 'cell_0': -1\.0\)"):
        sc_vaenb.tl.vae(adata, size_factor="sf")


def test_no_usable_anndata_is_refused(adata, refused):
    with pytest.raises(TypeError, match="adata is a ndarray, not an AnnData"):
        sc_vaenb.tl.vae(np.ones((3, 3)))
    with refused(adata, ValueError, "adata has 0 cells and 100 genes: there is nothing to fit"):
        sc_vaenb.tl.vae(adata[:0])
    adata.var_names = ["gene"] * 100
    with refused(adata, ValueError, r"var_names holds 99 duplicates \(first: 'gene'\)"):
        sc_vaenb.tl.vae(adata)


def test_products_may_be_computed_in_lower_precision(adata, fast):
    """As torch is told; only some processors have it, on the others nothing changes."""
    sc_vaenb.tl.vae(adata, **fast)
    sc_vaenb.tl.vae(adata, **fast, key_added="again")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        sc_vaenb.tl.vae(adata, **fast, key_added="low")
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    losses = {key: adata.uns[key]["history"]["validation_loss"] for key in ("vae", "again", "low")}
    np.testing.assert_array_equal(losses["vae"], losses["again"])
    np.testing.assert_allclose(losses["vae"], losses["low"], rtol=5e-3)
