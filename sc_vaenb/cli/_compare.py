"""`sc-vaenb compare`: a comparison of methods, with its figures, a folder per method, and a report."""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._fit import BATCH_NAMES, LABEL_NAMES, about, check_columns, prepare, read_input, say
from ._options import given
from ._read import choose_key, read
from ._results import write_results
from ._write import check_room, make_folder, save_figure, timestamp, write_adata, write_json

if TYPE_CHECKING:
    from anndata import AnnData

DATA, RUN, REPORT = "comparison.h5ad", "run.json", "report.html"


def run_compare(options: argparse.Namespace) -> None:
    """Read, prepare, compare, draw and write; or with --save-only draw again what is there."""
    begun = time.perf_counter()
    before: dict[str, Any] = {}
    if options.save_only:
        adata, run = _stored(options.out)
    else:
        before = _run_of(options.out)
        adata, run = _computed(options)
    say(options, "drawing")
    _draw(adata, options.out, run)
    for folder in set(before.get("folders", {}).values()) - set(run["folders"].values()):
        shutil.rmtree(options.out / folder, ignore_errors=True)  # of the comparison that was replaced
    print(adata.uns["compare"]["verdict"])
    print(f"\nwritten to {options.out} in {time.perf_counter() - begun:.0f} s:")
    for name in (REPORT, "report.csv", DATA, "scores.svg", "umaps.svg", *(f"{f}/" for f in run["folders"].values())):
        say(options, f"  {name}")


def _computed(options: argparse.Namespace) -> tuple[AnnData, dict[str, Any]]:
    from .. import tl

    out: Path = options.out
    if (out / RUN).exists() and not options.force:
        raise FileExistsError(
            f"{out} holds a comparison. Pass --force to replace it (what is unchanged is not computed again), "
            "--save-only to draw it again, or another --out."
        )
    if options.backed:
        raise ValueError("compare computes PCA, which needs all counts in memory. --backed goes with vae and cvae.")
    adata = read_input(options)
    batch_key = choose_key(adata, "batch-key", options.batch_key, BATCH_NAMES, needed=True)
    label_key = choose_key(adata, "label-key", options.label_key, LABEL_NAMES, needed=False)
    assert batch_key is not None  # it was needed
    check_columns(batch_key, label_key)
    make_folder(out)
    prepare(adata, batch_key, options)
    check_room(adata, out)
    if (out / DATA).exists():
        _take_over(adata, read(out / DATA))
    arguments = {**given(options, tl.compare), "label_key": label_key, "layer": "counts"}
    try:
        tl.compare(adata, batch_key, **arguments)
    except KeyboardInterrupt:
        if len(adata.uns.get("compare", {}).get("made", ())):
            write_adata(adata, out / DATA)
            print(f"What is done is kept in {out / DATA}: the same command goes on from there.")
        raise
    methods = adata.uns["compare"]["methods"].drop_duplicates("method")
    stamp = timestamp()
    names = {key.removeprefix("X_"): _folder_name(adata, key.removeprefix("X_")) for key in methods["embedding"]}
    run = {
        **about(options),
        "columns": {"sample": batch_key, "celltype": label_key},
        "folders": {key: f"{name}_{stamp}" for key, name in names.items()},
    }
    write_adata(adata, out / DATA)
    return adata, run


def _folder_name(adata: AnnData, key: str) -> str:
    likelihood = adata.uns.get(key, {}).get("params", {}).get("likelihood")
    name = "harmony" if key.startswith("pca_harmony") else key.removesuffix("_compare")
    return (f"{name}_{likelihood}" if likelihood else name).upper()


def _take_over(adata: AnnData, before: AnnData) -> None:
    """Bring what an earlier run computed; `tl.compare` takes of it what fits these data and parameters."""
    from .._results import check_result

    stored = before.uns.get("compare")
    if not isinstance(stored, dict) or "made" not in stored or not adata.obs_names.equals(before.obs_names):
        return
    made = check_result({"made": stored["made"]}, "compare", "compare")["made"]
    adata.uns["compare"] = {"made": made}
    for key in made.index:
        for place, name in (
            ("obsm", f"X_{key}"), ("obsm", f"X_umap_{key}"), ("obs", f"leiden_{key}"), ("uns", f"leiden_{key}"),
            ("uns", key), ("uns", f"neighbors_{key}"), ("obsp", f"neighbors_{key}_distances"),
            ("obsp", f"neighbors_{key}_connectivities"),
        ):  # fmt: skip
            if name in getattr(before, place):
                getattr(adata, place)[name] = getattr(before, place)[name]


def _stored(out: Path) -> tuple[AnnData, dict[str, Any]]:
    if not (out / RUN).exists() or not (out / DATA).exists():
        raise FileNotFoundError(f"{out} holds no comparison to draw. Run sc-vaenb compare without --save-only first.")
    return read(out / DATA), _run_of(out)


def _run_of(out: Path) -> dict[str, Any]:
    """What an earlier comparison wrote of itself; nothing if there was none."""
    found = out / RUN
    return json.loads(found.read_text(encoding="utf-8")) if found.is_file() else {}


def _draw(adata: AnnData, out: Path, run: dict[str, Any]) -> None:
    from .. import pl, report

    record = adata.uns["compare"]
    facts = {name: run[name] for name in ("command", "input", "versions")}
    for key, folder in run["folders"].items():
        seconds = record["methods"].set_index("embedding")["seconds"][f"X_{key}"]
        method = folder.rsplit("_", 2)[0]
        write_results(
            adata, method, key, out / folder, run["columns"], record["scores"], {**facts, "seconds": float(seconds)}
        )
    figures: Any = pl.scores(adata, show=False), pl.compare(adata, show=False)
    save_figure(figures[0]["table"], out / "scores.svg")
    save_figure(figures[1][0, 0], out / "umaps.svg")
    if "total" in record["scores"]["values"]:
        save_figure(pl.tradeoff(adata, show=False), out / "tradeoff.svg")
    report.write(adata, out / REPORT, command=run["command"], data=DATA, force=True)
    write_json(run, out / RUN)  # last: its being there says that all is
