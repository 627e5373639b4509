"""Several inputs, metadata of cells and sheets of samples; and what is refused before the libraries load."""

import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from sc_vaenb import cli
from sc_vaenb.cli._inputs import Input, read_samples, sample_names
from sc_vaenb.cli._join import join
from sc_vaenb.cli._tables import add_metadata

FIT = ["--hidden", "8", "--n-latent", "4", "--n-steps", "10"]


@pytest.fixture
def bare(adata):
    """Counts alone, as in a file of 10x."""
    return ad.AnnData(adata.X, obs=adata.obs[[]], var=adata.var[[]])


@pytest.fixture
def metadata(adata, tmp_path):
    """A table of the cells, in another order."""
    path = tmp_path / "metadata.tsv"
    adata.obs[["batch", "cell_type"]].iloc[::-1].to_csv(path, sep="\t")
    return path


def test_metadata_is_joined_by_name(adata, bare, metadata):
    add_metadata(bare, metadata)
    for name in ("batch", "cell_type"):
        assert bare.obs[name].tolist() == adata.obs[name].tolist()


def twice(table):
    return pd.concat([table, table.iloc[:1]])


def of_others(table):
    return table.set_axis([f"x{i}" for i in range(len(table))])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda table: table.iloc[3:], r"lacks 3 of 300 cells \(first: 'cell_\d+'\)\. Give each cell a row"),
        (twice, r"names cells twice \(first: 'cell_299'\)"),
        (
            of_others,
            r"\(first names in the table: 'x0', 'x1', 'x2', \.\.\.; in the input: 'cell_0', 'cell_1', 'cell_2', \.\.\.",
        ),
        (lambda table: table.assign(known=1), "has the column 'known', which obs has too. Rename or remove it"),
    ],
)
def test_metadata_of_other_cells_are_refused(bare, metadata, unchanged, change, words):
    bare.obs["known"] = 0
    change(pd.read_csv(metadata, sep="\t", index_col=0)).to_csv(metadata, sep="\t")
    with unchanged(bare), pytest.raises(ValueError, match=words):
        add_metadata(bare, metadata)


def test_names_of_cells_that_look_like_numbers_are_text(bare, tmp_path):
    bare = bare[:3].copy()
    bare.obs_names = ["001", "1", "1e3"]
    (tmp_path / "a.csv").write_text("cell,donor\n1e3,c\n001,a\n1,b\n")
    add_metadata(bare, tmp_path / "a.csv")
    assert bare.obs["donor"].tolist() == ["a", "b", "c"]


def test_what_is_no_table_is_refused(bare, tmp_path):
    (tmp_path / "a.xlsx").touch()
    (tmp_path / "a.csv").touch()
    with pytest.raises(ValueError, match=r"a\.xlsx does not end in \.csv or \.tsv"):
        add_metadata(bare, tmp_path / "a.xlsx")
    with pytest.raises(ValueError, match=r"a\.csv cannot be read as a table: No columns"):
        add_metadata(bare, tmp_path / "a.csv")


def test_inputs_are_joined_at_their_common_genes(bare):
    first, second = bare[:100].copy(), bare[100:, ::-1][:, 10:].copy()
    second.obs_names = first.obs_names.append(first.obs_names + "b")
    first.obs["only"] = 1
    joined, messages = join([Input(Path("a.h5"), "a"), Input(Path("b.h5"), "b")], [first, second])
    assert joined.obs["sample"].tolist() == ["a"] * 100 + ["b"] * 200
    assert joined.obs_names[[0, 100]].tolist() == ["cell_0-a", "cell_0-b"]
    assert joined.var_names.tolist() == bare.var_names[:90].tolist()
    np.testing.assert_array_equal(joined.X.toarray(), bare.X.toarray()[:, :90])
    assert messages == [
        "obs['sample']: a, b",
        "90 genes are in all inputs; 10 others are dropped",
        "columns of obs that not all inputs have are dropped: only",
        "inputs share names of cells, which get the sample at their end ('cell_0-a')",
    ]


def test_names_of_cells_that_differ_stay_and_so_does_a_sample_of_the_inputs(bare):
    bare.obs["sample"] = "mine"
    joined, messages = join([Input(Path("a"), "a"), Input(Path("b"), "b")], [bare[:9].copy(), bare[9:].copy()])
    assert joined.obs_names.tolist() == bare.obs_names.tolist()
    assert joined.obs["sample"].tolist() == ["mine"] * 300
    assert messages[0] == "obs['sample']: as in the inputs, which all have this column"


