"""The null split: methods correct the largest batch, split at random into two 'batches' without a batch effect."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .. import _adata
from .._obs import read_categories
from .._scanpy import override
from ..metrics import knn
from ..metrics.loss import Loss, losses, purity_per_cell
from ..metrics.separation import clusters
from ._runs import Run, stop_if_interrupted

if TYPE_CHECKING:
    from anndata import AnnData

HALF = "null_split_half"
MIN_CELLS, MAX_CELLS = 100, 1_000  # cells of the batch that is split
MAX_STEPS = 150  # steps of a fit: a quarter to a third of the usual number, enough for over-correction to show
RESOLUTION = 0.5  # Leiden resolution of the clusters that should be kept; coarse clusters are more reliable
N_NEIGHBORS = 16
COLUMNS = ("method", "made_from", *Loss._fields)


def null_split(
    adata: AnnData,
    batch_key: str | Sequence[str],
    make_runs: Callable[[AnnData, str, int], list[Run]],
    known: pd.DataFrame | None,
    seed: int,
) -> tuple[pd.DataFrame, dict[str, list[Loss]]]:
    """Apply each correction method to a random split of one batch; compare clusters before and after correction.

    Harmony is compared with PCA, and count models with a VAE of as many steps, so that only the correction differs.
    `known` is the table of an earlier comparison; its rows are used again for methods that have not changed.
    """
    batch = read_categories(adata, "batch_key", batch_key).astype(str)
    cells = np.flatnonzero((batch == batch.value_counts().index[0]).to_numpy())
    table = pd.DataFrame(columns=list(COLUMNS))
    if len(cells) < MIN_CELLS:
        return table, {}
    rng = np.random.default_rng(seed)
    cells = np.sort(rng.permutation(cells)[:MAX_CELLS])
    null = _without_results(adata, cells)
    null.obs[HALF] = pd.Categorical.from_codes(rng.permutation(np.arange(len(cells)) % 2), ["a", "b"])
    runs = make_runs(null, HALF, MAX_STEPS)
    fingerprints = {run.method: run.fingerprint for run in runs}
    rows, missing = [], []
    for method in [run.method for run in runs if run.method not in {"PCA", "VAE"}]:
        known_rows = []
        if known is not None:
            unchanged = (known["method"] == method) & (known["made_from"] == fingerprints[method])
            known_rows = known[unchanged].to_dict("records")
        if known_rows:
            rows += known_rows
        else:
            missing.append(method)
    if missing:
        rows += _compare_clusters(null, runs, missing)
    if not rows:
        return table, {}
    table = pd.DataFrame(rows, columns=list(COLUMNS)).reset_index(drop=True)
    table["n_cells"] = table["n_cells"].astype(np.int64)
    by_method: dict[str, list[Loss]] = {}
    for row in table.to_dict("records"):
        by_method.setdefault(str(row["method"]), []).append(Loss(**{name: row[name] for name in Loss._fields}))
    return table, by_method


def _without_results(adata: AnnData, cells: Any) -> AnnData:
    """A copy of these cells, without the results that the comparison wrote before."""
    view = adata[cells]
    return type(adata)(
        X=None if adata.X is None else view.X.copy(),
        obs=view.obs.copy(),
        var=view.var.copy(),
        layers={name: view.layers[name].copy() for name in _adata.keys(adata.layers)},
        obsm={name: value.copy() for name, value in view.obsm.items() if not name.startswith("X_")},
        uns={name: adata.uns[name] for name in ("protein_names", "peak_names") if name in adata.uns},
    )


def _compare_clusters(null: AnnData, runs: list[Run], missing: list[str]) -> list[Mapping[str, Any]]:
    """Rows of the table for these methods: how much of each cluster is lost by the correction."""
    models = [method for method in missing if method != "Harmony"]
    needed = {"PCA", *missing, *(["VAE"] if models else [])}
    embeddings: dict[str, Any] = {}
    with override(verbosity="error"):
        for run in runs:
            if run.method not in needed:
                continue
            try:
                run.compute(null)
            except Exception:  # for example if one half has no labels: this method then has no rows
                continue
            stop_if_interrupted(null, run.key)
            embeddings[run.method] = _adata.read_embedding(null, f"X_{run.key}")
    if "PCA" not in embeddings:
        return []
    names = clusters(embeddings["PCA"], resolution=RESOLUTION).astype(str)
    purity = {method: purity_per_cell(knn(embedding, N_NEIGHBORS), names) for method, embedding in embeddings.items()}
    rows: list[Mapping[str, Any]] = []
    fingerprints = {run.method: run.fingerprint for run in runs}
    for method in missing:
        before = "PCA" if method == "Harmony" else "VAE"
        if method in purity and before in purity:
            for loss in losses(purity[before], purity[method], names):
                rows.append({"method": method, "made_from": fingerprints[method], **loss._asdict()})
    return rows
