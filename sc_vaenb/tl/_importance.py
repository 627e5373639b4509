from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scanpy import logging as logg
from scanpy import settings
from tqdm import tqdm

from .. import _adata
from .._checks import checked, seed_of
from .._names import column_names
from .._record import FittedModel
from .._session import own_state
from ..fit.device import resolve_device
from ..inference.importance import integrated_gradients, mean_jacobian, states
from ._counts import read_counts

if TYPE_CHECKING:
    from anndata import AnnData


@own_state()
@checked
def importance(
    adata: AnnData,
    key: str = "vae",
    *,
    groupby: str | None = None,
    of: str | int | Sequence[str | int] | None = None,
    max_cells: int = 1_000,
    rng: int | np.random.Generator | None = 0,
    key_added: str | None = None,
    device: str = "auto",
    copy: bool = False,
) -> AnnData | None:
    """Find the genes that a latent dimension drives, or those that tell the model which group a cell belongs to.

    Without `groupby`: the decoder's slope, d log(expected count of a gene) / d z of a dimension, mean over cells, each
    decoded as in its own batch. With `groupby`: integrated gradients of the encoder (Sundararajan, Taly & Yan 2017,
    "Axiomatic attribution for deep networks") from the mean cell to the cells of a group, along the direction in the
    latent space from the mean state of all other cells to that of the group, where that distance counts as 1. The
    attributions of a cell add up to how far the model moves it along that direction, so they say what *this model*
    reads, not whether a gene differs between groups: genes that say the same share the credit.

    Parameters
    ----------
    adata
        Cells x genes, with a model in `uns[key]` (from :func:`sc_vaenb.tl.vae` or :func:`sc_vaenb.tl.cvae`).
    key
        Name of the stored model.
    groupby
        Column of `obs` with groups of cells. `None`: the latent dimensions. Cells without a group belong to none.
    of
        Which groups, or which dimensions (2 or `"z2"`). `None`: all.
    max_cells
        The mean is taken over so many cells, drawn at random where there are more (with `groupby`, of each group).
    rng
        Seed of the draw.
    key_added
        Name for the result in `uns`, `key + "_importance"` by default.
    device
        `"auto"` takes CUDA, then MPS, then CPU; or torch's name of a device.
    copy
        Work on a copy of `adata` and return it.

    Returns
    -------
    `None`, or the copy if `copy`. `uns["vae_importance"]` holds:

    `values`
        DataFrame, genes x dimensions (`z0`, ..., as the columns of `obsm["X_vae"]`): the slope, for one unit of z.
        Or genes x groups: the attribution. A "/" in the name of a group becomes "|", as no h5ad file can hold it.
    `change` (with `groupby`)
        DataFrame, genes x groups: log1p of the normalised counts, mean of the group's cells less the mean cell. A gene
        of high attribution and negative change gives the group away by its absence.
    `groups` (with `groupby`)
        DataFrame, a row per group: `n_cells`; `n_used` of these; `attributed`, the sum of the attributions; and
        `state`, what it has to be: how far along the direction the group's cells are from the mean cell.
    `params`
        The arguments, and the `method` (`mean_jacobian` or `integrated_gradients`).

    Raises
    ------
    KeyError, TypeError, ValueError
        There is no such model, group or dimension, the model cannot be read, genes of it are missing, or the counts are
        not what they must be. `adata` is unchanged.

    Examples
    --------
    >>> import sc_vaenb
    >>> adata = sc_vaenb.datasets.simulate()
    >>> sc_vaenb.pp.prepare(adata, batch_key="batch")
    >>> sc_vaenb.tl.cvae(adata, "batch")
    >>> sc_vaenb.tl.importance(adata, groupby="cell_type")
    >>> adata.uns["vae_importance"]["values"]["type_0"].nlargest(10)
    """
    name = f"{key}_importance" if key_added is None else key_added
    rng = seed_of(rng)
    where = resolve_device(device)
    fitted = FittedModel.from_uns(adata, key)
    if name == key:
        msg = f"key_added={name!r} would replace the model in uns[{key!r}]. Choose another name."
        raise ValueError(msg)
    if groupby is None:
        known = dimension_names(fitted.model.config.n_latent)
        labels = np.empty(0, dtype=object)
    else:
        known, labels = _groups(adata, groupby)
    chosen = _chosen(of, known, "dimensions" if groupby is None else f"obs[{groupby!r}]")
    counts = read_counts(adata, key, fitted)

    start = logg.info(f"asking uns[{key!r}] for the genes of {len(chosen)} {'groups' if groupby else 'dimensions'}")
    adata = adata.copy() if copy else adata
    latent, _, mean_cell = states(fitted.model, counts, where)
    params: dict[str, Any] = {"model": key, "max_cells": max_cells, "rng": rng}
    if groupby is None:
        cells = drawn(np.arange(len(counts)), max_cells, rng)
        at = [known.index(dimension) for dimension in chosen]
        slopes = mean_jacobian(fitted.model, latent[cells], counts.batch_index[cells], at, where)
        record: dict[str, Any] = {"values": pd.DataFrame(slopes, index=fitted.genes, columns=chosen)}
        params["method"] = "mean_jacobian"
    else:
        values, change, rows = [], [], []
        for group in tqdm(chosen, disable=settings.verbosity.value == 0, leave=False):
            own = labels == group
            direction = latent[own].mean(0) - latent[~own].mean(0)
            direction /= max(np.square(direction).sum(), 1e-12)
            cells = drawn(np.flatnonzero(own), max_cells, rng)
            found = integrated_gradients(fitted.model, counts, cells, mean_cell, direction, where)
            values.append(found.attribution)
            change.append(found.change)
            rows.append((int(own.sum()), len(cells), found.attribution.sum(), found.difference))
        columns = column_names(chosen)
        record = {
            "values": pd.DataFrame(np.stack(values, 1), index=fitted.genes, columns=columns),
            "change": pd.DataFrame(np.stack(change, 1), index=fitted.genes, columns=columns),
            "groups": pd.DataFrame(rows, index=columns, columns=["n_cells", "n_used", "attributed", "state"]),
        }
        params |= {"groupby": groupby, "method": "integrated_gradients"}
    _adata.write_record(adata, name, record | {"params": params})
    logg.info("    finished", time=start, deep=f"added\n    {name!r}, the importance of genes (adata.uns)")
    return adata if copy else None


