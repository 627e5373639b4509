"""`sc-vaenb compare`: a comparison of methods, with its figures, a folder per method, and a report."""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from .._files import move_new, only_user, work_folder
from ._fit import (
    LABEL_NAMES,
    about,
    check_columns,
    choose_batch_key,
    echo_unless_quiet,
    labels_to_score,
    method_of,
    prepare,
    read_input,
)
from ._inputs import RUN, check_replaced
from ._options import explicit_options
from ._read import choose_key, read
from ._results import write_results
from ._stranger import DATA, REPORT, UNFINISHED, check_comparison, method_in, read_run, remove_replaced
from ._write import check_space, echo, make_folder, only_warn, save_figure, timestamp, write_adata, write_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData


def run_compare(options: argparse.Namespace) -> None:
    """Read, prepare, compare, draw and write; with --save-only, only draw the stored comparison again."""
    from scanpy import logging as logg

    start = time.perf_counter()
    out: Path = options.out
    if options.save_only:
        if not (out / RUN).exists() or not (out / DATA).exists():
            raise FileNotFoundError(
                f"{out} holds no comparison to draw. Run sc-vaenb compare without --save-only first."
            )
        with _only_run(out):
            adata, run = read(out / DATA), read_run(out)
            check_comparison(adata, run, out / DATA)
            logg.info("drawing and writing")
            _draw_again(adata, out, run)
    else:
        _earlier_run(out, options.force)
        adata, arguments = _read_and_check(options)
        with _only_run(out):
            earlier_run = _earlier_run(out, options.force)  # check again: another run may have ended in between
            _compute(adata, arguments, options)
            logg.info("drawing and writing")
            run = _draw(adata, arguments, options)
            for folder in remove_replaced(
                out, set(earlier_run.get("folders", {}).values()) - set(run["folders"].values())
            ):
                echo_unless_quiet(
                    options, f"{folder} stays: it holds other files than those of the comparison that was replaced"
                )
    echo(adata.uns["compare"]["verdict"])
    echo(f"\nwritten to {out} in {time.perf_counter() - start:.0f} s:")
    figures = "scores.svg", "umaps.svg", "tradeoff.svg"
    for name in (REPORT, "report.csv", DATA, *figures, *(f"{f}/" for f in run["folders"].values())):
        if (out / name).exists():
            echo_unless_quiet(options, f"  {name}")


def _earlier_run(out: Path, force: bool) -> dict[str, Any]:
    """The content of run.json of an earlier comparison, which is replaced only with --force."""
    check_replaced(out, force)
    return read_run(out)


def _only_run(out: Path) -> Any:
    busy = f"another sc-vaenb compare is writing to {out}. Wait until it has ended, or pass another --out."
    return only_user(out, busy)


def _read_and_check(options: argparse.Namespace) -> tuple[AnnData, dict[str, Any]]:
    """The cells, prepared, and the arguments of `tl.compare`."""
    from .. import tl

    adata = read_input(options)
    batch_key = choose_batch_key(adata, options.batch_key, needed=True)
    label_key = choose_key(adata, "label-key", options.label_key, LABEL_NAMES, needed=False)
    assert batch_key is not None  # `choose_key` raises if there is none
    check_columns(batch_key, label_key)
    label_key = labels_to_score(adata, batch_key, label_key, options)
    make_folder(options.out)
    prepare(adata, batch_key, options)
    check_space(adata, options.out)
    arguments = {
        "batch_key": batch_key,
        **explicit_options(options, tl.compare),
        "label_key": label_key,
        "layer": "counts",
    }
    return adata, arguments


def _compute(adata: AnnData, arguments: dict[str, Any], options: argparse.Namespace) -> None:
    """Compare and write the AnnData; after an error or Ctrl-C, write the results so far."""
    from .. import tl

    data, unfinished = options.out / DATA, options.out / UNFINISHED
    earlier_path = next((path for path in (unfinished, data) if path.exists()), None)
    if earlier_path is not None:
        earlier_adata = None
        with only_warn(f"what {earlier_path} holds of an earlier comparison"):
            earlier_adata = read(earlier_path)
        if earlier_adata is not None:
            _take_over(adata, earlier_adata)
    try:
        tl.compare(adata, **arguments)
    except BaseException:
        if len(adata.uns.get("compare", {}).get("made", ())):
            saved_to = unfinished if (options.out / RUN).exists() else data  # a complete comparison is not overwritten
            write_adata(adata, saved_to)
            echo(f"What is done is kept in {saved_to}: the same command goes on from there.")
        raise
    write_adata(adata, data)
    unfinished.unlink(missing_ok=True)