def test_inputs_that_do_not_fit_are_refused(bare):
    inputs, other = [Input(Path("a.h5"), "a"), Input(Path("b.h5"), "b")], bare.copy()
    other.var_names = [*(f"ENSG{i}" for i in range(60)), *bare.var_names[60:]]
    with pytest.raises(
        ValueError, match=r"have 40 genes in common, and the smallest has 100 \(a\.h5: 'gene_0', .*ENSG0"
    ):
        join(inputs, [bare.copy(), other.copy()])
    bare.obs["sample"] = "mine"
    with pytest.raises(ValueError, match=r"1 of 2 inputs have obs\['sample'\]\. Give this column to all, or to none"):
        join(inputs, [bare, other])


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["x/a.h5", "x/b.h5ad"], ["a", "b"]),
        (["s1/outs/matrix.h5", "s2/outs/matrix.h5"], ["s1", "s2"]),
    ],
)
def test_samples_are_named_by_what_differs(paths, names):
    assert sample_names([Path(path) for path in paths]) == names


def test_one_input_given_twice_is_refused():
    with pytest.raises(ValueError, match=r"no name tells the inputs apart \(a\.h5, a\.h5\)"):
        sample_names([Path("a.h5"), Path("a.h5")])


def test_a_sheet_names_files_and_columns(tmp_path):
    sheet = tmp_path / "sheet.csv"
    sheet.write_text("path,donor,day\na.h5,d1,3\nb.h5,d2,7\n")
    assert read_samples(sheet) == [
        Input(tmp_path / "a.h5", "a", {"donor": "d1", "day": 3}),
        Input(tmp_path / "b.h5", "b", {"donor": "d2", "day": 7}),
    ]
    sheet.write_text("path,sample\na.h5,one\nb.h5,one\n")
    with pytest.raises(ValueError, match="the column 'sample' names two files alike"):
        read_samples(sheet)
    sheet.write_text("file\na.h5\n")
    with pytest.raises(ValueError, match=r"needs a column 'path' with a file in each row\. Its columns are \['file'\]"):
        read_samples(sheet)


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_sheet_and_metadata_come_to_the_results(bare, metadata, tmp_path, capsys):
    bare[:150].copy().write_h5ad(tmp_path / "a.h5ad")
    bare[150:].copy().write_h5ad(tmp_path / "b.h5ad")
    (tmp_path / "sheet.csv").write_text("path,donor,day\na.h5ad,d1,3\nb.h5ad,d2,7\n")
    typed = ["cvae", "--samples", tmp_path / "sheet.csv", "--obs", metadata, "--batch-key", "donor", "--out"]
    assert cli.main(list(map(str, [*typed, tmp_path / "out", *FIT]))) == 0
    (folder,) = (tmp_path / "out").iterdir()
    obs = ad.read_h5ad(folder / "CVAE_NB.h5ad").obs
    assert obs["sample"].tolist() == ["a"] * 150 + ["b"] * 150
    assert obs["day"].tolist() == [3] * 150 + [7] * 150
    assert {path.name for path in folder.glob("*umap*")} == {
        f"CVAE_NB_umap_{column}.svg" for column in ("donor", "cell_type", "leiden_cvae")
    }
    out = capsys.readouterr().out
    assert "2 inputs: 300 cells x 100 genes" in out
    assert "metadata.tsv: batch, cell_type in obs" in out


@pytest.mark.parametrize(
    ("typed", "text"),
    [
        (["cvae", "FILE", "--obs", "none.csv"], "none.csv does not exist, or is a folder. Give a table"),
        (["cvae", "FILE", "--samples", "FILE"], "there are two inputs: "),
        (["cvae", "FILE", "none.h5"], "none.h5 does not exist."),
        (["cvae", "FILE", "b.h5ad", "--counts", "FILE"], "--counts goes with one input, and there are 2."),
        (["vae", "FILE", "b.h5ad", "--backed"], "--backed goes with one input, and there are 2."),
        (["compare", "FILE", "--backed"], "compare computes PCA, which needs all counts in memory."),
    ],
)
def test_inputs_that_cannot_be_are_refused(file, tmp_path, refuses, typed, text):
    refuses(*(file if word == "FILE" else word for word in typed), "--out", tmp_path / "out", text=text)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("typed", "code", "text"),
    [
        ("cvae none.h5ad", 1, "none.h5ad does not exist."),
        ("cvae FILE --beta -1", 1, "beta=-1.0 is not possible."),
        ("cvae FILE --prior none", 2, "invalid choice: 'none'"),
        ("compare --help", 0, "--n-seeds INT"),
    ],
)
def test_what_is_wrong_is_told_before_the_libraries_load(file, typed, code, text):
    program = (
        "import sys; sys.argv[0] = 'sc-vaenb'\n"
        "from sc_vaenb.cli import main\n"
        "try:\n    code = main()\nexcept SystemExit as end:\n    code = end.code\n"
        "print(sorted({'torch', 'scanpy', 'anndata'} & set(sys.modules)))\n"
        "raise SystemExit(code)"
    )
    words = [str(file) if word == "FILE" else word for word in typed.split()]
    answer = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True)
    assert answer.returncode == code
    assert text in answer.stdout + answer.stderr
    assert answer.stdout.endswith("[]\n")
