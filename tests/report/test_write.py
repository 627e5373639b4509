"""The report is whole, harmless, and never half-written."""

import re
import shutil
import subprocess
from html import escape, unescape
from importlib.metadata import version
from pathlib import Path

import anndata
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import sc_vaenb

from .conftest import BATCHES, ERROR, TYPES, quick

pytestmark = pytest.mark.slow

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
TITLE = "Blood & <em>marrow</em> " + 90 * "x"


@pytest.fixture(scope="module")
def path(hostile, tmp_path_factory):
    """The page, written once with all plots."""
    path = tmp_path_factory.mktemp("report") / "page.html"
    assert sc_vaenb.report.write(hostile, path, title=TITLE) == [path, path.with_suffix(".csv")]
    assert {file.name for file in path.parent.iterdir()} == {"page.html", "page.csv"}
    assert not plt.get_fignums()
    return path


@pytest.fixture
def page(path, read):
    return read(path)


@pytest.mark.slow
def test_the_page_has_its_parts_in_order(page):
    parts = ["design", "data", "scores", "umaps", "fits", "failed", "again", "on"]
    assert [tag["id"] for tag in page.all("h2")] == parts
    assert page.texts("title") == page.texts("h1") == [TITLE]
    (summary,) = page.texts("p", **{"class": "lead"})
    assert summary.startswith(
        "200 cells, 80 genes, 2 batches, 3 cell types; 4 methods compared, 1 failed. To go on with"
    )


def test_the_page_says_what_the_comparison_found(page, hostile):
    record = hostile.uns["compare"]
    assert page.texts("ul", **{"class": "verdict"}) == [" ".join(record["verdict"].split())]
    findings, sizes, scores = page.tables()
    assert [row[0] for row in findings] == record["findings"]["question"].tolist()
    assert [row[2] for row in findings] == record["findings"]["answer"].tolist()
    expected = pd.crosstab(hostile.obs["cell_type"], hostile.obs["batch"])
    for row, name in zip(sizes, TYPES, strict=False):
        assert row == [name, *map(str, expected.loc[name]), str(expected.loc[name].sum())]
    methods = page.texts("th", scope="col")[-5:]
    assert methods[0] == "Score"
    assert sorted(methods[1:]) == sorted(record["methods"]["method"].unique())
    total = next(row for row in scores if row[0].startswith("total"))
    values = record["scores"]["values"]["total"]
    for method, text in zip(methods[1:], total[1:], strict=True):
        of_seeds = values[record["methods"].set_index("embedding")["method"] == method]
        numbers = [float(number) for number in re.findall(r"\d\.\d+", text)]
        np.testing.assert_allclose(numbers, [of_seeds.mean(), of_seeds.std()][: len(of_seeds)], atol=6e-4)
    messages = " ".join(page.texts("p"))
    for name in ("vae", "cvae", "cvae_seed1", "<i>wide"):
        assert " ".join(hostile.uns[name]["verdict"]["message"].split()) in messages
    facts = dict(zip(page.texts("dt"), page.texts("dd"), strict=True))
    assert facts["pca_harmony"] == f"RuntimeError: {ERROR}"
    assert facts["Seeds"] == "0, 1"
    assert f"sc_vaenb {sc_vaenb.__version__}" in facts["Versions"]
    assert f"anndata {version('anndata')}" in facts["Versions"]
    assert facts["Genes chosen"] == "80, all that have counts"


def test_the_plots_are_there(page):
    captions = page.texts("figcaption")
    assert len(page.all("img")) == len(captions) == 4 + 6  # scores, tradeoff, confusion, UMAPs, and a history per fit
    umaps = next(tag for tag in page.all("img") if tag["alt"].startswith("UMAPs of"))
    assert umaps["src"].startswith("data:image/png;base64,")
    assert captions[4:6] == ["History of the fit in uns['vae'].", "History of the fit in uns['vae_seed1']."]


def test_what_comes_from_the_data_is_text(page, path):
    raw = path.read_text(encoding="utf-8")
    assert "<script" not in raw.lower()
    assert escape(BATCHES[0]) in raw
    structure = "html head meta title style body header main footer nav section h1 h2 h3 p a ul li dl div dt dd table "
    structure += "caption thead tbody tr th td span b code pre figure figcaption img details summary"
    assert {tag["tag"] for tag in page.tags} <= set(structure.split())
    assert not [name for tag in page.tags for name in tag if name.startswith("on")]
    everything = page.all("html")[0]["text"]
    for name in (*BATCHES, *TYPES, "<i>wide", ERROR, TITLE):
        assert name in everything