def _take_over(adata: AnnData, earlier_adata: AnnData) -> None:
    """Copy the results of an earlier run; `tl.compare` reuses those that match these data and parameters."""
    from .._results import check_result

    record = earlier_adata.uns.get("compare")
    made = record.get("made") if isinstance(record, dict) else None
    if not isinstance(made, pd.DataFrame) or not {"made_from", "checksum", "seconds"} <= set(made):
        return
    if not pd.api.types.is_numeric_dtype(made["seconds"]) or not adata.obs_names.equals(earlier_adata.obs_names):
        return
    if "found" in made:  # fits that are in the input itself
        made = made[~made["found"].astype(bool)]
    reused = {name: record[name] for name in ("null_split",) if name in record} | {"made": made}
    adata.uns["compare"] = check_result(reused, "compare", "compare")
    for key in made.index:
        for slot, name in (
            ("obsm", f"X_{key}"), ("obsm", f"X_umap_{key}"), ("obs", f"leiden_{key}"), ("uns", f"leiden_{key}"),
            ("uns", key), ("uns", f"neighbors_{key}"), ("obsp", f"neighbors_{key}_distances"),
            ("obsp", f"neighbors_{key}_connectivities"), ("varm", f"{key}_loadings"),
        ):  # fmt: skip
            if name in getattr(earlier_adata, slot):
                getattr(adata, slot)[name] = getattr(earlier_adata, slot)[name]


def _draw(adata: AnnData, arguments: Mapping[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Write a folder for each method, the figures, the report and, last, run.json; return its content."""
    out: Path = options.out
    methods = adata.uns["compare"]["methods"].drop_duplicates("method")
    run = {
        **about(options),
        "columns": {"sample": arguments["batch_key"], "celltype": arguments["label_key"]},
        "folders": {},
    }
    stamp = timestamp()
    with work_folder(out) as work:
        for key in (str(name).removeprefix("X_") for name in methods["embedding"]):
            run["folders"][key] = f"{method_of(key, adata)}_{stamp}"
            _write_method(adata, key, work / run["folders"][key], run)
        run["folders"] = {key: move_new(work / name, out / name).name for key, name in run["folders"].items()}
    _draw_all(adata, out, run)
    write_json(run, out / RUN)  # written last: if it exists, the comparison is complete
    return run


def _draw_again(adata: AnnData, out: Path, run: Mapping[str, Any]) -> None:
    for key, name in run["folders"].items():
        if (out / name).is_symlink():
            raise ValueError(f"{out / name} is a link, not a folder that sc-vaenb compare made. Remove it.")
        _write_method(adata, key, out / name, run)
    _draw_all(adata, out, run)


def _write_method(adata: AnnData, key: str, folder: Path, run: Mapping[str, Any]) -> None:
    record = adata.uns["compare"]
    seconds = float(record["methods"].set_index("embedding")["seconds"][f"X_{key}"])
    facts = {name: run[name] for name in ("command", "input", "versions")} | {"seconds": seconds}
    write_results(adata, method_in(folder.name), key, folder, run["columns"], record["scores"], facts)


def _draw_all(adata: AnnData, out: Path, run: Mapping[str, Any]) -> None:
    """The figures of all methods, and the report."""
    from .. import pl, report

    save_figure(lambda: pl.scores(adata, show=False)["table"], out / "scores.svg")  # type: ignore[index]
    save_figure(lambda: pl.compare(adata, show=False)[0, 0], out / "umaps.svg")  # type: ignore[index]
    if "total" in adata.uns["compare"]["scores"]["values"]:
        save_figure(partial(pl.tradeoff, adata, show=False), out / "tradeoff.svg")
    with only_warn(REPORT):
        report.write(adata, out / REPORT, command=run["command"], data=DATA, force=True)
