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
from .._obs import columns_of, read_categories
from ._join import join
from ._options import explicit_options
from ._read import beyond_memory, choose_key, matrices, read, with_counts
from ._results import params_of, write_results
from ._tables import add_metadata
from ._writable import leave_out_unwritable
from ._write import check_space, drop_matrices_on_disk, echo, in_memory, make_folder, only_warn, timestamp, write_adata

if TYPE_CHECKING:
    from anndata import AnnData

BATCH_NAMES, LABEL_NAMES = ("sample", "batch"), ("celltype", "cell_type")  # columns that are found without an option
OF_COMPARISON = re.compile(r"_compare\d*$")  # suffix of a key whose plain name was in use
PACKAGES = ("sc_vaenb", "torch", "scanpy", "anndata", "numpy", "harmonypy")


def run_fit(options: argparse.Namespace) -> None:
    """Read, prepare, fit, cluster, score and write."""
    from .. import tl
    from ..tl._arguments import forget_states

    if options.mog:
        options.prior = "mog"
    start = time.perf_counter()
    function = tl.cvae if options.method == "cvae" else tl.vae
    adata = read_input(options)
    batch_key = choose_batch_key(adata, options.batch_key, needed=options.method == "cvae")
    label_key = choose_key(adata, "label-key", options.label_key, LABEL_NAMES, needed=False)
    check_columns(batch_key, label_key)
    label_key = labels_to_score(adata, batch_key, label_key, options)
    is_first_process = options.rank == 0
    if is_first_process:
        make_folder(options.out)
    prepare(adata, batch_key, options)
    if is_first_process:
        check_space(adata, options.out)
    key = options.method
    arguments = {**explicit_options(options, function), "layer": layer_of(adata), "key_added": key}
    with _checkpoint_of(options) as checkpoint_folder:
        if checkpoint_folder is not None:
            arguments["checkpoint"] = checkpoint_folder
        function(adata, *([batch_key] if options.method == "cvae" else []), **arguments)
        if not is_first_process:
            return
        if adata.uns[key]["verdict"]["status"] == "interrupted":
            if checkpoint_folder is not None:
                print(f"The state of the fit is kept in {checkpoint_folder}: the same command goes on from there.")
            raise KeyboardInterrupt  # a partial fit may be useful in a notebook, but a results folder must be complete
        folder = _write_fit(adata, key, batch_key, label_key, options)
        if checkpoint_folder is not None:
            forget_states(checkpoint_folder)
    echo(f"written to {folder} in {time.perf_counter() - start:.0f} s:")
    for path in sorted(folder.iterdir()):
        echo_unless_quiet(options, f"  {path.name}")
    if options.backed:
        counts = options.inputs[0].path
        echo_unless_quiet(options, f"X and layers stay in {counts}: {method_of(key, adata)}.h5ad holds everything else")


@contextmanager
def _checkpoint_of(options: argparse.Namespace) -> Iterator[Path | None]:
    """The folder for the state of the fit with --resume; only one run at a time may use it."""
    if not options.resume:
        yield None
        return
    folder = options.out / f"{options.method}_checkpoint"
    if options.rank > 0:  # the first process locks the folder for all
        yield folder
        return
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file, not a folder. Remove it, or pass another --out.")
    folder.mkdir(exist_ok=True)
    try:
        with only_user(
            folder, f"another run keeps its state in {folder}. Wait until it has ended, or pass another --out."
        ):
            yield folder
    finally:
        with suppress(OSError):  # the folder is not empty: it holds a state
            folder.rmdir()


def _write_fit(
    adata: AnnData, key: str, batch_key: str | list[str] | None, label_key: str | None, options: argparse.Namespace
) -> Path:
    """Cluster, score and write. If a step fails (except writing to disk), only its own result is left out."""
    from scanpy import logging as logg

    from .. import tl
    from ..tl._graph import neighbors_leiden_umap

    logg.info("computing neighbours, clusters and the UMAP")
    with only_warn("the UMAP with the clusters"):
        neighbors_leiden_umap(adata, key, 1.0, int(adata.uns[key]["params"]["rng"]))
    score_keys: dict[str, Any] = {"batch_key": batch_key, "label_key": label_key}
    score_keys = {
        name: column for name, column in score_keys.items() if column is not None and n_groups(adata, column) > 1
    }
    warn_of_circular(adata, [f"X_{key}"], label_key)
    if score_keys:
        with only_warn("metrics.csv"):
            tl.score(adata, f"X_{key}", **score_keys, key_added=f"{key}_scores")
    logg.info("drawing and writing")
    method = method_of(key, adata)
    columns = {"sample": batch_key, "celltype": label_key}
    with work_folder(options.out) as work:
        name = f"{method}_{timestamp()}"
        write_results(adata, method, key, work / name, columns, adata.uns.get(f"{key}_scores"), about(options))
        drop_matrices_on_disk(adata)
        write_adata(adata, work / name / f"{method}.h5ad")
        return move_new(work / name, options.out / name)


def method_of(key: str, adata: AnnData) -> str:
    """The name of a method in the names of files and folders, such as CVAE_NB."""
    from .._record_checks import LIKELIHOOD_NAMES

    likelihood = params_of(adata, key).get("likelihood")
    name = "harmony" if key.startswith("pca_harmony") else OF_COMPARISON.sub("", key)
    return (f"{name}_{likelihood}" if likelihood in LIKELIHOOD_NAMES else name).upper()


