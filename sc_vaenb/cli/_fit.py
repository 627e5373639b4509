"""`sc-vaenb vae` and `sc-vaenb cvae`: a file in, a folder with results out."""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._files import move_new, only_user, work_folder
from ._options import given
from ._read import beyond_memory, choose_key, read, with_counts
from ._results import params_of, write_results
from ._writable import leave_out_unwritable
from ._write import check_room, echo, in_memory, leave_matrices, make_folder, only_warn, timestamp, write_adata

if TYPE_CHECKING:
    from anndata import AnnData

BATCH_NAMES, LABEL_NAMES = ("sample", "batch"), ("celltype", "cell_type")  # columns that need not be named
OF_COMPARISON = re.compile(r"_compare\d*$")  # the end of a key, where the name of the method was taken
PACKAGES = ("sc_vaenb", "torch", "scanpy", "anndata", "numpy", "harmonypy")


def run_fit(options: argparse.Namespace) -> None:
    """Read, prepare, fit, cluster, score and write."""
    from .. import tl
    from ..tl._arguments import forget_states

    if options.mog and getattr(options, "prior", "mog") != "mog":
        raise ValueError(f"--mog and --prior {options.prior} are two priors. Give one.")
    if options.mog:
        options.prior = "mog"
    if options.resume and getattr(options, "checkpoint", None) is not None:
        raise ValueError("--resume and --checkpoint both name a folder for the state of the fit. Give one.")
    begun = time.perf_counter()
    function = tl.cvae if options.method == "cvae" else tl.vae
    adata = read_input(options)
    batch_key = choose_key(adata, "batch-key", options.batch_key, BATCH_NAMES, needed=options.method == "cvae")
    label_key = choose_key(adata, "label-key", options.label_key, LABEL_NAMES, needed=False)
    check_columns(batch_key, label_key)
    label_key = labels_to_score(adata, batch_key, label_key, options)
    writes = options.rank == 0
    if writes:
        make_folder(options.out)
    prepare(adata, batch_key, options)
    if writes:
        check_room(adata, options.out)
    key = options.method
    arguments = {**given(options, function), "layer": layer_of(adata), "key_added": key}
    with _checkpoint_of(options) as kept:
        if kept is not None:
            arguments["checkpoint"] = kept
        function(adata, *([batch_key] if options.method == "cvae" else []), **arguments)
        if not writes:
            return
        if adata.uns[key]["verdict"]["status"] == "interrupted":
            if kept is not None:
                print(f"The state of the fit is kept in {kept}: the same command goes on from there.")
            raise KeyboardInterrupt  # in a notebook half a fit may be of use; a folder of results must be whole
        folder = _write_fit(adata, key, batch_key, label_key, options)
        if kept is not None:
            forget_states(kept)
    echo(f"written to {folder} in {time.perf_counter() - begun:.0f} s:")
    for path in sorted(folder.iterdir()):
        say(options, f"  {path.name}")
    if options.backed:
        counts = options.file or options.adata
        say(options, f"X and layers stay in {counts}: {method_of(key, adata)}.h5ad holds everything else")


@contextmanager
def _checkpoint_of(options: argparse.Namespace) -> Iterator[Path | None]:
    """The folder for the state of the fit with --resume, for one run at a time."""
    if not options.resume:
        yield None
        return
    kept = options.out / f"{options.method}_checkpoint"
    if options.rank > 0:  # the first process holds it for all
        yield kept
        return
    if kept.exists() and not kept.is_dir():
        raise FileExistsError(f"{kept} is a file, not a folder. Remove it, or pass another --out.")
    kept.mkdir(exist_ok=True)
    try:
        with only_user(kept, f"another run keeps its state in {kept}. Wait until it has ended, or pass another --out."):
            yield kept
    finally:
        with suppress(OSError):  # it holds a state
            kept.rmdir()


def _write_fit(
    adata: AnnData, key: str, batch_key: str | None, label_key: str | None, options: argparse.Namespace
) -> Path:
    """Cluster, score and write. What fails here but for the disk costs what it would have made, and no more."""
    from .. import tl
    from ..tl._graph import neighbors_leiden_umap

    with only_warn("the UMAP with the clusters"):
        neighbors_leiden_umap(adata, key, 1.0, int(adata.uns[key]["params"]["rng"]))
    keys: dict[str, Any] = {"batch_key": batch_key, "label_key": label_key}
    keys = {name: key for name, key in keys.items() if key is not None and adata.obs[key].nunique() > 1}
    warn_of_circular(adata, [f"X_{key}"], label_key)
    if keys:
        with only_warn("metrics.csv"):
            tl.score(adata, f"X_{key}", **keys, key_added=f"{key}_scores")
    method = method_of(key, adata)
    columns = {"sample": batch_key, "celltype": label_key}
    with work_folder(options.out) as work:
        name = f"{method}_{timestamp()}"
        write_results(adata, method, key, work / name, columns, adata.uns.get(f"{key}_scores"), about(options))
        leave_matrices(adata)
        write_adata(adata, work / name / f"{method}.h5ad")
        return move_new(work / name, options.out / name)


