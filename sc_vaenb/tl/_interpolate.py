from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scanpy import logging as logg

from .. import _adata
from .._checks import checked
from .._record import FittedModel
from .._session import own_state
from ..fit.device import resolve_device
from ..inference.embed import latent_states
from ..inference.interpolate import along_cells, equal_steps, mean_expression, straight
from ..inference.transfer import nearest
from ._counts import read_counts
from ._sample import batch_code, labelled

if TYPE_CHECKING:
    from anndata import AnnData

TARGET_SUM = 1e4  # expression is in expected counts per 10,000


@own_state()
@checked
def interpolate(
    adata: AnnData,
    start: str,
    end: str,
    *,
    groupby: str | None = None,
    key: str = "vae",
    genes: Sequence[str] | None = None,
    via: Sequence[str] = (),
    path: Literal["linear", "manifold"] = "linear",
    batch: str | None = None,
    n_points: int = 50,
    n_neighbors: int = 15,
    device: str = "auto",
    key_added: str = "interpolation",
    copy: bool = False,
) -> AnnData | None:
    """Interpolate in the latent space from one cell or group to another, and decode the expression along the path.

    The path runs through the posterior means of the encoder, not through the aligned embedding in `obsm`, because the
    decoder reads posterior means. It shows what the model predicts between two states; cells need not have followed
    it. The distance of each point to the nearest cell is written too.

    The parameters are in four groups:

    - set these first: `start` to `genes`
    - for some data: `via` to `batch`
    - for experts: `n_points` to `n_neighbors`
    - how to run, and where results go: `device` to `copy`

    Parameters
    ----------
    adata
        Cells x genes, with a model in `uns[key]` (from :func:`sc_vaenb.tl.vae` or :func:`sc_vaenb.tl.cvae`).
    start, end
        Names of two cells, or with `groupby` the labels of two groups.
    groupby
        Column of `obs` with the labels. A group is represented by its mean state (linear), or by the cell nearest to
        its mean state (manifold).
    key
        Name of the stored model.
    genes
        Genes to decode. `None`: all of the model.
    via
        Further cells or groups that the path passes, in this order.
    path
        `"linear"`: straight lines, which may pass through regions without cells. `"manifold"`: from cell to cell along
        the shortest path in the graph of nearest neighbours (of at most 20,000 cells), smoothed.
    batch
        Decode as in this batch of the fit. `None`: the average over all batches of the fit.
    n_points
        Points on the path, at equal distances.
    n_neighbors
        Neighbours of each cell in the graph. With fewer, the path stays closer to the cells; with more, it can cross
        sparser regions.
    device
        `"auto"` takes CUDA, then MPS, then CPU; or torch's name of a device.
    key_added
        Where in `uns` the result goes.
    copy
        Work on a copy of `adata` and return it.

    Returns
    -------
    `None`, or the copy if `copy`. `uns["interpolation"]` holds:

    `expression`
        DataFrame, genes x points (so that any gene's name can be written to a file): expected counts per 10,000 counts
        of the model's genes, without zero inflation.
    `points`
        DataFrame, a row per point: `position` (0 at the start, 1 at the end), `nearest_cell`, and the `distance` to it.
    `states`
        Latent states, points x latent dimensions.
    `stops`
        DataFrame: `name` and `position` of the start, of each in `via`, and of the end.
    `params`
        The arguments, the `length` of the path, and `version`.

    Raises
    ------
    KeyError, TypeError, ValueError
        There is no such model, column, cell, label, gene or batch, the graph holds no path, or an argument or the
        counts are not valid. `adata` is unchanged.

    See Also
    --------
    sc_vaenb.pl.interpolation : Plots the result.
    sc_vaenb.tl.sample : Draws new cells.

    Examples
    --------
    >>> import sc_vaenb
    >>> adata = sc_vaenb.datasets.simulate()
    >>> sc_vaenb.pp.prepare(adata, batch_key="batch")
    >>> sc_vaenb.tl.cvae(adata, "batch")
    >>> sc_vaenb.tl.interpolate(adata, "type_0", "type_1", groupby="cell_type")
    >>> sc_vaenb.pl.interpolation(adata)
    """
    _adata.check_key_added(adata, key_added)
    torch_device = resolve_device(device)
    names = [str(name) for name in (start, *([via] if isinstance(via, str) else via), end)]
    masks = [_cells_of(adata, name, groupby) for name in names]
    for name, next_name in pairwise(names):
        if name == next_name:
            msg = f"{name!r} follows itself on the way, and there is nothing between. Name two that differ."
            raise ValueError(msg)
    fitted = FittedModel.from_uns(adata, key)
    codes = range(max(len(fitted.batches), 1)) if batch is None else [batch_code(fitted, batch, key)]
    gene_positions = _positions(fitted.genes, genes, key)
    counts = read_counts(adata, key, fitted, batches=fitted.model.config.encoder_needs_batch)

    start_time = logg.info(f"interpolating from {' over '.join(names[:-1])} to {end} with uns[{key!r}]")
    adata = adata.copy() if copy else adata
    states = latent_states(fitted.model, counts, torch_device)
    legs = _legs(states, masks, names, path, n_neighbors)
    points, positions, length = equal_steps(legs, n_points)
    expression = TARGET_SUM * mean_expression(fitted.model, points, codes, torch_device)[:, gene_positions]
    distance, closest = (neighbors[:, 0] for neighbors in nearest(points, states, 1))

    labels = pd.Index([str(i) for i in range(n_points)])
    point_columns = {
        "position": np.linspace(0, 1, n_points),
        "nearest_cell": adata.obs_names[closest].to_numpy(str),
        "distance": distance.astype(np.float64),
    }
    params: dict[str, Any] = {"key": key, "start": names[0], "end": names[-1], "path": path, "n_points": n_points}
    via_names = np.array(names[1:-1], dtype=object) if len(names) > 2 else None
    optional: dict[str, Any] = {"via": via_names, "groupby": groupby, "batch": batch}
    params |= {name: value for name, value in optional.items() if value is not None}
    params |= {"n_neighbors": n_neighbors} if path == "manifold" else {}
    record = {
        "expression": pd.DataFrame(
            expression.T, index=pd.Index(np.array(fitted.genes)[gene_positions]), columns=labels
        ),
        "points": pd.DataFrame(point_columns, index=labels),
        "states": points,
        "stops": pd.DataFrame({"name": names, "position": positions}),
        "params": params | {"length": length, "version": version("sc_vaenb")},
    }
    _adata.write_record(adata, key_added, record)
    logg.info(
        "    finished", time=start_time, deep=f"added\n    {key_added!r}, the path and its expression (adata.uns)"
    )
    return adata if copy else None