def test_nothing_is_loaded_and_no_script_could_run(page, path):
    assert all(tag["src"].startswith("data:image/") for tag in page.tags if "src" in tag)
    targets = [tag["href"] for tag in page.tags if "href" in tag]
    ids = [tag["id"] for tag in page.tags if "id" in tag]
    assert len(ids) == len(set(ids))
    assert all(to[1:] in ids if to.startswith("#") else to.startswith("https://doi.org/") for to in targets)
    style = page.texts("style")[0]
    assert not re.search(r"url\(|@import|expression", style)
    policy = next(tag["content"] for tag in page.all("meta") if tag.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none';")
    assert not re.search(r"(src|href|action|data)=[\"']?(//|http:|file:|javascript:)", path.read_text())


def test_the_page_can_be_read_aloud(page):
    assert page.all("html")[0]["lang"] == "en"
    assert all(tag["alt"] for tag in page.all("img"))
    assert all(tag.get("scope") in {"row", "col", "rowgroup"} for tag in page.all("th"))
    assert len(page.texts("caption")) == len(page.all("table")) == 3
    assert all(tag["aria-label"] for tag in page.tags if tag.get("role") == "region")


def test_the_scores_lie_beside_it(path, hostile):
    values = hostile.uns["compare"]["scores"]["values"].drop(columns="seconds")
    found = pd.read_csv(path.with_suffix(".csv"), index_col="embedding", dtype=dict.fromkeys(values, str))
    pd.testing.assert_frame_equal(found[values.columns].astype(float), values)


def test_the_code_of_the_page_is_whole(page):
    (code,) = (tag["text"] for tag in page.all("code", id="way-on"))
    compile(code, "way on", "exec")
    assert "read_h5ad('adata.h5ad')" in code


@pytest.mark.usefixtures("undrawn")
def test_the_anndata_stays_as_it_is(compared, unchanged, tmp_path, log):
    with unchanged(compared):
        sc_vaenb.report.write(compared, tmp_path / "a.html")
    assert "writing a report" in log.getvalue()
    assert str(tmp_path / "a.html") in log.getvalue()


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_a_file_of_a_comparison_gives_the_same_report(compared, tmp_path, read):
    compared.write_h5ad(tmp_path / "kept.h5ad")
    backed = anndata.read_h5ad(tmp_path / "kept.h5ad", backed="r")
    sc_vaenb.report.write(compared, tmp_path / "a.html", data="elsewhere.h5ad")
    sc_vaenb.report.write(backed, tmp_path / "b.html")
    backed.file.close()
    first, second = read(tmp_path / "a.html"), read(tmp_path / "b.html")
    assert first.tables() == second.tables()
    assert "elsewhere.h5ad" in first.all("code", id="way-on")[0]["text"]
    assert repr(str(tmp_path / "kept.h5ad")) in second.all("code", id="way-on")[0]["text"]


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_without_labels(simulated, tmp_path, read, monkeypatch):
    adata = simulated.copy()
    quick(monkeypatch)
    sc_vaenb.tl.compare(adata, "batch", device="cpu", key_added="plain")
    sc_vaenb.report.write(adata, tmp_path / "a.html", "plain")
    page = read(tmp_path / "a.html")
    facts = dict(zip(page.texts("dt"), page.texts("dd"), strict=True))
    assert facts["Cell types"] == "none given: biology could not be scored"
    assert [row[1] for row in page.tables()[1]] == ["150", "150"]
    assert not [row for row in page.tables()[2] if row[0].startswith("total")]
    notes = " ".join(page.texts("p", **{"class": "note"}))
    assert "not drawn: scores" in notes
    assert "tradeoff" not in notes
    assert "confusion" not in notes
    assert "key_added='plain'" in " ".join(page.texts("code"))
    assert "there was one seed" in " ".join(page.texts("p"))


@pytest.mark.usefixtures("undrawn")
def test_nothing_is_replaced_unless_asked(compared, tmp_path, refused):
    for name in ("a.html", "a.csv"):
        (tmp_path / name).write_text("mine")
        with refused(compared, FileExistsError, f"{name}' is already there. Pass force=True"):
            sc_vaenb.report.write(compared, tmp_path / "a.html")
        assert [file.read_text() for file in tmp_path.iterdir()] == ["mine"]
        (tmp_path / name).unlink()
    (tmp_path / "a.html").write_text("mine")
    sc_vaenb.report.write(compared, str(tmp_path / "a.html"), force=True)
    assert "<!doctype html>" in (tmp_path / "a.html").read_text()
    assert (tmp_path / "a.csv").read_text().startswith("embedding,method,seed,seconds,")


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("failing", ["a.csv", "a.html"])
def test_a_write_that_fails_leaves_what_was_there(compared, tmp_path, monkeypatch, failing):
    for name in ("a.html", "a.csv"):
        (tmp_path / name).write_text("earlier")
    original = Path.write_text

    def full(self, text, **kwargs):
        original(self, text[:10], **kwargs)
        if failing in self.name:
            raise OSError("no space left")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="no space left"):
        sc_vaenb.report.write(compared, tmp_path / "a.html", force=True)
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"a.html": "earlier", "a.csv": "earlier"}


