"""Files of every format, and counts matched by name."""

import gzip
import re

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.io
from scipy import sparse

from sc_vaenb.cli._read import choose_key, read, with_counts
from sc_vaenb.cli._write import write_adata


@pytest.fixture
def small():
    counts = sparse.csr_matrix(np.array([[1, 0, 2], [0, 3, 0]], np.float32))
    names = {"obs": pd.DataFrame(index=["c1", "c2"]), "var": pd.DataFrame(index=["g1", "g2", "g3"])}
    return ad.AnnData(counts, **names)


def in_10x_h5(adata, path):
    import h5py

    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        group["barcodes"] = adata.obs_names.to_numpy().astype("S")
        group["data"], group["indices"] = adata.X.data.astype(np.int32), adata.X.indices
        group["indptr"], group["shape"] = adata.X.indptr, np.array(adata.shape[::-1])
        features = group.create_group("features")
        names, kind = adata.var_names.tolist(), ["Gene Expression"] * 3
        for name, values in {"id": names, "name": names, "feature_type": kind, "genome": ["x"] * 3}.items():
            features[name] = np.array(values, "S")


def in_mtx(adata, folder):
    folder.mkdir()
    with gzip.open(folder / "matrix.mtx.gz", "wb") as file:
        scipy.io.mmwrite(file, adata.X.T.astype(np.int32))
    with gzip.open(folder / "features.tsv.gz", "wt") as file:
        file.writelines(f"{gene}\t{gene}\tGene Expression\n" for gene in adata.var_names)
    with gzip.open(folder / "barcodes.tsv.gz", "wt") as file:
        file.writelines(f"{cell}\n" for cell in adata.obs_names)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.h5ad", write_adata),
        ("a.zarr", write_adata),
        ("a.h5", in_10x_h5),
        ("a", in_mtx),
    ],
)
def test_every_format_gives_the_same(small, tmp_path, name, write):
    write(small, tmp_path / name)
    found = read(tmp_path / name)
    assert found.obs_names.tolist() == ["c1", "c2"]
    assert found.var_names.tolist() == ["g1", "g2", "g3"]
    np.testing.assert_array_equal(found.X.toarray(), small.X.toarray())


def test_genes_of_one_name_are_told_apart(small, tmp_path):
    small.var_names = ["g1", "g1", "g3"]
    small.write_h5ad(tmp_path / "a.h5ad")
    assert read(tmp_path / "a.h5ad").var_names.tolist() == ["g1", "g1-1", "g3"]


def cut(tmp_path, small):
    small.write_h5ad(tmp_path / "cut.h5ad")
    whole = (tmp_path / "cut.h5ad").read_bytes()
    (tmp_path / "cut.h5ad").write_bytes(whole[: len(whole) // 2])
    return tmp_path / "cut.h5ad"


def folder(name):
    def make(tmp_path, small):
        (tmp_path / name).mkdir()
        return tmp_path / name

    return make


def text(tmp_path, small):
    (tmp_path / "a.csv").write_text("a,b\n")
    return tmp_path / "a.csv"


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda tmp_path, _: tmp_path / "none.h5ad", FileNotFoundError, r"none.h5ad does not exist\."),
        (cut, ValueError, r"cut.h5ad cannot be read; it may be damaged or incomplete \("),
        (folder("a.h5ad"), IsADirectoryError, r"a.h5ad is a folder, not a file\. Give \.h5ad, \.zarr, 10x \.h5"),
        (folder("a"), ValueError, r"a is a folder without matrix\.mtx\. Give \.h5ad"),
        (folder("a.zarr"), ValueError, "a.zarr cannot be read; it may be damaged"),
        (text, ValueError, r"a.csv has the ending '\.csv'\. Give \.h5ad"),
    ],
)
def test_what_cannot_be_read_is_refused(small, tmp_path, make, error, words):
    with pytest.raises(error, match=words):
        read(make(tmp_path, small))


def with_prefixes(*prefixes):
    def make(tmp_path, small):
        in_mtx(small, tmp_path / "geo")
        for file in list((tmp_path / "geo").iterdir()):
            for prefix in prefixes:
                (tmp_path / "geo" / f"{prefix}{file.name}").write_bytes(file.read_bytes())
            file.unlink()
        return tmp_path / "geo"

    return make


def test_a_folder_of_geo_is_read(small, tmp_path):
    found = read(with_prefixes("GSM1_")(tmp_path, small))
    assert found.obs_names.tolist() == ["c1", "c2"]
    np.testing.assert_array_equal(found.X.toarray(), small.X.toarray())


def without_barcodes(tmp_path, small):
    in_mtx(small, tmp_path / "a")
    (tmp_path / "a" / "barcodes.tsv.gz").unlink()
    return tmp_path / "a"


def of_anndata_06(tmp_path, small):
    import h5py

    small.write_h5ad(tmp_path / "old.h5ad")
    with h5py.File(tmp_path / "old.h5ad", "a") as file:
        for name in ("obs", "var"):
            names = getattr(small, f"{name}_names")
            del file[name]
            file[name] = np.array([(str(value),) for value in names], dtype=[("index", "S9")])
    return tmp_path / "old.h5ad"


