"""The pages of docs/: what they list is what there is, and their code runs."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import scanpy as sc

import sc_vaenb
from sc_vaenb.cli import _parser
from sc_vaenb.metrics import METRICS, score
from sc_vaenb.tl import _counts

DOCS = Path(sc_vaenb.__file__).parents[1] / "docs"
ROW = r"^\| `(\w+)` \| (.+) \| (-?[\d.]+|up) to ([\d.]+) \| (higher|lower) \| ([\w, ]*?) ?\| (.+) \|$"
METRIC_ROWS = re.findall(ROW, (DOCS / "metrics.md").read_text(), re.MULTILINE)


def blocks(page, language):
    """The blocks of code of a page, in their order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)


def test_the_glossary_has_the_metrics_of_the_catalogue():
    assert [row[0] for row in METRIC_ROWS] == list(METRICS)
    for name, question, _, _, better, counts_in, source in METRIC_ROWS:
        metric = METRICS[name]
        assert question.endswith((".", "?")), name
        assert (better == "higher") == metric.higher_is_better, name
        assert counts_in == ", ".join(["total"] * metric.in_total + ["scIB"] * metric.in_scib), name
        assert source == "this package" or re.fullmatch(r"\{cite:t\}`\w+`", source), name


def test_the_glossary_has_the_parts_of_the_catalogue():
    text = (DOCS / "metrics.md").read_text()
    parts = dict(zip(("bio", "batch", "overcorrection"), text.split("\n## ")[1:], strict=True))
    for kind, part in parts.items():
        assert re.findall(r"^\| `(\w+)` \|", part, re.MULTILINE) == [n for n, m in METRICS.items() if m.kind == kind]


def test_scores_are_in_the_range_of_the_glossary(simulated):
    log = np.log1p(simulated.X.toarray())
    labels, batch = simulated.obs["cell_type"], simulated.obs["batch"]
    for embedding in (log, np.random.default_rng(0).normal(size=log.shape)):  # the best and the worst
        values = score(embedding[:, :10], labels, batch, reference=log)
        for name, _, lowest, highest, *_ in METRIC_ROWS:
            if not np.isnan(values[name]):
                assert values[name] <= float(highest), name
                assert lowest == "up" or values[name] >= float(lowest), name


@pytest.mark.slow
@pytest.mark.parametrize("code", [code for code in blocks("coming_from.md", "python") if "sc_vaenb" in code])
def test_our_code_for_those_who_come_from_elsewhere_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_counts, "default_steps", lambda *_: 20)
    adata = sc_vaenb.datasets.demo()
    exec(code, {"adata": adata, "sc": sc, "sc_vaenb": sc_vaenb})
    assert np.isfinite(adata.obsm["X_vae"]).all()
    for key in re.findall(r"\w+\[\"\w+\"\]", code):  # what the comments say is there
        assert eval(f"adata.{key}", {"adata": adata}) is not None, key


@pytest.mark.slow
@pytest.mark.parametrize("page", ["mixing", "types", "latent_size", "converged"])
def test_the_code_of_the_questions_runs(page, monkeypatch):
    monkeypatch.setattr(_counts, "default_steps", lambda *_: 20)
    adata = sc_vaenb.datasets.demo()
    sc_vaenb.pp.prepare(adata, batch_key="batch")
    sc_vaenb.tl.cvae(adata, "batch")
    names = {"adata": adata, "sc_vaenb": sc_vaenb}
    for code in (found := blocks(f"questions/{page}.md", "python")):
        exec(code, names)
    assert found


def test_commands_of_the_pages_are_understood():
    commands = [
        line
        for page in sorted(DOCS.glob("**/*.md"))
        for block in blocks(page.relative_to(DOCS), "bash")
        for line in re.findall(r"(?:^|srun )sc-vaenb (.+?)(?: +#.*)?$", block.replace("\\\n", ""), re.MULTILINE)
    ]
    assert len(commands) > 5
    for command in commands:
        _parser(shlex.split(command)).parse_args(shlex.split(command))  # exits if it is not understood