def method_of(key: str, adata: AnnData) -> str:
    """The name of a method in the names of files and folders, such as CVAE_NB."""
    from .._record_checks import LIKELIHOOD_NAMES

    likelihood = params_of(adata, key).get("likelihood")
    name = "harmony" if key.startswith("pca_harmony") else OF_COMPARISON.sub("", key)
    return (f"{name}_{likelihood}" if likelihood in LIKELIHOOD_NAMES else name).upper()


def labels_to_score(
    adata: AnnData, batch_key: str | None, label_key: str | None, options: argparse.Namespace
) -> str | None:
    """The column of labels, if scores can be computed from it: found out before a fit, not after it.

    A column that was named is refused; one that was found by its usual name is left out with a warning.
    """
    from scanpy import logging as logg

    from ..tl._score import check_scored

    if label_key is None:
        return None
    if batch_key is not None and adata.obs[batch_key].nunique() < 2:  # no scores of batches then
        batch_key = None
    try:
        check_scored(adata, batch_key, label_key)
    except ValueError as error:
        if options.label_key is not None:
            raise ValueError(f"{error} With --label-key none there are no scores of labels.") from error
        logg.warning(f"the labels in obs[{label_key!r}] are left out: {error}")
        return None
    return label_key


def read_input(options: argparse.Namespace) -> AnnData:
    """The AnnData of the command, with the counts of a second file if there is one."""
    path = options.file or options.adata
    if path is None:
        raise ValueError("there is no input: give a FILE, or --adata FILE.")
    if options.file is not None and options.adata is not None:
        raise ValueError(f"there are two inputs: {options.file} and --adata {options.adata}. Give one.")
    if options.backed and options.counts is not None:
        raise ValueError("--backed leaves counts in their place, and --counts puts them in another order. Give one.")
    if not options.backed and (beyond := beyond_memory(path)):
        from scanpy import logging as logg

        need, memory = (f"{value / 2**30:,.1f} GiB" for value in beyond)
        advice = "If it runs out, leave the counts in the file: vae or cvae with --backed."
        logg.warning(f"{path} needs at least {need} of memory, and this machine has {memory}. {advice}")
    adata = read(path, backed=options.backed)
    say(options, f"{path}: {adata.n_obs:,} cells x {adata.n_vars:,} genes")
    if options.counts is not None:
        adata, found = with_counts(adata, read(options.counts), getattr(options, "layer", None))
        options.layer = "counts"
        say(options, found)
    leave_out_unwritable(adata)
    return adata


def prepare(adata: AnnData, batch_key: str | None, options: argparse.Namespace) -> None:
    """`pp.prepare`, whose advice is for Python, with that for the command line."""
    from .. import pp

    try:
        pp.prepare(adata, batch_key, **given(options, pp.prepare))
    except ValueError as error:
        if "no raw counts" not in str(error):
            raise
        advice = "Give a second file that has them with --counts FILE, or the name of their layer with --layer NAME."
        raise ValueError(f"{options.file or options.adata} holds no raw counts. {advice} ({error})") from error


def layer_of(adata: AnnData) -> str | None:
    """The layer of the counts that `pp.prepare` found: its own, but for counts that stay in the file."""
    if "counts" in adata.layers and in_memory(adata.layers["counts"]):
        return "counts"
    source = adata.uns["prepare"]["source"]  # X or layers['name']
    return next((name for name in adata.layers if source == f"layers[{name!r}]"), None)


def warn_of_circular(adata: AnnData, embeddings: Iterable[str], label_key: str | None) -> None:
    """Scores by labels that a fit has seen say little of it."""
    from scanpy import logging as logg

    records = {name: adata.uns.get(name.removeprefix("X_")) for name in embeddings}
    for name, record in records.items():
        params = record.get("params", {}) if isinstance(record, dict) else {}
        if label_key is not None and params.get("labels_key") == label_key:
            logg.warning(
                f"{name} was fitted with the labels {label_key!r} (--labels-key): its scores by these labels are too "
                "high, and not to be compared with others. Give other labels with --label-key."
            )


def check_columns(batch_key: str | None, label_key: str | None) -> None:
    if batch_key is not None and batch_key == label_key:
        raise ValueError(f"--batch-key and --label-key are both {batch_key!r}: what is to be removed would be kept.")


def say(options: argparse.Namespace, text: str) -> None:
    """What is no result."""
    if not options.quiet:
        echo(text)


def about(options: argparse.Namespace) -> dict[str, Any]:
    """What made the results: command, input and versions."""
    files = {name: str(Path(path)) for name in ("file", "adata", "counts") if (path := getattr(options, name, None))}
    return {"command": options.command, "input": files, "versions": {name: version(name) for name in PACKAGES}}