def labels_to_score(
    adata: AnnData, batch_key: str | list[str] | None, label_key: str | None, options: argparse.Namespace
) -> str | None:
    """Return the column of labels if scores can be computed from it. This is checked before the fit.

    An unusable column raises an error if the user named it; if it was found by its usual name, it is left out with a
    warning.
    """
    from scanpy import logging as logg

    from ..tl._score import check_scored

    if label_key is None:
        return None
    if batch_key is not None and n_groups(adata, batch_key) < 2:  # then there are no batch scores
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
    """The AnnData of the command: inputs joined, with the metadata and the counts of other files if there are any."""
    adatas = [_read_one(entry.path, options) for entry in options.inputs]
    adata = adatas[0]
    if options.inputs[0].sample is not None:
        adata, messages = join(options.inputs, adatas)
        messages.append(f"{len(adatas)} inputs: {adata.n_obs:,} cells x {adata.n_vars:,} genes")
        for message in messages:
            echo_unless_quiet(options, message)
    if options.obs is not None:
        n_columns = adata.obs.shape[1]
        add_metadata(adata, options.obs)
        echo_unless_quiet(options, f"{options.obs}: {', '.join(map(str, adata.obs.columns[n_columns:]))} in obs")
    if options.counts is not None:
        adata, message = with_counts(adata, read(options.counts), getattr(options, "layer", None))
        options.layer = "counts"
        echo_unless_quiet(options, message)
    leave_out_unwritable(adata)
    return adata


def _read_one(path: Path, options: argparse.Namespace) -> AnnData:
    from scanpy import logging as logg

    logg.info(f"reading {path}")
    if not options.backed and (sizes := beyond_memory(path)):
        needed, memory = (f"{value / 2**30:,.1f} GiB" for value in sizes)
        advice = "If it runs out, leave the counts in the file: vae or cvae with --backed."
        logg.warning(f"{path} needs at least {needed} of memory, and this machine has {memory}. {advice}")
    adata = read(path, backed=options.backed)
    echo_unless_quiet(options, f"{path}: {adata.n_obs:,} cells x {adata.n_vars:,} genes")
    return adata


def prepare(adata: AnnData, batch_key: str | list[str] | None, options: argparse.Namespace) -> None:
    """Run `pp.prepare`; if there are no raw counts, raise an error with advice for the command line."""
    from .. import pp

    try:
        pp.prepare(adata, batch_key, **explicit_options(options, pp.prepare))
    except ValueError as error:
        if "no raw counts" not in str(error):
            raise
        advice = "Give a second file that has them with --counts FILE, or the name of their layer with --layer NAME."
        advice += "".join(f" {name} holds {content}." for name, _, content in matrices(adata) if "--layer" in content)
        paths = ", ".join(str(entry.path) for entry in options.inputs)
        raise ValueError(f"{paths} holds no raw counts. {advice} ({error})") from error


def layer_of(adata: AnnData) -> str | None:
    """The layer of the counts: "counts" from `pp.prepare` or, if the counts stay in the file, the source layer."""
    if "counts" in adata.layers and in_memory(adata.layers["counts"]):
        return "counts"
    source = adata.uns["prepare"]["source"]  # X or layers['name']
    return next((name for name in adata.layers if source == f"layers[{name!r}]"), None)


def warn_of_circular(adata: AnnData, embeddings: Iterable[str], label_key: str | None) -> None:
    """Warn if the labels for the scores were used in the fit: such scores are too high."""
    from scanpy import logging as logg

    records = {name: adata.uns.get(name.removeprefix("X_")) for name in embeddings}
    for name, record in records.items():
        params = record.get("params", {}) if isinstance(record, dict) else {}
        if label_key is not None and params.get("labels_key") == label_key:
            logg.warning(
                f"{name} was fitted with the labels {label_key!r} (--labels-key): its scores by these labels are too "
                "high, and not to be compared with others. Give other labels with --label-key."
            )


def choose_batch_key(adata: AnnData, text: str | None, *, needed: bool) -> str | list[str] | None:
    """The column of obs with the batches, or several: their combinations are then the batches."""
    if text is None or text in adata.obs or "," not in text:
        return choose_key(adata, "batch-key", text, BATCH_NAMES, needed=needed)
    return [str(choose_key(adata, "batch-key", column, BATCH_NAMES, needed=True)) for column in text.split(",")]


def n_groups(adata: AnnData, key: str | list[str]) -> int:
    """How many batches, or labels, there are."""
    return int((adata.obs[key] if isinstance(key, str) else read_categories(adata, "batch_key", key)).nunique())


def check_columns(batch_key: str | list[str] | None, label_key: str | None) -> None:
    if batch_key is not None and label_key in columns_of(batch_key):
        raise ValueError(f"--batch-key and --label-key are both {label_key!r}: what is to be removed would be kept.")


def echo_unless_quiet(options: argparse.Namespace, text: str) -> None:
    """Print text that is not a result, unless --quiet is set."""
    if not options.quiet:
        echo(text)


def about(options: argparse.Namespace) -> dict[str, Any]:
    """How the results were made: command, input files and package versions."""
    files = {f"file {i}": str(entry.path) for i, entry in enumerate(options.inputs, 1)}
    files |= {name: str(path) for name in ("samples", "obs", "counts") if (path := getattr(options, name)) is not None}
    return {"command": options.command, "input": files, "versions": {name: version(name) for name in PACKAGES}}