def _cells_of(adata: AnnData, name: str, groupby: str | None) -> NDArray[np.bool_]:
    """Mask of the cell of this name, or of the cells with this label."""
    if groupby is not None:
        return labelled(adata, "groupby", groupby, [name])
    mask = np.asarray(adata.obs_names == name)
    if not mask.any():
        msg = f"{name!r} is not in obs_names. Give the name of a cell, or with groupby a label of a column of obs."
        raise ValueError(msg)
    if mask.sum() > 1:
        msg = f"obs_names holds {name!r} {mask.sum()} times. Call adata.obs_names_make_unique() first."
        raise ValueError(msg)
    return mask


def _positions(model_genes: list[str], genes: Sequence[str] | None, key: str) -> NDArray[np.int64]:
    """Positions of the genes among those of the model."""
    if genes is None:
        return np.arange(len(model_genes))
    genes = [genes] if isinstance(genes, str) else list(genes)
    positions = pd.Index(model_genes).get_indexer(genes)
    if not genes or (positions < 0).any():
        missing = [gene for gene, position in zip(genes, positions, strict=True) if position < 0][:5]
        msg = (
            f"genes={missing} are not among the {len(model_genes)} genes of the model in uns[{key!r}]. "
            "Give some that are."
        )
        raise ValueError(msg)
    return positions


def _legs(
    states: NDArray[np.float32], masks: list[NDArray[np.bool_]], names: list[str], path: str, n_neighbors: int
) -> list[NDArray[np.float32]]:
    """The states along the path, one array for each piece from a stop to the next."""
    means = np.stack([states[mask].mean(axis=0) for mask in masks])
    if path == "linear":
        return straight(means)
    stops = [
        int(np.flatnonzero(mask)[np.square(states[mask] - mean).sum(axis=1).argmin()])
        for mask, mean in zip(masks, means, strict=True)
    ]
    legs, broken = along_cells(states, stops, n_neighbors)  # `broken`: the first leg without a path
    if broken is not None:
        msg = (
            f"no path leads from {names[broken]!r} to {names[broken + 1]!r} in the graph of {n_neighbors} nearest "
            "neighbours: there are no cells between. Raise n_neighbors, or choose path='linear'."
        )
        raise ValueError(msg)
    return legs
