"""`checkpoint` of `tl.vae` and `tl.cvae`. What is written, and that it is whole, is tested in `tests/fit`."""

import numpy as np
import pytest

import sc_vaenb
from sc_vaenb.fit import checkpoint, history


@pytest.fixture(autouse=True)
def _always(monkeypatch):
    monkeypatch.setattr(checkpoint, "MAX_SHARE_OF_TIME", float("inf"))


@pytest.mark.slow
def test_a_fit_that_broke_off_ends_as_if_it_had_not(adata, fast, tmp_path, refused, log):
    fitted = sc_vaenb.tl.cvae(adata, "batch", encode_batch=True, copy=True, **fast)
    options = fast | {"encode_batch": True, "checkpoint": tmp_path / "kept"}
    with pytest.MonkeyPatch.context() as patched:
        record = history.History.record
        patched.setattr(
            history.History, "record", lambda self, step, *found: record(self, step, *found) if step < 12 else 1 / 0
        )
        with refused(adata, ZeroDivisionError, "division"):
            sc_vaenb.tl.cvae(adata, "batch", **options)
    assert "going on" not in log.getvalue()
    sc_vaenb.tl.cvae(adata, "batch", **options)
    assert f"continuing from step 12, saved in {tmp_path / 'kept'}" in log.getvalue()
    sc_vaenb.tl.cvae(adata, "batch", key_added="again", **options | {"checkpoint": str(tmp_path / "kept")})
    assert "continuing from step 20" in log.getvalue()  # nothing but the embedding was left to do
    for key in ("vae", "again"):
        np.testing.assert_array_equal(adata.obsm[f"X_{key}"], fitted.obsm["X_vae"])
        assert adata.uns[key]["params"].keys() == fitted.uns["vae"]["params"].keys()  # where it was kept is not told
        assert adata.uns[key]["verdict"] == fitted.uns["vae"]["verdict"]


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"checkpoint": 3}, TypeError, r"^checkpoint=3 is not possible\. Give a folder or None\.$"),
        (
            {"checkpoint": "kept", "rng": None},
            ValueError,
            r"^checkpoint needs a seed: with rng=None every fit is a diff",
        ),
        ({"checkpoint": "file"}, FileExistsError, r"^checkpoint='file' is a file, not a folder\. Pass another name\.$"),
        (
            {"checkpoint": "file/a"},
            OSError,
            r"^checkpoint='file/a' cannot be written to \(Not a directory\)\. Pass anot",
        ),
    ],
)
def test_what_can_keep_no_state_is_refused(adata, fast, refused, tmp_path, monkeypatch, options, error, text):
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sc_vaenb._adata, "read_counts", lambda *_, **__: pytest.fail("read the counts"))
    with refused(adata, error, text):
        sc_vaenb.tl.vae(adata, **fast | options)


def test_a_refused_call_leaves_no_folder_behind(adata, fast, refused, tmp_path):
    adata.layers["counts"].data[7] = 0.5
    with refused(adata, ValueError, "non-integer values"):
        sc_vaenb.tl.vae(adata, checkpoint=tmp_path / "new" / "kept", **fast)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_held_for_one_fit_at_a_time(adata, fast, refused, tmp_path, another_run):
    with another_run(tmp_path), refused(adata, BlockingIOError, "another fit is writing to it. Wait until it"):
        sc_vaenb.tl.vae(adata, checkpoint=tmp_path, **fast)
    assert list(tmp_path.iterdir()) == []
    sc_vaenb.tl.vae(adata, checkpoint=tmp_path, **fast)  # and is free again


def test_another_fit_is_refused_before_any_work(adata, fast, refused, tmp_path, monkeypatch):
    sc_vaenb.tl.vae(adata, copy=True, checkpoint=tmp_path, **fast)
    monkeypatch.setattr("sc_vaenb.tl._fit.fit", lambda *_: pytest.fail("fitted"))
    with refused(
        adata, ValueError, r"holds the state of another fit\. What differs: n_latent \(4 there, 5 here\)\. Pass"
    ):
        sc_vaenb.tl.vae(adata, checkpoint=tmp_path, **fast | {"n_latent": 5})
    with refused(adata, ValueError, r"What differs: batches, n_batches \(0 there, 2 here\), "):
        sc_vaenb.tl.cvae(adata, "batch", checkpoint=tmp_path, **fast)
    adata.layers["counts"].data[7] += 1
    with refused(adata, ValueError, r"What differs: counts, size factors\. Pass another folder, or remove this one"):
        sc_vaenb.tl.vae(adata, checkpoint=tmp_path, **fast)
