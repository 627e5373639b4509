"""The command line: what it prints, writes and refuses."""

import re
import subprocess
import sys

import anndata as ad
import numpy as np
import pytest

import sc_vaenb
from sc_vaenb import cli
from sc_vaenb.tl import _counts


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(_counts, "default_steps", lambda *_: 60)


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_demo_prints_a_table_and_writes_figures_and_data(tmp_path, capsys):
    assert cli.main(["demo", "--out", str(tmp_path / "new" / "demo")]) == 0
    out = capsys.readouterr().out
    shares = {name: float(share) for name, share in re.findall(r"^(PCA|VAE|CVAE) .* (0\.\d\d) \(mixed", out, re.M)}
    assert shares.keys() == {"PCA", "VAE", "CVAE"}
    assert shares["CVAE"] < shares["PCA"] - 0.1  # the known batch effect is smaller, even after few steps
    names = {"demo.h5ad", "history_vae.png", "history_cvae.png", "umap.png"}
    assert {path.name for path in (tmp_path / "new" / "demo").iterdir()} == names
    assert all(name in out for name in names)
    adata = ad.read_h5ad(tmp_path / "new" / "demo" / "demo.h5ad")
    again = sc_vaenb.tl.embed(adata, "cvae", copy=True).obsm["X_cvae"]
    np.testing.assert_allclose(again, adata.obsm["X_cvae"], atol=1e-5)
    assert {"leiden_pca", "leiden_vae", "leiden_cvae"} <= set(adata.obs)
    assert "X_umap_cvae" in adata.obsm


def test_help_of_every_command_comes_with_an_example(capsys):
    for name in cli.COMMANDS:
        with pytest.raises(SystemExit, match="0"):
            cli.main([name, "--help"])
        text = capsys.readouterr().out
        assert f"sc-vaenb {name}" in text.partition("example")[2]
        assert "``" not in text
        assert ":func:" not in text


@pytest.mark.parametrize(
    ("typed", "text"),
    [
        ("", "sc-vaenb: the following arguments are required: COMMAND\nSee sc-vaenb --help.\n"),
        ("nothing", "invalid choice: 'nothing'"),
        ("cvae x --likelihood normal", "sc-vaenb cvae: argument --likelihood/--recon: invalid choice: 'normal'"),
        (
            "cvae x --hidden a",
            "argument --hidden: invalid list of whole numbers value: 'a'\nSee sc-vaenb cvae --help.\n",
        ),
        ("cvae x --batch-kye=s", "sc-vaenb cvae: not understood: --batch-kye=s (did you mean --batch-key?)\n"),
        ("cvae x --n-late 5", "sc-vaenb cvae: not understood: --n-late (did you mean --n-latent?), 5\n"),
        (
            "--counts b info a",
            "sc-vaenb info: --adata and --counts go with vae, cvae and compare. Give FILE instead.\n",
        ),
    ],
)
def test_what_is_not_understood_ends_with_2_and_says_what_was_meant(capsys, typed, text):
    with pytest.raises(SystemExit, match="2"):
        cli.main(typed.split())
    error = capsys.readouterr().err
    assert text in error
    assert error.count("\n") == 2


def test_files_may_stand_before_and_after_options():
    options = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "_load", lambda parsed: options.append(parsed))
        patch.setattr(cli, "_set_rank", interrupt)
        for typed in ("a b --batch-key s c", "--batch-key s a b c", "a --batch-key s b c"):
            patch.setattr(cli, "check_compare", lambda _: None)
            assert cli.main(["compare", *typed.split()]) == 130
    assert [[str(path) for path in parsed.files] for parsed in options] == [["a", "b", "c"]] * 3


def interrupt(*_):
    raise KeyboardInterrupt


def test_nothing_is_replaced_unasked(tmp_path, capsys):
    (tmp_path / "demo.h5ad").write_text("mine")
    assert cli.main(["demo", "--out", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "already there. Pass --force to replace it, or another --out." in error
    assert (tmp_path / "demo.h5ad").read_text() == "mine"


def test_a_file_is_no_folder(tmp_path, capsys):
    (tmp_path / "taken").touch()
    assert cli.main(["demo", "--out", str(tmp_path / "taken")]) == 1
    assert "taken is a file, not a folder. Pass another --out." in capsys.readouterr().err


def test_debug_shows_the_traceback(tmp_path):
    (tmp_path / "taken").touch()
    with pytest.raises(FileExistsError):
        cli.main(["--debug", "demo", "--out", str(tmp_path / "taken")])


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (KeyError("no such layer"), 1, "sc-vaenb: no such layer\n"),
        (KeyboardInterrupt(), 130, "sc-vaenb: interrupted\n"),
    ],
)
def test_errors_are_one_line_with_an_exit_code(monkeypatch, tmp_path, capsys, error, code, text):
    def broken(**_):
        raise error

    monkeypatch.setattr(sc_vaenb.datasets, "demo", broken)
    assert cli.main(["demo", "--out", str(tmp_path)]) == code
    assert capsys.readouterr().err == text


@pytest.mark.slow
def test_python_m_answers():
    answer = subprocess.run([sys.executable, "-m", "sc_vaenb", "--version"], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == sc_vaenb.__version__
