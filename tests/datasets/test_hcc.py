"""The published data, in small files of the same form that a server on this machine hands out."""

import gzip
import hashlib
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse as sp

from sc_vaenb import datasets, pp
from sc_vaenb._scanpy import override
from sc_vaenb.datasets import _hcc

COUNTS, METADATA = _hcc.FILES["counts"], _hcc.FILES["metadata"]
COLUMNS = ["Cell", "sample", "res.3", "site", "patient", "stage", "virus", "celltype"]
N_CELLS, N_GENES = 60, 40

# anndata (with pandas 3) asks pandas for a deprecated option while reading any file; not ours to fix.
pytestmark = pytest.mark.filterwarnings("ignore:.*future.infer_string")


def lines(*rows):
    return "".join("\t".join(map(str, row)) + "\n" for row in rows).encode()


def table_of(truth, *, corner=()):
    header = [*corner, *truth.index]
    return lines(header, *([gene, *truth[gene]] for gene in truth))


def metadata_of(cells):
    rows = [
        [c, c.split("_")[0], i % 53, "Tumor", "HCC01", "I", "HBV", ["B", "T/NK"][i % 2]] for i, c in enumerate(cells)
    ]
    return lines(COLUMNS, *rows[::-1])  # another order than that of the counts


@pytest.fixture(scope="module")
def truth():
    """Counts, cells x genes: some with several digits, one gene without any, and no cell without any."""
    counts = np.random.default_rng(0).negative_binomial(0.3, 0.01, (N_CELLS, N_GENES))
    counts[:, 0], counts[:, 1], counts[3, 2] = 0, 1, 1_234_567
    cells = [f"HCC0{1 + i // 30}{'TN'[i // 15 % 2]}_{i:016d}" for i in range(N_CELLS)]
    return pd.DataFrame(counts, index=cells, columns=[f"GENE{i}" for i in range(N_GENES)])


@pytest.fixture
def plain(truth):
    """The two texts, by name."""
    return {"counts": table_of(truth), "metadata": metadata_of(truth.index)}


