"""`sc-vaenb simulate`, `score` and `info`."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import sc_vaenb
from sc_vaenb import cli


@pytest.mark.parametrize("name", ["a.h5ad", "a.zarr"])
def test_simulated_data_are_written(tmp_path, name):
    out = tmp_path / "new" / name
    typed = ["simulate", "--out", str(out), "--n-cells", "80", "--n-genes", "60", "--n-batches", "3", "--rng", "5"]
    assert cli.main(typed) == 0
    found = ad.read_h5ad(out) if out.suffix == ".h5ad" else ad.read_zarr(out)
    expected = sc_vaenb.datasets.simulate(80, 60, n_batches=3, rng=5)
    np.testing.assert_array_equal(found.X.toarray(), expected.X.toarray())
    assert found.obs["batch"].tolist() == expected.obs["batch"].tolist()


def test_simulate_refuses(tmp_path, refuses):
    refuses("simulate", "--out", tmp_path / "a.csv", text="does not end in .h5ad or .zarr")
    (tmp_path / "a.h5ad").touch()
    refuses("simulate", "--out", tmp_path / "a.h5ad", text="already there. Pass --force")
    refuses("simulate", "--out", tmp_path / "b.h5ad", "--theta", "0", text="theta")
    assert not (tmp_path / "b.h5ad").exists()


@pytest.mark.slow
def test_scores_are_printed_and_written(adata, tmp_path, capsys, refuses):
    adata.obsm["X_noise"] = np.random.default_rng(0).normal(size=(300, 4))
    adata.obsm["X_true"] = np.eye(3)[adata.obs["cell_type"].cat.codes] + 0.1 * adata.obsm["X_noise"][:, :3]
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert cli.main(["score", str(tmp_path / "a.h5ad"), "--out", str(tmp_path / "scores.csv")]) == 0
    assert "total" in capsys.readouterr().out
    found = pd.read_csv(tmp_path / "scores.csv", index_col=0)
    assert found.loc["X_true", "nmi"] > 0.9 > 0.2 > found.loc["X_noise", "nmi"]
    typed = ["score", str(tmp_path / "a.h5ad"), "--embeddings", "X_true", "--batch-key", "batch"]
    assert cli.main(typed) == 0
    assert "X_noise" not in capsys.readouterr().out
    refuses(*typed[:-2], "--out", tmp_path / "scores.csv", text="already there")
    refuses(*typed[:-3], "X_none", text="'X_none' is not in adata.obsm")


def test_info_says_what_is_in_a_file(fitted, tmp_path, capsys):
    fitted.layers["log"] = fitted.X.copy()
    fitted.layers["log"].data = np.log1p(fitted.layers["log"].data)
    fitted.layers["scaled"] = fitted.X.toarray() - 1
    for name in ("orig", "spliced", "spliced_counts"):
        fitted.layers[name] = fitted.X.copy()
    fitted.write_h5ad(tmp_path / "a.h5ad")
    assert cli.main(["info", str(tmp_path / "a.h5ad")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("a.h5ad: 300 cells x 100 genes")
    assert "X: float32 csr, whole numbers: raw counts" in lines
    assert "layers['log']: float32 csr, fractions: no raw counts" in lines
    assert "layers['scaled']: float32 dense, negative values: no counts" in lines
    assert "layers['counts']: float32 csr, whole numbers: raw counts" in lines
    for name in ("orig", "spliced", "spliced_counts"):
        only = f"raw counts only if you say so, with --layer {name}"
        assert f"layers['{name}']: float32 csr, whole numbers: {only}" in lines
    assert "obs['batch']: 2 values" in lines
    assert "obs['depth_factor']: numbers" in lines
    assert "obsm['X_vae']: 300 x 4" in lines
    assert any(
        line.startswith("uns['vae']: tl.cvae on 'batch', likelihood nb, 4 latent dimensions. ") for line in lines
    )
