"""The session in docs/cli.md is run as it stands there."""

import re
import shlex
from pathlib import Path

import anndata as ad
import pytest

from sc_vaenb import cli

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_the_session_of_the_docs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (session,) = re.findall(r"^## A session\n.*?```bash\n(.*?)```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    donors = "".join(f"cell_{i},d{i % 3}\n" for i in range(300))
    Path("donors.csv").write_text("cell,donor\n" + donors)
    Path("sheet.csv").write_text("path,treated\nday0.h5ad,no\nday3.h5ad,yes\n")
    lines = session.splitlines()
    assert len(lines) == 6
    for line in lines:
        command, *typed = shlex.split(line)
        assert command == "sc-vaenb"
        assert cli.main(typed) == 0, capsys.readouterr().err
    assert "day0.h5ad: 300 cells x 200 genes" in capsys.readouterr().out
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