@pytest.fixture
def server(plain, monkeypatch):
    """Hands out `files`, remembers what was asked for in `asked`, and breaks off after `sent` bytes if that is set."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.removeprefix("/")
            server.asked.append(name)
            if name not in server.files:
                self.send_error(404)
                return
            self.send_response(200)
            if server.encoding:
                self.send_header("Content-Encoding", server.encoding)
            self.send_header("Content-Length", str(len(server.files[name])))
            self.end_headers()
            self.wfile.write(server.files[name][: server.sent.get(name)])

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.files = {COUNTS: gzip.compress(plain["counts"]), METADATA: gzip.compress(plain["metadata"])}
    server.asked, server.sent, server.encoding = [], {}, None
    monkeypatch.setattr(_hcc, "GEO", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.01))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def local(plain, tmp_path):
    """Reads the two texts, as they are or compressed, after a test has changed them."""

    def read(*, zipped=False, **options):
        paths = {name: tmp_path / f"{name}.txt" for name in plain}
        for name, path in paths.items():
            path.write_bytes(gzip.compress(plain[name]) if zipped else plain[name])
        return datasets.hcc(**{name: str(path) for name, path in paths.items()}, **options)

    return read


def assert_is(adata, truth):
    assert adata.obs_names.tolist() == truth.index.tolist()
    assert adata.var_names.tolist() == truth.columns.tolist()
    for matrix in (adata.X, adata.layers["counts"]):
        assert isinstance(matrix, sp.csr_matrix)
        assert matrix.dtype == np.float32
        assert matrix.has_canonical_format
        assert (matrix.data >= 1).all()
        np.testing.assert_array_equal(matrix.toarray(), truth)
    assert adata.obs.columns.tolist() == COLUMNS[1:]
    assert all(isinstance(dtype, pd.CategoricalDtype) for dtype in adata.obs.dtypes)
    assert adata.obs["sample"].tolist() == [cell.split("_")[0] for cell in truth.index]
    assert adata.obs["celltype"].tolist() == ["B", "T/NK"] * (N_CELLS // 2)
    assert adata.obs["res.3"].tolist() == [str(i % 53) for i in range(N_CELLS)]
    assert "Lu et al. 2022" in adata.uns["source"]


# download and cache


def test_the_first_call_downloads_and_later_ones_read_what_it_kept(server, truth, tmp_path, log):
    folder = tmp_path / "new" / "folder"
    first = datasets.hcc(folder)
    assert_is(first, truth)
    assert server.asked == [METADATA, COUNTS]
    assert [path.name for path in folder.iterdir()] == [_hcc.CACHED]
    assert first.uns["sha256"] == {
        "counts": hashlib.sha256(server.files[COUNTS]).hexdigest(),
        "metadata": hashlib.sha256(server.files[METADATA]).hexdigest(),
    }
    assert f"downloading GSE149614 from GEO, to keep it as {folder / _hcc.CACHED}" in log.getvalue()
    server.files = {}
    again = datasets.hcc(folder, sha256=first.uns["sha256"])
    assert_is(again, truth)
    assert again.uns["sha256"] == first.uns["sha256"]
    assert server.asked == [METADATA, COUNTS]
    assert f"reading {folder / _hcc.CACHED}" in log.getvalue()


@pytest.mark.usefixtures("server")
def test_the_folder_is_scanpys_if_none_is_named(truth, tmp_path):
    import scanpy as sc

    before, sc.settings.datasetdir = sc.settings.datasetdir, tmp_path
    try:
        assert_is(datasets.hcc(), truth)
    finally:
        sc.settings.datasetdir = before
    assert [path.name for path in tmp_path.iterdir()] == [_hcc.CACHED]


def test_a_server_that_calls_gzip_an_encoding_of_the_transfer(server, truth, tmp_path):
    server.encoding = "gzip"
    assert_is(datasets.hcc(tmp_path), truth)


@pytest.mark.usefixtures("server")
def test_normalising_leaves_the_counts(truth, tmp_path):
    import scanpy as sc

    adata = datasets.hcc(tmp_path)
    sc.pp.normalize_total(adata)
    sc.pp.log1p(adata)
    np.testing.assert_array_equal(adata.layers["counts"].toarray(), truth)
    pp.prepare(adata, n_top_genes=20)
    assert adata.uns["prepare"]["source"] == "layers['counts']"


def test_progress_is_shown_unless_scanpy_is_silent(server, tmp_path, capsys):
    with override(verbosity="warning"):
        datasets.hcc(tmp_path / "a")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "%" in shown.err
    with override(verbosity="error"):
        datasets.hcc(tmp_path / "b")
    assert capsys.readouterr() == ("", "")


def cut_off(files, sent):
    sent[COUNTS] = len(files[COUNTS]) // 2


def cut_off_unnoticed(files, sent):
    files[COUNTS] = files[COUNTS][: len(files[COUNTS]) // 2]


def metadata_cut_off_unnoticed(files, sent):
    files[METADATA] = files[METADATA][:-12]


def damaged(files, sent):
    middle = len(files[COUNTS]) // 2
    files[COUNTS] = files[COUNTS][:middle] + bytes(8) + files[COUNTS][middle + 8 :]


def wrong_crc(files, sent):
    files[COUNTS] = files[COUNTS][:-8] + bytes(8)


def web_page(files, sent):
    files[COUNTS] = b"\n<!DOCTYPE html>\n<html><body>Service unavailable</body></html>"


def absent(files, sent):
    del files[METADATA]


@pytest.mark.parametrize(
    ("spoil", "error", "text"),
    [
        (
            cut_off,
            ConnectionError,
            r"count\.txt\.gz could not be downloaded \(.*[Ii]ncomplete.*\)\. Call again; or",
        ),
        (
            cut_off_unnoticed,
            ValueError,
            r"^GSE149614_HCC.*\.count\.txt\.gz is cut off or damaged \(.*\)\. Download",
        ),
        (
            metadata_cut_off_unnoticed,
            ValueError,
            r"metadata\.updated\.txt\.gz is cut off or damaged",
        ),
        (damaged, ValueError, r"count\.txt\.gz is cut off or damaged"),
        (wrong_crc, ValueError, r"count\.txt\.gz is cut off or damaged \(CRC check failed"),
        (
            web_page,
            ValueError,
            r"count\.txt\.gz is a web page, no table: .*DOCTYPE html.*Download",
        ),
        (
            absent,
            ConnectionError,
            r"metadata\.updated\.txt\.gz could not be downloaded \(404 .*pass their paths",
        ),
    ],
)
def test_a_broken_download_leaves_nothing_and_can_be_tried_again(server, truth, tmp_path, spoil, error, text):
    good = server.files.copy()
    spoil(server.files, server.sent)
    with pytest.raises(error, match=text):
        datasets.hcc(tmp_path)
    assert list(tmp_path.iterdir()) == []
    server.files, server.sent = good, {}
    assert_is(datasets.hcc(tmp_path), truth)


def test_without_a_server_the_error_names_the_files(server, tmp_path, monkeypatch):
    monkeypatch.setattr(_hcc, "GEO", "http://127.0.0.1:1/")
    with pytest.raises(ConnectionError, match=rf"or get {METADATA} and {COUNTS} in another way, and pass their paths"):
        datasets.hcc(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_checksum_is_refused(server, truth, tmp_path):
    wrong = {"counts": "0" * 64}
    with pytest.raises(ValueError, match=rf"{COUNTS} has sha256 \w{{64}}, not 0{{64}} as sha256\['counts'\] asks"):
        datasets.hcc(tmp_path, sha256=wrong)
    assert list(tmp_path.iterdir()) == []
    right = {"counts": hashlib.sha256(server.files[COUNTS]).hexdigest().upper()}
    assert_is(datasets.hcc(tmp_path, sha256=right), truth)
    with pytest.raises(ValueError, match=r"hcc\.h5ad was made of counts with sha256 .* Delete it, and call again"):
        datasets.hcc(tmp_path, sha256=wrong)


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch, error):
    def broken(self, path, **_):
        path.write_text("half")
        raise error

    monkeypatch.setattr(ad.AnnData, "write_h5ad", broken)
    with pytest.raises(type(error)):
        datasets.hcc(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_kept_file_that_is_damaged_is_named(tmp_path):
    (tmp_path / _hcc.CACHED).write_text("no h5ad")
    with pytest.raises(ValueError, match=r"GSE149614_hcc\.h5ad cannot be read \(.*\)\. Delete it, and call again"):
        datasets.hcc(tmp_path)


# local files


@pytest.mark.parametrize("zipped", [True, False])
def test_local_files_are_read_and_nothing_else_happens(local, server, truth, tmp_path, zipped):
    adata = local(zipped=zipped, folder=tmp_path / "kept")
    assert_is(adata, truth)
    assert server.asked == []
    assert {path.name for path in tmp_path.iterdir()} == {"counts.txt", "metadata.txt"}


@pytest.mark.parametrize("corner", ["", "gene"])
def test_a_name_above_the_genes_is_no_cell(local, plain, truth, corner):
    plain["counts"] = table_of(truth, corner=[corner])
    assert_is(local(), truth)


def test_metadata_with_names_of_rows(local, plain, truth):
    plain["metadata"] = plain["metadata"].replace(b"Cell\t", b"", 1)
    assert_is(local(), truth)


def test_quoted_names_windows_line_ends_and_no_last_line_end(local, plain, truth):
    plain["counts"] = table_of(truth.rename(index='"{}"'.format, columns='"{}"'.format)).replace(b"\n", b"\r\n")[:-2]
    assert_is(local(), truth)


def test_counts_in_other_notations(local, plain, truth):
    assert b"\t1234567\t" in plain["counts"]
    plain["counts"] = plain["counts"].replace(b"\t1234567\t", b"\t1.234567e+06\t").replace(b"\t1\t", b"\t1.0\t")
    assert_is(local(), truth)


def test_metadata_of_more_cells(local, plain, truth):
    plain["metadata"] += lines(["OTHER_1", "OTHER", 1, "Tumor", "HCC99", "I", "HBV", "B"])
    adata = local()
    assert_is(adata, truth)
    assert "OTHER" not in adata.obs["sample"].cat.categories


def test_genes_named_twice_get_names_of_their_own(local, plain, truth, log):
    plain["counts"] = table_of(truth).replace(b"\nGENE7\t", b"\nGENE5\t")
    adata = local()
    assert adata.var_names[[5, 7]].tolist() == ["GENE5", "GENE5-1"]
    np.testing.assert_array_equal(adata.X.toarray(), truth)
    assert "1 gene names occur more than once (first: 'GENE5')" in log.getvalue()


@pytest.mark.parametrize(
    ("name", "old", "new", "text"),
    [
        (
            "metadata",
            b"\nHCC01N_0000000000000020\t",
            b"\nHCC01N_20\t",
            r"metadata\.txt has no row for 1 of the 60 cells of counts\.txt \(first: 'HCC01N_0000000000000020'\)",
        ),
        (
            "metadata",
            b"\nHCC01N_0000000000000020\t",
            b"\nHCC01N_0000000000000021\t",
            "more than one row for cell",
        ),
        (
            "metadata",
            b"celltype\n",
            b"type\n",
            r"metadata\.txt has no column 'celltype'\. Its columns are \['s",
        ),
        (
            "metadata",
            b"\nHCC01N_0000000000000020\t",
            b"\nHCC01N_\t\t\t20\t",
            "metadata.txt is no table separated by tabs .*line",
        ),
        (
            "counts",
            b"\tHCC01N_0000000000000020\t",
            b"\tHCC01N_0000000000000021\t",
            "more than one column for cell",
        ),
        (
            "counts",
            b"\t1234567\t",
            b"\t0.69\t",
            r"counts\.txt holds '0\.69' for gene 'GENE2' in cell 'HCC01T_0{15}3'",
        ),
        (
            "counts",
            b"\t1234567\t",
            b"\t-4\t",
            "holds '-4' for gene 'GENE2' in cell .* which is no count",
        ),
        (
            "counts",
            b"\t1234567\t",
            b"\tNA\t",
            "holds 'NA' for gene 'GENE2'.*Pass the raw counts, not normal",
        ),
        ("counts", b"\t1234567\t", b"\t\t", "holds '' for gene 'GENE2'"),
        ("counts", b"\t1234567\t", b"\tinf\t", "holds 'inf' for gene 'GENE2'"),
        (
            "counts",
            b"\t1234567\t",
            b"\t",
            r"counts\.txt has 59 counts for gene 'GENE2' and 60 cells in its header",
        ),
    ],
)
def test_tables_that_do_not_fit_are_refused(local, plain, name, old, new, text):
    assert plain[name].count(old) == 1
    plain[name] = plain[name].replace(old, new)
    with pytest.raises(ValueError, match=text):
        local()


@pytest.mark.parametrize("name", ["counts", "metadata"])
def test_empty_files_are_refused(local, plain, name):
    plain[name] = b""
    with pytest.raises(ValueError, match=rf"^{name}\.txt (holds no gene|is no table separated by tabs)"):
        local()


@pytest.mark.parametrize("text", [lines(["A_1", "A_2"]), b"A_1,A_2\nGENE,0,1\n"])
def test_counts_without_genes_are_refused(local, plain, text):
    plain["counts"] = text
    with pytest.raises(ValueError, match=r"^counts\.txt holds no gene: it is cut off, or no table"):
        local()


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"counts": "a.txt"}, ValueError, "counts is given without metadata. Pass both local files, or neither"),
        ({"metadata": "a.txt"}, ValueError, "metadata is given without counts"),
        ({"counts": "a.txt", "metadata": "b"}, FileNotFoundError, rf"counts='a\.txt' is not a file\. .*{COUNTS}"),
        (
            {"sha256": {"count": "0" * 64}},
            ValueError,
            r"sha256 names 'count', which is not one of the files: \['metadata', 'counts'\]",
        ),
        (
            {"sha256": {"counts": "sha256:00"}},
            ValueError,
            r"sha256\['counts'\] must have 64 hexadecimal digits, found",
        ),
    ],
)
def test_hcc_refuses(options, error, text):
    with pytest.raises(error, match=text):
        datasets.hcc(**options)
