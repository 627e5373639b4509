"""`sc-vaenb vae` and `sc-vaenb cvae`: a file in, a folder with results out."""

from __future__ import annotations

import argparse
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._options import given
from ._read import choose_key, read, with_counts
from ._results import write_results
from ._write import check_room, make_folder, timestamp, whole, write_adata

if TYPE_CHECKING:
    from anndata import AnnData

BATCH_NAMES, LABEL_NAMES = ("sample", "batch"), ("celltype", "cell_type")  # columns that need not be named
PACKAGES = ("sc_vaenb", "torch", "scanpy", "anndata", "numpy", "harmonypy")


def run_fit(options: argparse.Namespace) -> None:
    """Read, prepare, fit, cluster, score and write."""
    from .. import pp, tl
    from ..tl._graph import downstream

    if options.mog:
        raise NotImplementedError(
            "--mog (a mixture of Gaussians as prior) is not there yet. Leave it out, or see --prior."
        )
    begun = time.perf_counter()
    function = tl.cvae if options.method == "cvae" else tl.vae
    adata = read_input(options)
    batch_key = choose_key(adata, "batch-key", options.batch_key, BATCH_NAMES, needed=options.method == "cvae")
    label_key = choose_key(adata, "label-key", options.label_key, LABEL_NAMES, needed=False)
    make_folder(options.out)
    pp.prepare(adata, batch_key, **given(options, pp.prepare))
    check_room(adata, options.out)
    arguments = {**given(options, function), "layer": "counts"}
    function(adata, *([batch_key] if options.method == "cvae" else []), **arguments)
    if adata.uns["vae"]["verdict"]["status"] == "interrupted":
        raise KeyboardInterrupt  # in a notebook half a fit may be of use; a folder of results must be whole
    print(adata.uns["vae"]["verdict"]["message"])
    downstream(adata, "vae", 1.0, int(adata.uns["vae"]["params"]["rng"]))
    keys: dict[str, Any] = {"batch_key": batch_key, "label_key": label_key}
    keys = {name: key for name, key in keys.items() if key is not None and adata.obs[key].nunique() > 1}
    if keys:
        tl.score(adata, "X_vae", **keys, key_added="vae_scores")
    method = f"{options.method}_{adata.uns['vae']['params']['likelihood']}".upper()
    folder = options.out / f"{method}_{timestamp()}"
    columns = {"sample": batch_key, "celltype": label_key}
    with whole(folder) as partial:
        write_results(adata, method, "vae", partial, columns, adata.uns.get("vae_scores"), about(options))
        write_adata(adata, partial / f"{method}.h5ad")
    print(f"written to {folder} in {time.perf_counter() - begun:.0f} s:")
    for path in sorted(folder.iterdir()):
        print(f"  {path.name}")


def read_input(options: argparse.Namespace) -> AnnData:
    """The AnnData of the command, with the counts of a second file if there is one."""
    path = options.file or options.adata
    if path is None:
        raise ValueError("there is no input: give a FILE, or --adata FILE.")
    if options.file is not None and options.adata is not None:
        raise ValueError(f"there are two inputs: {options.file} and --adata {options.adata}. Give one.")
    adata = read(path)
    print(f"{path}: {adata.n_obs:,} cells x {adata.n_vars:,} genes")
    if options.counts is not None:
        adata, found = with_counts(adata, read(options.counts), getattr(options, "layer", None))
        options.layer = "counts"
        print(found)
    return adata


def about(options: argparse.Namespace) -> dict[str, Any]:
    """What made the results: command, input and versions."""
    files = {name: str(Path(path)) for name in ("file", "adata", "counts") if (path := getattr(options, name, None))}
    return {"command": options.command, "input": files, "versions": {name: version(name) for name in PACKAGES}}
