"""`sc-vaenb simulate`, `score`, `report` and `info`: one file each."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

import numpy as np

from .._files import write_text
from ._fit import LABEL_NAMES, choose_batch_key, warn_of_circular
from ._options import explicit_options
from ._read import choose_key, matrices, read
from ._write import check_new, echo, make_folder, write_adata

if TYPE_CHECKING:
    from anndata import AnnData


def run_simulate(options: argparse.Namespace) -> None:
    from ..datasets import simulate

    if options.out.suffix not in {".h5ad", ".zarr"}:
        raise ValueError(f"--out {options.out} does not end in .h5ad or .zarr. Give such a name.")
    check_new(options.out, options.force)
    make_folder(options.out.parent)
    adata = simulate(options.n_cells, options.n_genes, **explicit_options(options, simulate))
    write_adata(adata, options.out)
    echo(f"{options.out}: {adata.n_obs:,} cells x {adata.n_vars:,} genes, obs['batch'], obs['cell_type']")


def run_score(options: argparse.Namespace) -> None:
    from .. import tl

    if options.out is not None:
        check_new(options.out, options.force)
        make_folder(options.out.parent)
    adata = read(options.file)
    batch_key = choose_batch_key(adata, options.batch_key, needed=False)
    label_key = choose_key(adata, "label-key", options.label_key, LABEL_NAMES, needed=False)
    keys = options.embeddings.split(",") if options.embeddings else None
    arguments = {**explicit_options(options, tl.score), "batch_key": batch_key, "label_key": label_key}
    tl.score(adata, keys, **arguments)
    values = adata.uns["scores"]["values"]
    warn_of_circular(adata, values.index, label_key)
    echo(values.round(3).T.to_string())
    if options.out is not None:
        write_text(values.to_csv(), options.out)
        echo(f"\nwritten to {options.out}")


def run_report(options: argparse.Namespace) -> None:
    from .. import report

    out = options.out or options.file.with_suffix(".html")
    check_new(out, options.force)
    make_folder(out.parent)
    adata = read(options.file)
    report.write(adata, out, options.key, data=options.file, force=options.force)
    echo(f"written to {out} and {out.with_suffix('.csv')}")


def run_info(options: argparse.Namespace) -> None:
    adata = read(options.file)
    echo(f"{options.file}: {adata.n_obs:,} cells x {adata.n_vars:,} genes")
    for name, matrix, content in matrices(adata):
        echo(f"{name}: {matrix.dtype} {getattr(matrix, 'format', 'dense')}, {content}")
    for column in map(str, adata.obs.columns):
        values = adata.obs[column]
        kind = "numbers" if values.dtype.kind in "fiu" else f"{values.nunique():,} values"
        echo(f"obs[{column!r}]: {kind}")
    for name, array in adata.obsm.items():
        echo(f"obsm[{name!r}]: {' x '.join(f'{size:,}' for size in np.shape(array))}")
    for key, record in adata.uns.items():
        for line in _describe_record(adata, key, record):
            echo(line)


def _describe_record(adata: AnnData, key: str, record: Any) -> list[str]:
    from .._record import read_record

    if not isinstance(record, dict):
        return []
    if "model" in record and "params" in record:
        try:
            checked = read_record(adata, key)
        except ValueError as error:  # the rest of the file is still described
            return [f"uns[{key!r}]: {error}"]
        params = checked["params"]
        batch_text = f" on {params['batch_key']!r}" if "batch_key" in params else ""
        facts = [f"tl.{params.get('method', 'vae')}{batch_text}"]
        facts += [f"likelihood {params['likelihood']}"] if "likelihood" in params else []
        facts += [f"{params['n_latent']} latent dimensions"] if "n_latent" in params else []
        return [f"uns[{key!r}]: {', '.join(facts)}. {checked['verdict']['message']}"]
    if isinstance(record.get("verdict"), str) and "scores" in record:
        return [f"uns[{key!r}]: comparison", *(f"    {line}" for line in record["verdict"].splitlines())]
    return []
