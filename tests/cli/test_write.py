"""Files are there whole or not at all."""

import os

import anndata as ad
import numpy as np
import pytest

from sc_vaenb import _files
from sc_vaenb.cli import _write


@pytest.fixture
def small():
    return ad.AnnData(np.ones((3, 2), np.float32))


@pytest.mark.parametrize("name", ["a.h5ad", "a.zarr"])
def test_what_is_written_is_read_again(small, tmp_path, name):
    for value in (1, 2):  # the second replaces the first
        small.X[:] = value
        _write.write_adata(small, tmp_path / name)
        found = ad.read_h5ad(tmp_path / name) if name == "a.h5ad" else ad.read_zarr(tmp_path / name)
        np.testing.assert_array_equal(found.X, small.X)
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_what_was_there(monkeypatch, small, tmp_path, error):
    target = tmp_path / "a.h5ad"
    target.write_text("before")

    def broken(self, path):
        path.write_text("half")
        raise error

    monkeypatch.setattr(ad.AnnData, "write_h5ad", broken)
    with pytest.raises(type(error)):
        _write.write_adata(small, target)
    assert os.listdir(tmp_path) == ["a.h5ad"]
    assert target.read_text() == "before"


def test_a_full_disk_is_said_in_a_line(monkeypatch, small, tmp_path):
    def full(self, path):
        raise OSError(28, "Can't close file (file write failed: errno = 28, error message = 'No space left on device'")

    monkeypatch.setattr(ad.AnnData, "write_h5ad", full)
    with pytest.raises(
        OSError, match=r"^a\.h5ad could not be .*: No space left on device\. What was there is unchanged\.$"
    ):
        _write.write_adata(small, tmp_path / "a.h5ad")


def test_a_folder_that_fails_is_not_there(tmp_path):
    def write():
        with _files.atomic_path(tmp_path / "results") as partial:
            partial.mkdir()
            (partial / "half").touch()
            raise ValueError("half")

    with pytest.raises(ValueError, match="half"):
        write()
    assert os.listdir(tmp_path) == []


def test_an_output_that_takes_no_files_is_found_out_first(monkeypatch, small, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match=r"file is a file, not a folder\. Pass another --out\."):
        _write.make_folder(tmp_path / "file")
    with pytest.raises(OSError, match=r"below cannot be written to \(Not a directory\)\. Pass another --out\."):
        _write.make_folder(tmp_path / "file" / "below")
    _write.make_folder(tmp_path / "new" / "folder")
    _write.check_space(small, tmp_path / "new" / "folder")
    monkeypatch.setattr(_write.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 2**10}))
    with pytest.raises(OSError, match=r"has 0 MiB free, and the results need about 29\. Make room"):
        _write.check_space(small, tmp_path)


def test_nothing_is_replaced_unless_asked(tmp_path):
    target = tmp_path / "a.h5ad"
    _write.check_new(target, force=False)
    target.touch()
    with pytest.raises(FileExistsError, match=r"already there\. Pass --force to replace it, or another --out"):
        _write.check_new(target, force=False)
    _write.check_new(target, force=True)
    with pytest.raises(IsADirectoryError, match="is a folder, not a file"):
        _write.check_new(tmp_path, force=True)