REFUSALS = [
    ("a.txt", "compare", ValueError, r"a.txt' does not end in .html"),
    ("a.csv", "compare", ValueError, r"a.csv' does not end in .html"),
    ("no/a.html", "compare", FileNotFoundError, "there is no folder '.*no' to write 'a.html' into"),
    ("folder.html", "compare", IsADirectoryError, r"folder.html' is a folder"),
    ("a.html", "no", KeyError, r"uns\['no'\] holds no comparison; uns has \[.*'compare'"),
    ("a.html", "prepare", KeyError, r"uns\['prepare'\] holds no comparison"),
]


@pytest.mark.parametrize(("name", "key", "error", "text"), REFUSALS, ids=lambda value: str(value)[:12])
def test_what_is_not_possible_is_refused(compared, tmp_path, refused, name, key, error, text):
    (tmp_path / "folder.html").mkdir()
    with refused(compared, error, text):
        sc_vaenb.report.write(compared, tmp_path / name, key)
    assert [file.name for file in tmp_path.rglob("*")] == ["folder.html"]


def test_what_is_gone_is_named(compared, tmp_path, refused):
    del compared.obsm["X_umap_vae"], compared.obsm["X_cvae"], compared.obs["leiden_pca"]
    with refused(
        compared, KeyError, r"obsm\['X_umap_vae'\], obsm\['X_cvae'\], obs\['leiden_pca'\], which adata no longer has"
    ):
        sc_vaenb.report.write(compared, tmp_path / "a.html")
    assert not list(tmp_path.iterdir())


def test_other_cells_than_those_compared_are_refused(compared, tmp_path, refused):
    part = compared[:150].copy()
    with refused(part, ValueError, "is of 200 cells with a label, adata has 150. Pass the AnnData that was compared"):
        sc_vaenb.report.write(part, tmp_path / "a.html")


def test_an_interrupted_comparison_is_refused(compared, tmp_path, refused):
    compared.uns["compare"] = {"made": compared.uns["compare"]["made"]}
    with refused(compared, KeyError, "was interrupted before its end. Run the same sc_vaenb.tl.compare again"):
        sc_vaenb.report.write(compared, tmp_path / "a.html")


def test_what_is_no_anndata_is_refused(tmp_path):
    with pytest.raises(TypeError, match="adata is a str, not an AnnData"):
        sc_vaenb.report.write("a.h5ad", tmp_path / "a.html")


def dom(url, tmp_path):
    """The page as the browser understood it."""
    options = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    options += "--disable-component-update --disable-sync --virtual-time-budget=10000 --dump-dom"
    command = [CHROMIUM, *options.split(), f"--user-data-dir={tmp_path / 'profile'}", url]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium to look at the page with")
def test_a_browser_shows_it_without_sideways_scrolling(path, tmp_path):
    frames = "".join(
        f'<iframe srcdoc="{escape(path.read_text(encoding="utf-8"))}" style="width:{width}px;height:600px"></iframe>'
        for width in (390, 1280)
    )
    measure = """<script>onload = () => { for (const frame of document.querySelectorAll("iframe")) {
        const page = frame.contentDocument, root = page.documentElement;
        page.querySelectorAll("details").forEach(part => part.open = true);
        const images = [...page.images].every(image => image.naturalWidth > 0);
        document.title += [root.scrollWidth <= root.clientWidth, root.clientWidth, page.images.length, images,
                           page.title].join(" ") + ";"; } }</script>"""
    outer = tmp_path / "outer.html"
    outer.write_text(f"<!doctype html><meta charset='utf-8'><title></title>{frames}{measure}", encoding="utf-8")
    title = unescape(re.search(r"<title>(.*?)</title>", dom(outer.as_uri(), tmp_path))[1])
    found = [part.split(" ", 4) for part in title.split(";")[:-1]]
    assert [row[0] for row in found] == ["true", "true"], title
    assert 370 <= int(found[0][1]) <= 390 < 1200 < int(found[1][1])  # less a scroll bar
    assert [row[2:] for row in found] == [["10", "true", TITLE]] * 2
