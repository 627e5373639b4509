import pytest

import sc_vaenb
from sc_vaenb import cli
from sc_vaenb.tl import _counts, _graph


def plane(adata, *, neighbors_key, key_added, **_):
    """In the place of a UMAP: the first two dimensions."""
    adata.obsm[key_added] = adata.obsm["X_" + neighbors_key.removeprefix("neighbors_")][:, :2].copy()


@pytest.fixture
def quick(monkeypatch):
    """Fits of a tenth of a second, and no UMAP."""
    monkeypatch.setattr(_counts, "default_steps", lambda *_: 20)
    monkeypatch.setattr(_graph.sc.tl, "umap", plane)


@pytest.fixture(scope="session")
def _file(simulated, tmp_path_factory):
    """300 cells with log values in X and counts in a layer, as many files have them."""
    adata = simulated.copy()
    sc_vaenb.pp.prepare(adata, log1p=True)
    del adata.var["highly_variable"], adata.uns["prepare"]
    adata.layers["umi"] = adata.layers.pop("counts")
    path = tmp_path_factory.mktemp("data") / "data.h5ad"
    adata.write_h5ad(path)
    return path


@pytest.fixture
def file(_file):
    return _file


@pytest.fixture
def refuses(capsys):
    """Call the command line, which must refuse in one line that holds this text; returns the line."""

    def check(*typed, text):
        assert cli.main(list(map(str, typed))) == 1
        error = capsys.readouterr().err
        lines = [line for line in error.splitlines() if line.startswith("sc-vaenb: ")]
        assert len(lines) == 1
        assert "Traceback" not in error
        assert text in lines[0]
        return lines[0]

    return check