def dimension_names(n: int) -> list[str]:
    return [f"z{i}" for i in range(n)]


def drawn(cells: NDArray[np.int64], most: int, rng: int) -> NDArray[np.int64]:
    """All of the cells, or as many as are wanted of them, in order."""
    if len(cells) <= most:
        return cells
    return np.sort(np.random.default_rng(rng).choice(cells, most, replace=False))


def _groups(adata: AnnData, groupby: str) -> tuple[list[str], NDArray[np.object_]]:
    """Names of the groups that have cells, and the group of each cell (None where it has none)."""
    column = _adata.read_categories(adata, "groupby", groupby)
    names = [str(name) for name in column.cat.categories]
    if len(names) < 2 or len(set(names)) < len(names):
        msg = (
            f"obs[{groupby!r}] holds the groups {names}: two or more that differ in name are needed. "
            "Choose another column as groupby."
        )
        raise ValueError(msg)
    return names, np.array([*names, None], dtype=object)[column.cat.codes]


def _chosen(of: str | int | Sequence[str | int] | None, known: list[str], where: str) -> list[str]:
    """The names that are asked for; a number is that of a dimension."""
    if of is None:
        return known
    asked = [of] if isinstance(of, str | int | np.integer) else list(of)
    names = [f"z{name}" if where == "dimensions" and not isinstance(name, str) else str(name) for name in asked]
    unknown = [name for name in names if name not in known]
    if unknown or not names or len(set(names)) < len(names):
        msg = f"of={of!r} is not possible: {where} holds {known}. Name some of these, each once."
        raise ValueError(msg)
    return names
