"""Models in a file of their own: what is written is what is read, and nothing else is."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import sc_vaenb


@pytest.fixture
def file(fitted, tmp_path):
    sc_vaenb.tl.export_model(fitted, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.mark.slow
def test_a_model_goes_to_other_cells_without_the_data(fitted, adata, file, tmp_path):
    part = adata[100:, ::-1].copy()
    part.write_h5ad(tmp_path / "part.h5ad")
    code = (
        "import sys, anndata, numpy, sc_vaenb\n"
        "adata = anndata.read_h5ad(sys.argv[1])\n"
        "sc_vaenb.tl.import_model(adata, sys.argv[2], key_added='theirs')\n"
        "sc_vaenb.tl.embed(adata, 'theirs')\n"
        "numpy.save(sys.argv[3], adata.obsm['X_theirs'])\n"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "part.h5ad", file, tmp_path / "z.npy"], check=True)
    np.testing.assert_allclose(np.load(tmp_path / "z.npy"), fitted.obsm["X_vae"][100:], atol=1e-5)


def test_the_record_is_the_same(fitted, adata, file):
    sc_vaenb.tl.import_model(adata, file)
    for name in ("params", "verdict", "overlap"):
        found, expected = adata.uns["vae"][name], fitted.uns["vae"][name]
        assert {k: np.asarray(v).tolist() for k, v in found.items()} == {
            k: np.asarray(v).tolist() for k, v in expected.items()
        }
    assert adata.uns["vae"]["model"]["config"] == fitted.uns["vae"]["model"]["config"]
    sc_vaenb.tl.export_model(adata, file.with_name("again.safetensors"))  # what was read can be written
    assert load_file(file).keys() == load_file(file.with_name("again.safetensors")).keys()


def test_an_imported_model_can_correct(fitted, adata, file):
    sc_vaenb.tl.import_model(adata, file)
    sc_vaenb.tl.corrected(adata, device="cpu")
    sc_vaenb.tl.corrected(fitted, device="cpu")
    np.testing.assert_allclose(adata.layers["corrected"], fitted.layers["corrected"], rtol=1e-4)


def test_counts_are_read_from_x_where_the_layer_of_the_fit_is_not_there(fitted, adata, file):
    del adata.layers["counts"]
    sc_vaenb.tl.import_model(adata, file)
    sc_vaenb.tl.embed(adata)
    np.testing.assert_allclose(adata.obsm["X_vae"], fitted.obsm["X_vae"], atol=1e-5)


def test_no_cell_and_no_count_is_in_the_file(fitted, file):
    assert fitted.obs_names[0].encode() not in file.read_bytes()
    assert set(load_file(file)) == set(fitted.uns["vae"]["model"]["weights"])


def test_nothing_is_replaced_unasked(fitted, unchanged, file):
    before = file.read_bytes()
    with unchanged(fitted), pytest.raises(FileExistsError, match=r"already there\. Pass force=True to replace it"):
        sc_vaenb.tl.export_model(fitted, file)
    fitted.uns["vae"]["model"]["weights"]["depth"] += 1
    sc_vaenb.tl.export_model(fitted, file, force=True)
    assert file.read_bytes() != before
    assert os.listdir(file.parent) == ["model.safetensors"]


def test_a_write_that_fails_leaves_what_was_there(fitted, file, monkeypatch):
    def broken(weights, path, metadata):
        path.write_bytes(b"half")
        raise OSError("disk full")

    before = file.read_bytes()
    monkeypatch.setattr(sys.modules["sc_vaenb.tl._export_model"], "save_file", broken)
    with pytest.raises(OSError, match="disk full"):
        sc_vaenb.tl.export_model(fitted, file, force=True)
    assert file.read_bytes() == before
    assert os.listdir(file.parent) == ["model.safetensors"]


@pytest.mark.parametrize(
    ("path", "key", "error", "text"),
    [
        ("model.pt", "vae", ValueError, r"does not end in \.safetensors"),
        ("none/model.safetensors", "vae", FileNotFoundError, r"to write 'model\.safetensors' into\. Make it first"),
        ("model.safetensors", "cvae", KeyError, r"uns\['cvae'\] holds no model fitted by sc_vaenb; uns has \['vae'\]"),
    ],
)
def test_export_refuses(fitted, refused, tmp_path, path, key, error, text):
    with refused(fitted, error, text):
        sc_vaenb.tl.export_model(fitted, tmp_path / path, key)


def test_a_damaged_model_is_not_exported(fitted, tmp_path):
    del fitted.uns["vae"]["model"]["weights"]["depth"]
    with pytest.raises(ValueError, match=r"the model in uns\['vae'\] is damaged"):
        sc_vaenb.tl.export_model(fitted, tmp_path / "model.safetensors")
    assert not os.listdir(tmp_path)


def cut(file):
    file.write_bytes(file.read_bytes()[:-100])


def tampered(file):
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(bytes(content))


def with_text(**changes):
    def change(file):
        raw = file.read_bytes()
        text = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["__metadata__"]
        save_file(load_file(file), file, metadata={**text, **changes})

    return change


def with_other_seed(file):
    raw = file.read_bytes()
    params = json.loads(json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["__metadata__"]["params"])
    with_text(params=json.dumps(params | {"rng": 7}))(file)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (os.unlink, FileNotFoundError, "is not a file. Give one that"),
        (cut, ValueError, "is cut off, or no safetensors file"),
        (lambda file: file.write_text("{}"), ValueError, "is cut off, or no safetensors file"),
        (tampered, ValueError, "was changed since it was written: its checksum is not"),
        (
            with_text(genes='["a"]'),
            ValueError,
            r"is damaged: model\['config'\]\['n_genes'\] is 100, but there are 1 genes",
        ),
        (with_text(params='{"rng": 7}'), ValueError, r"is damaged: params lacks 'batch_key'\. Get it again"),
        (with_text(verdict="[" * 20_000), ValueError, "is damaged: verdict is no text in JSON"),
        (with_other_seed, ValueError, "was changed since it was written: its checksum is not"),
        (with_text(format="sc_vaenb model 9"), ValueError, "has the format 'sc_vaenb model 9', this version reads"),
        (lambda file: save_file({"a": np.ones(2)}, file), ValueError, "holds no model of sc_vaenb"),
    ],
)
def test_import_refuses_what_it_cannot_trust(adata, refused, file, change, error, text):
    change(file)
    with refused(adata, error, text):
        sc_vaenb.tl.import_model(adata, file)


def test_import_refuses_other_genes(adata, refused, file):
    other = adata[:, :50].copy()
    with refused(other, ValueError, r"50 of the 100 genes of the model in uns\['vae'\] are not in var_names"):
        sc_vaenb.tl.import_model(other, file)
