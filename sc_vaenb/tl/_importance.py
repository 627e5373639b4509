from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scanpy import logging as logg
from scanpy import settings
from tqdm import tqdm

from .. import _adata, _obs
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
    """Find the genes that a latent dimension drives, or the genes by which the model recognises a group of cells.

    Without `groupby`: the slope of the decoder, d log(expected count of a gene) / d z of a dimension. It is the mean
    over cells; each cell is decoded in its own batch. With `groupby`: integrated gradients of the encoder
    (Sundararajan, Taly & Yan 2017, "Axiomatic attribution for deep networks") from the mean cell to the cells of a
    group. They are taken along a direction in the latent space: from the mean state of all other cells to the mean
    state of the group, scaled so that this distance is 1. The attributions of a cell add up to how far the model moves
    it along this direction. So they say which genes *this model* uses, not whether a gene differs between groups:
    redundant genes share the attribution.

    Parameters
    ----------
    adata
        Cells x genes, with a model in `uns[key]` (from :func:`sc_vaenb.tl.vae` or :func:`sc_vaenb.tl.cvae`).
    key
        Name of the stored model.
    groupby
        Column of `obs` with groups of cells. `None`: the latent dimensions. Cells with a missing value are in no group.
    of
        Which groups, or which dimensions (2 or `"z2"`). `None`: all.
    max_cells
        The mean is over at most this many cells (with `groupby`, of each group), drawn at random if there are more.
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
        Or genes x groups: the attribution. A "/" in the name of a group becomes "|", because h5ad cannot store "/".
    `change` (with `groupby`)
        DataFrame, genes x groups: log1p of the normalised counts, mean of the group's cells minus the mean cell. A
        gene with high attribution and negative change: the model recognises the group by the absence of this gene.
    `groups` (with `groupby`)
        DataFrame, a row per group: `n_cells`; `n_used`, the cells that the mean is over; `attributed`, the sum of the
        attributions; and `state`, the value that this sum should have: the distance of the group's cells from the mean
        cell along the direction.
    `params`
        The arguments, and the `method` (`mean_jacobian` or `integrated_gradients`).

    Raises
    ------
    KeyError, TypeError, ValueError
        There is no such model, group or dimension, the model cannot be read, some of its genes are missing, or the
        counts are not valid. `adata` is unchanged.

    See Also
    --------
    sc_vaenb.tl.factors : What each latent dimension is.

    References
    ----------
    .. [1] Sundararajan, Taly and Yan (2017), Axiomatic attribution for deep networks, arXiv:1703.01365.

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
    torch_device = resolve_device(device)
    fitted = FittedModel.from_uns(adata, key)
    _adata.check_key_added(adata, name)
    if groupby is None:
        names = dimension_names(fitted.model.config.n_latent)
        group_of_cell = np.empty(0, dtype=object)
    else:
        names, group_of_cell = _groups(adata, groupby)
    chosen = _chosen(of, names, "dimensions" if groupby is None else f"obs[{groupby!r}]")
    counts = read_counts(adata, key, fitted)

    start = logg.info(
        f"computing the importance of genes for {len(chosen)} {'groups' if groupby else 'dimensions'} of uns[{key!r}]"
    )
    adata = adata.copy() if copy else adata
    latent, _, mean_cell = states(fitted.model, counts, torch_device)
    params: dict[str, Any] = {"model": key, "max_cells": max_cells, "rng": rng}
    if groupby is None:
        cells = drawn(np.arange(len(counts)), max_cells, rng)
        dimensions = [names.index(name) for name in chosen]
        slopes = mean_jacobian(fitted.model, latent[cells], counts.batch_index[cells], dimensions, torch_device)
        record: dict[str, Any] = {"values": pd.DataFrame(slopes, index=fitted.genes, columns=chosen)}
        params["method"] = "mean_jacobian"
    else:
        values, change, rows = [], [], []
        for group in tqdm(chosen, disable=settings.verbosity.value == 0, leave=False):
            in_group = group_of_cell == group
            direction = latent[in_group].mean(0) - latent[~in_group].mean(0)
            direction /= max(np.square(direction).sum(), 1e-12)
            cells = drawn(np.flatnonzero(in_group), max_cells, rng)
            result = integrated_gradients(fitted.model, counts, cells, mean_cell, direction, torch_device)
            values.append(result.attribution)
            change.append(result.change)
            rows.append((int(in_group.sum()), len(cells), result.attribution.sum(), result.difference))
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


def dimension_names(n_latent: int) -> list[str]:
    return [f"z{i}" for i in range(n_latent)]


def drawn(cells: NDArray[np.int64], max_cells: int, seed: int) -> NDArray[np.int64]:
    """The cells, or a random sample of `max_cells` of them, sorted."""
    if len(cells) <= max_cells:
        return cells
    return np.sort(np.random.default_rng(seed).choice(cells, max_cells, replace=False))


def _groups(adata: AnnData, groupby: str) -> tuple[list[str], NDArray[np.object_]]:
    """Names of the groups that have cells, and the group of each cell (None for a missing value)."""
    column = _obs.read_categories(adata, "groupby", groupby)
    names = [str(name) for name in column.cat.categories]
    if len(names) < 2 or len(set(names)) < len(names):
        msg = (
            f"obs[{groupby!r}] holds the groups {names}: two or more that differ in name are needed. "
            "Choose another column as groupby."
        )
        raise ValueError(msg)
    return names, np.array([*names, None], dtype=object)[column.cat.codes]


def _chosen(of: str | int | Sequence[str | int] | None, known: list[str], source: str) -> list[str]:
    """The names of the groups or dimensions in `of`; an integer stands for a dimension."""
    if of is None:
        return known
    requested = [of] if isinstance(of, str | int | np.integer) else list(of)
    names = [f"z{name}" if source == "dimensions" and not isinstance(name, str) else str(name) for name in requested]
    unknown = [name for name in names if name not in known]
    if unknown or not names or len(set(names)) < len(names):
        msg = f"of={of!r} is not possible: {source} holds {known}. Name some of these, each once."
        raise ValueError(msg)
    return names
