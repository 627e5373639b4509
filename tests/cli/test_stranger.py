"""A results folder may come from anyone: nothing in it makes a command touch what it did not make."""

import json
import shutil

import anndata as ad
import numpy as np
import pytest

from sc_vaenb import cli
from sc_vaenb.cli import _stranger
from sc_vaenb.tl import _counts, _graph

from .conftest import plane

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def _made(_file, tmp_path_factory):
    """A finished comparison, without UMAPs."""
    out = tmp_path_factory.mktemp("made") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_counts, "default_steps", lambda *_: 20)
        patch.setattr(_graph.sc.tl, "umap", plane)
        assert cli.main(["compare", str(_file), "--out", str(out), "--quiet"]) == 0
    return out


@pytest.fixture
def out(_made, tmp_path):
    """A copy of it, beside a folder that is none of its business."""
    shutil.copytree(_made, tmp_path / "out")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("mine")
    return tmp_path / "out"


def changed(out, **changes):
    run = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps(run | changes))


def folders(out, **changes):
    changed(out, folders=json.loads((out / "run.json").read_text())["folders"] | changes)


def deep(out):
    (out / "run.json").write_text("[" * 100_000)


def huge(out):
    (out / "run.json").write_text('"' + "a" * 2_000_000 + '"')


def cut(out):
    text = (out / "run.json").read_text()
    (out / "run.json").write_text(text[: len(text) // 2])


TAMPERED = {
    "list": (lambda out: (out / "run.json").write_text("[]"), "it should hold command, input, versions, columns"),
    "number": (lambda out: (out / "run.json").write_text("3"), "it should hold command"),
    "nothing": (lambda out: (out / "run.json").write_text("{}"), "it should hold command"),
    "no JSON": (lambda out: (out / "run.json").write_bytes(b"\xff\xfe"), "codec can't decode"),
    "cut": (cut, "line "),
    "deep": (deep, "it is nested too deeply"),
    "huge": (huge, "it has more than 1,000,000 bytes"),
    "absolute": (lambda out: folders(out, vae=str(out.parent / "precious")), "which is no folder of a method"),
    "above": (lambda out: folders(out, vae="../precious"), "which is no folder of a method"),
    "itself": (lambda out: folders(out, vae="."), "which is no folder of a method"),
    "empty": (lambda out: folders(out, vae=""), "which is no folder of a method"),
    "trailing": (lambda out: folders(out, vae="VAE_NB_20250101_000000/../../precious"), "which is no folder"),
    "newline": (lambda out: folders(out, vae="VAE_NB_20250101_000000\n"), "which is no folder of a method"),
    "number as folder": (lambda out: folders(out, vae=3), "folders holds a value that is no text"),
    "key": (lambda out: folders(out, **{"../x": "VAE_NB_20250101_000000"}), "which is no folder of a method"),
    "twice": (lambda out: folders(out, vae="A_20250101_000000", cvae="A_20250101_000000"), "names a folder twice"),
    "list as folders": (lambda out: changed(out, folders=["PCA"]), "folders is no table"),
    "columns": (lambda out: changed(out, columns={"../../x": "batch", "celltype": None}), "sample and celltype"),
    "columns in columns": (lambda out: changed(out, columns={"sample": [["a"]], "celltype": None}), "that is no text"),
    "command": (lambda out: changed(out, command=["rm"]), "command is no text"),
    "more": (lambda out: changed(out, more="x"), "and nothing else"),
}  # fmt: skip


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("case", TAMPERED)
def test_a_tampered_run_is_refused_and_nothing_is_touched(out, file, refuses, case):
    tamper, text = TAMPERED[case]
    tamper(out)
    before = contents(out.parent)
    for typed in (["compare", "--save-only"], ["compare", file, "--force"]):
        line = refuses(*typed, "--out", out, text=text)
        assert "run.json is not what sc-vaenb compare wrote (" in line
        assert line.endswith("). Remove this file and compare again, or pass another --out.")
        assert contents(out.parent) == before


@pytest.mark.usefixtures("quick")
def test_force_removes_nothing_but_what_compare_made(out, file, capsys):
    run = json.loads((out / "run.json").read_text())
    link, mine, other = "VAE_NB_20250101_000000", "CVAE_NB_20250101_000000", "PCA_20250101_000000"
    (out / link).symlink_to(out.parent / "precious")
    (out / mine).mkdir()
    (out / mine / "CVAE_NB.h5ad").write_text("of a cvae command")
    shutil.copytree(out / run["folders"]["vae"], out / other)  # its params.json says another method
    named = {"vae": link, "cvae": mine, "pca": other, "pca_harmony": run["folders"]["pca_harmony"]}
    changed(out, folders=named)
    assert cli.main(["compare", str(file), "--out", str(out), "--force"]) == 0
    said = capsys.readouterr().out
    for name in (link, mine, other):
        assert (out / name).exists()
        assert f"{name} stays: it holds other files than those of the comparison that was replaced" in said
    assert not (out / run["folders"]["pca_harmony"]).exists()  # made by the comparison that was replaced
    assert (out.parent / "precious" / "thesis.txt").read_text() == "mine"
    assert len(set(json.loads((out / "run.json").read_text())["folders"].values())) == 4


def without(name):
    def tamper(adata):
        del adata.uns["compare"][name]

    return tamper


def uns_is_text(adata):
    adata.uns["compare"] = "comparison"


def no_seconds(adata):
    adata.uns["compare"]["methods"]["seconds"] = "long"


def embedding_gone(adata):
    del adata.obsm["X_vae"]


@pytest.mark.parametrize(
    ("tamper", "text"),
    [
        (uns_is_text, "uns['compare'] is not there"),
        (without("verdict"), "uns['compare'] holds no verdict or no params"),
        (without("methods"), "uns['compare'] holds no table of methods"),
        (without("scores"), "uns['compare'] holds no scores"),
        (no_seconds, "the table of methods in uns['compare'] is not right"),
        (embedding_gone, "'X_vae' is not there"),
    ],
)
def test_a_tampered_comparison_is_refused(out, refuses, tamper, text):
    adata = ad.read_h5ad(out / "comparison.h5ad")
    tamper(adata)
    adata.write_h5ad(out / "comparison.h5ad")
    before = contents(out.parent)
    line = refuses("compare", "--save-only", "--out", out, text=text)
    assert line.endswith("). Run sc-vaenb compare with --force.")
    assert contents(out.parent) == before


@pytest.mark.usefixtures("quick")
def test_what_a_stranger_wrote_reaches_no_path_no_terminal_and_no_page(out, capsys):
    adata = ad.read_h5ad(out / "comparison.h5ad")
    adata.uns["vae"]["params"]["likelihood"] = "../../precious"
    adata.uns["compare"]["verdict"] = "\x1b]0;owned\x07best <script>alert(1)</script>"
    adata.write_h5ad(out / "comparison.h5ad")
    names = {path.name for path in out.iterdir()}
    assert cli.main(["compare", "--save-only", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert "\x07" not in said
    assert "<script>alert" not in (out / "report.html").read_text()
    assert {path.name for path in out.iterdir()} == names
    assert contents(out.parent / "precious") == {_stranger.Path("thesis.txt"): b"mine"}


def test_a_method_folder_that_is_a_link_is_not_written_to(out, refuses):
    folder = json.loads((out / "run.json").read_text())["folders"]["vae"]
    shutil.rmtree(out / folder)
    (out / folder).symlink_to(out.parent / "precious")
    refuses("compare", "--save-only", "--out", out, text="is a link, not a folder that sc-vaenb compare made")
    assert contents(out.parent / "precious") == {_stranger.Path("thesis.txt"): b"mine"}


@pytest.mark.usefixtures("quick")
def test_an_earlier_comparison_that_cannot_be_taken_over_is_computed_anew(out, file, log):
    (out / "comparison.h5ad").write_bytes(b"no HDF5")
    assert cli.main(["compare", str(file), "--out", str(out), "--force"]) == 0
    assert "comparison.h5ad holds of an earlier comparison is left out of the results" in log.getvalue()
    assert np.isfinite(ad.read_h5ad(out / "comparison.h5ad").obsm["X_vae"]).all()


def test_a_second_comparison_into_the_folder_waits(out, file, refuses, another_run):
    before = contents(out)
    with another_run(out):
        text = "another sc-vaenb compare is writing to"
        refuses("compare", "--save-only", "--out", out, text=text)
        refuses("compare", file, "--out", out, "--force", text=text)
    assert contents(out) == before