def raising(error):
    def make(tmp_path, small):
        small.write_h5ad(tmp_path / "a.h5ad")

        def fail(*_):
            raise error

        return tmp_path / "a.h5ad", fail

    return make


LOCK = "Unable to synchronously open file (unable to lock file, errno = 11, error message = 'Resource temporarily"


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (
            with_prefixes("GSM1_", "GSM2_"),
            ValueError,
            r"geo holds the files of 2 samples \(GSM1_matrix.mtx, GSM2_matrix.mtx\)\. Put the three files of each into",
        ),
        (without_barcodes, FileNotFoundError, r"a lacks a file that belongs to matrix\.mtx: .*barcodes\.tsv"),
        (lambda folder, _: folder / ("n" * 300), OSError, r"n cannot be opened: File name too long\.$"),
        (lambda folder, _: folder / ("n/" * 3000), OSError, r"n cannot be opened: File name too long\.$"),
        (raising(BlockingIOError(11, LOCK)), OSError, r"a\.h5ad is locked: another program has it open for writing"),
        (raising(OSError(LOCK)), OSError, r"a\.h5ad is locked: another program has it open for writing"),
        (raising(MemoryError()), MemoryError, r"a\.h5ad does not fit into the memory that is free\. Leave the counts"),
        (raising(RuntimeError("std::bad_alloc")), MemoryError, r"a\.h5ad does not fit into the memory"),
        (raising(OSError(5, "Input/output error")), OSError, r"a\.h5ad cannot be read: Input/output error\.$"),
    ],
)
def test_a_file_that_is_not_damaged_is_not_called_so(small, tmp_path, monkeypatch, make, error, words):
    path = make(tmp_path, small)
    if isinstance(path, tuple):
        path, fail = path
        monkeypatch.setattr(ad, "read_h5ad", fail)
    with pytest.raises(error, match=words) as caught:
        read(path)
    assert "damaged" not in str(caught.value)


def test_a_file_of_anndata_06_cannot_stay_on_disk(small, tmp_path):
    path = of_anndata_06(tmp_path, small)
    with pytest.raises(ValueError, match=r"old\.h5ad was written by anndata 0\.6 or older, which --backed"):
        read(path, backed=True)


def test_counts_are_matched_by_name_in_any_order(adata):
    processed = adata[:, :80].copy()
    processed.X = np.log1p(processed.X.toarray())
    del processed.layers["counts"]
    shuffled = np.random.default_rng(0).permutation(250)
    raw = ad.AnnData(adata.X, obs=adata.obs[[]], var=adata.var[[]])[shuffled].copy()[:, adata.var_names[::-1]].copy()
    matched, said = with_counts(processed, raw, None)
    assert said == "counts: 250 of 300 cells and 80 of 80 genes found by name"
    assert matched.obs_names.tolist() == [name for name in adata.obs_names if name in set(raw.obs_names)]
    np.testing.assert_array_equal(
        matched.layers["counts"].toarray(), adata[matched.obs_names, matched.var_names].X.toarray()
    )
    assert processed.n_obs == 300


def test_counts_are_read_from_a_layer_of_theirs(adata):
    raw = adata.copy()
    raw.X = raw.X * 0.5
    for layer in (None, "counts"):
        found = with_counts(adata, raw, layer)[0].layers["counts"]
        np.testing.assert_array_equal(found.toarray(), adata.X.toarray())
    with pytest.raises(KeyError, match=r"--layer 'raw' is not in the layers of --counts, which are \['counts'\]"):
        with_counts(adata, raw, "raw")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: a.obs_names + "-1", "--counts has 0% of the cells of --adata ('cell_0', ... there; 'cell_0-1', ..."),
        (lambda a: ["x"] * a.n_obs, "--counts names cells twice (first: 'x')"),
    ],
)
def test_counts_of_other_cells_are_refused(adata, unchanged, change, words):
    raw = adata.copy()
    raw.obs_names = change(raw)
    with unchanged(adata), pytest.raises(ValueError, match=re.escape(words)):
        with_counts(adata, raw, None)


def test_counts_of_other_genes_are_refused(adata):
    raw = adata.copy()
    raw.var_names = [*(f"x{i}" for i in range(60)), *raw.var_names[60:]]
    with pytest.raises(ValueError, match="--counts has 40% of the genes of --adata"):
        with_counts(adata, raw, None)


def test_columns_with_usual_names_need_not_be_named(adata):
    usual = ("sample", "batch")
    assert choose_key(adata, "batch-key", None, usual, needed=True) == "batch"
    assert choose_key(adata, "batch-key", "cell_type", usual, needed=True) == "cell_type"
    assert choose_key(adata, "label-key", None, ("celltype",), needed=False) is None
    with pytest.raises(KeyError, match="--batch-key 'donor' is not a column of obs, which has"):
        choose_key(adata, "batch-key", "donor", usual, needed=True)
    with pytest.raises(KeyError, match="obs has no column donor or lane: name the one to use with --batch-key"):
        choose_key(adata, "batch-key", None, ("donor", "lane"), needed=True)
    adata.obs["sample"] = "s"
    with pytest.raises(KeyError, match="obs has both sample and batch: name the one"):
        choose_key(adata, "batch-key", None, usual, needed=False)
