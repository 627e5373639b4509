"""The session in docs/cli.md is run as it stands there."""

import re
import shlex
from pathlib import Path

import anndata as ad
import pandas as pd
import pytest

from sc_vaenb import cli

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_the_session_of_the_docs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (session,) = re.findall(r"^## A session\n(.*?)^## ", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    commands = "".join(re.findall(r"```bash\n(.*?)```", session, re.DOTALL))
    of_info, of_compare = re.findall(r"```text\n(.*?)```", session, re.DOTALL)
    donors = "".join(f"cell_{i},d{i % 3}\n" for i in range(300))
    Path("donors.csv").write_text("cell,donor\n" + donors)
    Path("sheet.csv").write_text("path,treated\nday0.h5ad,no\nday3.h5ad,yes\n")
    printed = {}
    for line in commands.splitlines():
        command, *typed = shlex.split(line)
        assert command == "sc-vaenb"
        assert cli.main(typed) == 0, capsys.readouterr().err
        printed[typed[0]] = capsys.readouterr().out
    assert list(printed) == ["simulate", "info", "compare", "score", "report", "cvae"]
    assert printed["info"] == of_info
    for text in (of_compare, printed["compare"]):  # the numbers depend on the steps, of which there are fewer here
        assert "Scores (total = 0.6 bio + 0.4 batch, 0 to 1): " in text
    assert pd.read_csv("scores.csv")["embedding"].tolist() == ["X_pca", "X_cvae"]
    assert "<html" in Path("to_send.html").read_text()
    assert Path("compared/report.html").is_file()
    results = {}
    for name in ("day0_day3", "donors", "all_days"):
        (path,) = Path(name).glob("CVAE_NB_*/CVAE_NB.h5ad")
        results[name] = ad.read_h5ad(path)
        assert results[name].obsm["X_cvae"].shape[0] == results[name].n_obs
    assert set(results["day0_day3"].obs["sample"]) == {"day0", "day3"}
    assert results["day0_day3"].obs_names[0] == "cell_0-day0"
    assert results["donors"].uns["cvae"]["params"]["batch_key"] == "donor"
    treated = results["all_days"].obs.groupby("sample", observed=True)["treated"].unique().map(list).to_dict()
    assert treated == {"day0": ["no"], "day3": ["yes"]}
