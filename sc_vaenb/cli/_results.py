"""Write the files in the results folder of a method."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .._files import atomic_path
from .._obs import columns_of
from ._write import save_figure, save_table, write_json

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

MAX_CELLS_FOR_SILHOUETTE = 20_000  # of the mean silhouette; its cost grows with the square of the cells


def write_results(
    adata: AnnData,
    method: str,
    key: str,
    folder: Path,
    columns: dict[str, Any],
    scores: dict[str, Any] | None,
    about: dict[str, Any],
) -> None:
    """Write the results on `obsm["X_" + key]`: arrays, figures, scores, parameters.

    Parameters
    ----------
    columns
        Columns of obs: `sample` (the batch; one column, or a list) and `celltype`; each may be None.
    scores
        What :func:`sc_vaenb.tl.score` writes, with a row for this embedding; None if there is nothing to score by.
    about
        Further content of params.json, beside the parameters of the fit.
    """
    folder.mkdir(parents=True, exist_ok=True)
    embedding = np.asarray(adata.obsm[f"X_{key}"], np.float32)
    for name, array in (("latents.npy", embedding), ("latents_z.npy", standardised(embedding))):
        with atomic_path(folder / name) as path:
            np.save(path, array)
    write_json({"method": method, **about, "params": params_of(adata, key)}, folder / "params.json")
    if f"X_umap_{key}" in adata.obsm:
        shown = [name for value in columns.values() if value is not None for name in columns_of(value)]
        for column in (*shown, f"leiden_{key}"):
            path = folder / f"{method}_umap_{_in_name(column)}.svg"
            save_figure(partial(_umap, adata, method, key, column), path)
    if "history" in adata.uns.get(key, ()):
        save_figure(partial(losses, adata, key), folder / "training_losses.svg")
    if columns["celltype"] is not None:
        name = f"silhouette_{_in_name(columns['celltype'])}.txt"
        save_table(partial(_silhouette, embedding, adata, columns["celltype"]), folder / name)
    if scores is not None:
        save_table(lambda: metrics_of(scores, f"X_{key}").to_csv(), folder / "metrics.csv")


def _in_name(column: str) -> str:
    """A column's name as part of a file's name."""
    return re.sub(r"[^\w.-]", "_", column)[:50]  # at most 200 bytes


def params_of(adata: AnnData, key: str) -> dict[str, Any]:
    """The parameters in the record of a fit; empty if there is no fit with this key."""
    record = adata.uns.get(key)
    params = record.get("params") if isinstance(record, dict) else None
    return params if isinstance(params, dict) else {}


def losses(adata: AnnData, key: str) -> Any:
    from .. import pl

    return pl.history(adata, key, show=False)["loss"]  # type: ignore[index]


def _umap(adata: AnnData, method: str, key: str, column: str) -> Any:
    from .. import pl

    axes: Any = pl.embedding(adata, f"X_umap_{key}", color=column, show=False)
    axes[0, 0].set_title(f"{method} · {column.removesuffix(f'_{key}')}", fontsize="medium")
    return axes[0, 0]


def standardised(embedding: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale each dimension to mean 0 and standard deviation 1; a constant dimension becomes 0."""
    centred = embedding - embedding.mean(0)
    sd = centred.std(0)
    return centred / np.where(sd > 0, sd, 1)


def metrics_of(scores: dict[str, Any], embedding: str) -> pd.DataFrame:
    """A row per metric: value, kind, whether higher is better, whether it counts in the total."""
    properties = scores["metrics"]
    values = scores["values"].loc[embedding].rename("value").to_frame()
    table = values.join(properties)
    table.index.name = "metric"
    return table


def _silhouette(embedding: NDArray[np.float32], adata: AnnData, label_key: str) -> str:
    """The unscaled silhouette of the cell types, from -1 to 1 (metrics.csv has it scaled to 0 to 1)."""
    from ..metrics import silhouette_samples

    labels = adata.obs[label_key]
    labelled = np.flatnonzero(labels.notna())
    cells = np.sort(np.random.default_rng(0).permutation(labelled)[:MAX_CELLS_FOR_SILHOUETTE])
    names = labels.iloc[cells].astype(str).to_numpy()
    mean = float(np.mean(silhouette_samples(embedding[cells], names))) if len(set(names)) > 1 else float("nan")
    return f"{mean:.6f}\n"
