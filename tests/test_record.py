"""A stored model comes from anywhere: it is checked as a whole, and nothing in it can do harm or go unnoticed."""

import importlib.util
import json
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file, save_file
from scipy import sparse

import sc_vaenb
from sc_vaenb import _model_file, _record_weights
from sc_vaenb._model_file import read_file
from sc_vaenb._record import FittedModel, read_record
from sc_vaenb._schema import Damaged

DATA = Path(__file__).parent / "data"
ATTACK = Path(__file__).parents[1] / "benchmarks" / "attack" / "records.py"


@pytest.fixture(scope="module")
def attack():
    """The script that attacks records, whose every case can be had in a few."""
    spec = importlib.util.spec_from_file_location("attack_records", ATTACK)
    module = importlib.util.module_from_spec(spec)
    sys.modules["attack_records"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["attack_records"]


@pytest.fixture(scope="module")
def everything(attack):
    return attack.fitted()


def embedded(adata, key="vae"):
    sc_vaenb.tl.embed(adata, key, key_added="again", device="cpu")
    return adata.obsm["X_again"]


# What is written is what is read


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Writing zarr v2 data will no longer be the default")  # anndata 0.12's default
@pytest.mark.parametrize("kind", ["h5ad", "zarr", "file"])
def test_a_record_of_everything_comes_back_from_every_kind_of_file(everything, tmp_path, kind):
    if kind == "file":
        sc_vaenb.tl.export_model(everything, tmp_path / "a.safetensors")
        back = everything.copy()
        sc_vaenb.tl.import_model(back, tmp_path / "a.safetensors")
    else:
        getattr(everything, f"write_{kind}")(tmp_path / "a")
        back = getattr(ad, f"read_{kind}")(tmp_path / "a")
    before, after = FittedModel.from_uns(everything, "vae"), FittedModel.from_uns(back, "vae")
    weights, again = before.model.state_dict(), after.model.state_dict()
    assert weights.keys() == again.keys()
    for name, value in weights.items():
        assert value.dtype == again[name].dtype, name  # files make numbers of arrays without dimensions
        assert torch.equal(value, again[name]), name
    for name in ("genes", "batches", "size_factor_mean", "covariates", "proteins"):
        assert getattr(before, name) == getattr(after, name)
    assert before.model.config == after.model.config
    np.testing.assert_array_equal(before.groups, after.groups)
    np.testing.assert_array_equal(embedded(back), embedded(everything.copy()))


def test_a_model_of_format_1_stays_readable():
    """Written by the first version that had this format; the embedding is what it gave then."""
    old = np.load(DATA / "format_1.npz")
    obs = pd.DataFrame({"batch": old["batch"]}, index=[f"cell{i}" for i in range(len(old["batch"]))])
    adata = ad.AnnData(sparse.csr_matrix(old["counts"], dtype=np.float32), obs, pd.DataFrame(index=old["genes"]))
    sc_vaenb.tl.import_model(adata, DATA / "format_1.safetensors")
    np.testing.assert_allclose(embedded(adata), old["latent"], atol=1e-5)


def test_a_model_of_format_1_is_exported_in_the_present_format(tmp_path):
    old = np.load(DATA / "format_1.npz")
    adata = ad.AnnData(sparse.csr_matrix(old["counts"], dtype=np.float32), var=pd.DataFrame(index=old["genes"]))
    sc_vaenb.tl.import_model(adata, DATA / "format_1.safetensors")
    weights = FittedModel.from_uns(adata, "vae").model.state_dict()
    sc_vaenb.tl.export_model(adata, tmp_path / "a.safetensors")
    sc_vaenb.tl.import_model(adata, tmp_path / "a.safetensors")
    assert adata.uns["vae"]["model"]["format"] == "sc_vaenb model 2"
    again = FittedModel.from_uns(adata, "vae").model.state_dict()
    assert again.keys() == weights.keys()
    assert all(np.array_equal(again[name], value) for name, value in weights.items())


def test_to_uns_is_what_a_fit_writes(fitted):
    model = FittedModel.from_uns(fitted, "vae")
    written, record = model.to_uns(), fitted.uns["vae"]["model"]
    assert json.loads(written["config"]) == json.loads(record["config"])
    assert written["genes"].tolist() == record["genes"].tolist()
    for name, value in record["weights"].items():
        np.testing.assert_array_equal(written["weights"][name], value, strict=True)
    assert model.batch_index(["batch_1", "batch_0", "batch_1"]).tolist() == [1, 0, 1]


def test_an_unknown_key_lists_the_models_there_are(adata, refused):
    adata.uns = {"mine": {"model": {}, "params": {}}, "neighbors": {"params": {}}, "note": "text"}
    for key in ("vae", "neighbors", "note"):
        text = rf"uns\['{key}'\] holds no model fitted by sc_vaenb; uns has \['mine'\]\. Run sc_vaenb\.tl\.cvae or"
        with refused(adata, KeyError, text):
            read_record(adata, key)


def test_another_format_is_told_from_damage(fitted, refused):
    fitted.uns["vae"]["model"]["format"] = "sc_vaenb model 9"
    text = (
        r"has the format 'sc_vaenb model 9', this version reads 'sc_vaenb model 2'\. Fit it again, or use the version"
    )
    with refused(fitted, ValueError, text):
        sc_vaenb.tl.embed(fitted)


# What is damaged is refused, in one way, by all that read it


def config_with(**changes):
    def change(record):
        record["model"]["config"] = json.dumps(json.loads(record["model"]["config"]) | changes)

    return change


def at(*path, value):
    def change(record):
        for name in path[:-1]:
            record = record[name]
        record[path[-1]] = value(record[path[-1]]) if callable(value) else value

    return change


def with_value(number):
    def change(value):
        value = value.copy()
        value.reshape(-1)[0] = number
        return value

    return change


BIAS = ("model", "weights", "decoder.first.bias")
DAMAGE = {
    "NaN in a weight": (at(*BIAS, value=with_value(np.nan)), r"\['decoder.first.bias'\] holds values that are not fin"),
    "infinity in a weight": (at(*BIAS, value=with_value(np.inf)), "holds values that are not finite"),
    "a huge weight": (at(*BIAS, value=with_value(1e30)), r"holds values from .* to 1e\+30, not within"),
    "a weight of float64": (
        at(*BIAS, value=lambda v: v.astype(float)),
        r"an array of float64 .*, not an array of float",
    ),
    "a weight of text": (at(*BIAS, value=lambda v: v.astype(str)), "not an array of float32"),
    "a weight of objects": (at(*BIAS, value=lambda v: v.astype(object)), "not an array of float32"),
    "a weight cut": (at(*BIAS, value=lambda v: v[1:]), r"has the shape \(15,\), not \(16,\)"),
    "a map without an inverse": (
        at("model", "weights", "embedding_map.matrix", value=np.ones((4, 4), np.float32)),
        r"\['embedding_map.matrix'\] holds values that are not those of a matrix that has an inverse",
    ),
    "depth 0": (at("model", "weights", "depth", value=np.float32(0)), r"\['depth'\] holds values that are not above 0"),
    "a code of no batch": (
        at("model", "weights", "batch_embedding.code", value=np.array([0, 7])),
        r"\['batch_embedding.code'\] holds values that are not those in model\['config'\]",
    ),
    "size_factor_mean 0": (config_with(size_factor_mean=0), r"\['size_factor_mean'\] is 0, not a number above 0"),
    "size_factor_mean NaN": (
        config_with(size_factor_mean=float("nan")),
        r"\['size_factor_mean'\] is nan, not a number",
    ),
    "no size_factor_mean": (config_with(size_factor_mean=None), r"\['size_factor_mean'\] is None, not a number"),
    "a billion batches": (
        config_with(n_batches=10**9),
        r"\['n_batches'\] is 1000000000, but there are 2 batches",
    ),
    "a billion units": (config_with(hidden=[10**9]), r"has the shape \(16, 100\), not \(1000000000, 100\)"),
    "too many for any computer": (config_with(hidden=[10**9, 10**9, 10**9]), r"lacks|asks for weights that cannot be"),
    "a thousand layers": (config_with(hidden=[1] * 1000), r"\['hidden'\] has 1000 values, not 100 or fewer"),
    "an unknown likelihood": (config_with(likelihood="x\0"), r"\['likelihood'\] is 'x\\x00', not one of \['nb'"),
    "an unknown field": (config_with(zzz=1), r"model\['config'\] has 'zzz', which is not known"),
    "deeply nested": (at("model", "config", value="[" * 100_000), r"model\['config'\] is no text in JSON"),
    "a gene twice": (
        at("model", "genes", value=with_value("gene_1")),
        r"model\['genes'\] holds the name 'gene_1' twice",
    ),
    "a gene too few": (at("model", "genes", value=lambda v: v[1:]), r"\['n_genes'\] is 100, but there are 99 genes"),
    "no name of a batch": (at("model", "batches", value=with_value(3)), r"model\['batches'\]\[0\] is 3, not text"),
    "no batch_key": (lambda record: record["params"].pop("batch_key"), "params lacks 'batch_key'"),
    "a list for the layer": (at("params", "layer", value=["counts"]), r"params\['layer'\] is of type list, not text"),
    "a group of no batch": (
        at("overlap", "group", value=np.array([0, 10**9])),
        r"overlap\['group'\] holds values from",
    ),
    "a batch not compared": (
        at("overlap", "compared", value=lambda v: v[1:]),
        r"overlap\['share'\] has the shape \(2, 2\), not that of 1 batches",
    ),
    "no overlap": (lambda record: record.pop("overlap"), "overlap is None, not a mapping"),
    "another verdict": (at("verdict", "status", value="fine"), r"verdict\['status'\] is 'fine', not one of"),
    "another history": (at("history", "kl_per_dim", value=lambda v: v[1:]), r"history\['kl_per_dim'\] has the shape"),
}
READERS = {
    "embed": lambda adata: sc_vaenb.tl.embed(adata),
    "normalized": lambda adata: sc_vaenb.tl.normalized(adata),
    "corrected": lambda adata: sc_vaenb.tl.corrected(adata),
    "differential": lambda adata: sc_vaenb.tl.differential(adata, "cell_type"),
    "sample": lambda adata: sc_vaenb.tl.sample(adata),
    "denoised_protein": lambda adata: sc_vaenb.tl.denoised_protein(adata),
    "factors": lambda adata: sc_vaenb.tl.factors(adata),
    "importance": lambda adata: sc_vaenb.tl.importance(adata),
    "interpolate": lambda adata: sc_vaenb.tl.interpolate(adata, "type_0", "type_1", groupby="cell_type"),
    "posterior_check": lambda adata: sc_vaenb.tl.posterior_check(adata),
    "export_model": lambda adata: sc_vaenb.tl.export_model(adata, "never.safetensors"),
    "map_query": lambda adata: sc_vaenb.tl.map_query(adata.copy(), adata),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named(fitted, refused, damage):
    change, text = DAMAGE[damage]
    change(fitted.uns["vae"])
    text = rf"^the model in uns\['vae'\] is damaged: .*{text}.*\. Fit it again, or read the file again\.$"
    with refused(fitted, ValueError, text):
        sc_vaenb.tl.embed(fitted)


@pytest.mark.parametrize("reader", READERS)
def test_all_that_read_a_model_refuse_a_damaged_one_and_leave_the_cells_alone(fitted, refused, reader):
    DAMAGE["size_factor_mean 0"][0](fitted.uns["vae"])
    with refused(
        fitted, ValueError, r"the model in uns\['vae'\] is damaged: model\['config'\]\['size_factor_mean'\] is 0"
    ):
        READERS[reader](fitted)


def test_weights_that_lead_beyond_all_numbers_are_told(fitted, refused):
    """Each of them can be, so that only what comes out can tell."""
    for name, value in fitted.uns["vae"]["model"]["weights"].items():
        if value.dtype == np.float32 and value.ndim == 2 and not name.startswith("embedding_map."):
            value[:] = 9e11
    with refused(fitted, ValueError, "The model gives values that are no finite numbers: its weights are damaged, or"):
        sc_vaenb.tl.normalized(fitted, device="cpu")


def test_nothing_is_built_before_sizes_are_known(fitted, monkeypatch):
    """A size that no array bears out never reaches the constructor of the model."""
    built = []
    monkeypatch.setattr(_record_weights, "CountVAE", lambda config: built.append(config) or pytest.fail("built"))
    for name in ("n_batches", "n_genes", "n_covariates", "n_proteins"):
        config = json.loads(fitted.uns["vae"]["model"]["config"]) | {name: 10**9}
        changed = {**fitted.uns["vae"], "model": {**fitted.uns["vae"]["model"], "config": json.dumps(config)}}
        with pytest.raises(Damaged, match=rf"\['{name}'\] is 1000000000, but there are"):
            FittedModel.from_record(changed)
    assert not built


def test_an_imported_model_has_no_history_to_draw(fitted, adata, tmp_path):
    sc_vaenb.tl.export_model(fitted, tmp_path / "a.safetensors")
    sc_vaenb.tl.import_model(adata, tmp_path / "a.safetensors")
    with pytest.raises(KeyError, match="holds no history: a model that was imported has none"):
        sc_vaenb.pl.history(adata, show=False)


# Model files


def test_of_another_programs_file_no_array_is_read(adata, refused, tmp_path, monkeypatch):
    class Unread:
        def metadata(self):
            return {"format": "pt"}

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def __getattr__(self, name):
            pytest.fail(f"{name} was asked for")

    save_file({"a": np.ones(3)}, tmp_path / "a.safetensors", {"format": "pt"})
    monkeypatch.setattr(_model_file, "safe_open", lambda *_: Unread())
    with refused(adata, ValueError, "holds no model of sc_vaenb. Give a file that sc_vaenb.tl.export_model wrote"):
        sc_vaenb.tl.import_model(adata, tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("depth", np.zeros(10**6, np.float32), r"the array 'depth' is F32 of shape \[1000000\], not F32 of \[\]"),
        ("depth", np.float64(1), r"the array 'depth' is F64 of shape \[\], not F32 of \[\]"),
        ("more", np.zeros(3, np.float32), "it has the array 'more'"),
        ("decoder.first.bias", np.full(16, np.nan, np.float32), "holds values that are not finite"),
    ],
)
def test_arrays_of_a_file_are_checked_though_its_checksum_is_right(fitted, adata, refused, tmp_path, name, value, text):
    path = tmp_path / "a.safetensors"
    sc_vaenb.tl.export_model(fitted, path)
    raw = path.read_bytes()
    texts = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["__metadata__"]
    weights = load_file(path) | {name: np.asarray(value)}
    del texts["sha256"]
    save_file(weights, path, {**texts, "sha256": _model_file.checksum(weights, texts)})
    with refused(adata, ValueError, rf"a\.safetensors' is damaged: .*{text}.*\. Get it again\."):
        sc_vaenb.tl.import_model(adata, path)
    with pytest.raises(ValueError, match=text):
        read_file(path)


# All of it at once


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "share"), [("records", 0.03), ("results", 0.04), ("files", 0.06), ("checkpoints", 0.01)]
)
def test_an_attack_finds_nothing(attack, everything, kind, share, tmp_path, monkeypatch):
    """A few of the cases of `benchmarks/attack/records.py`, which has some thousand."""
    rng, tally = np.random.default_rng(1), attack.Tally()
    if kind == "records":
        attack.attack_records(everything, tally, share, rng)
    elif kind == "results":
        attack.attack_results(attack.with_results(everything.copy()), tally, share, rng)
    elif kind == "files":
        attack.attack_files(everything, tally, 10, share, rng, tmp_path, share)
    else:
        from sc_vaenb.fit import checkpoint

        monkeypatch.setattr(checkpoint, "MAX_SHARE_OF_TIME", checkpoint.MAX_SHARE_OF_TIME)  # which the attack sets
        attack.attack_checkpoints(everything, tally, share, rng, tmp_path)
    assert not tally.foreign
    assert not tally.not_finite
    total = sum((counts for counts in tally.counts.values()), start=attack.Counter())
    assert total["refused"] > 10 or kind == "checkpoints"
    assert sum(total.values()) > 15


def test_a_name_that_no_file_can_have_is_refused(adata, refused):
    with refused(adata, FileNotFoundError, r"x' is not a file\. Give one that sc_vaenb\.tl\.export_model wrote"):
        sc_vaenb.tl.import_model(adata, "x" * 300)
