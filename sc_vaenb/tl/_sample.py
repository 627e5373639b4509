from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scanpy import logging as logg

from .. import _adata
from .._checks import check_adata, checked, seed_of
from .._names import name_of, names_of, texts
from .._record import FittedModel
from .._session import own_state
from ..fit.device import resolve_device
from ..inference.sample import draw_counts, states_around, states_of_prior
from ._counts import read_counts


@own_state()
@checked
def sample(
    adata: AnnData,
    n_cells: int | None = None,
    key: str = "vae",
    *,
    source: Literal["posterior", "prior"] = "posterior",
    cells: Sequence[str] | NDArray[np.bool_] | None = None,
    groups: Mapping[str, str | Sequence[str]] | None = None,
    batch: str | None = None,
    size_factor: float | None = None,
    device: str = "auto",
    rng: int | np.random.Generator | None = 0,
) -> AnnData:
    """Draw new cells from a fitted model: whole numbers, as a sequencer would have counted them.

    A latent state is drawn and decoded as in a batch and at a size factor, and counts are drawn from the likelihood. So
    they spread as the model says that single cells do; expected counts are smoother than any cell.

    Parameters
    ----------
    adata
        Cells x genes, with a model in `uns[key]` (from :func:`sc_vaenb.tl.vae` or :func:`sc_vaenb.tl.cvae`).
    n_cells
        How many cells to draw, around cells chosen at random with replacement. `None`: one around each, in their order.
    key
        Name of the stored model.
    source
        Where latent states come from. `"posterior"`: q(z | x) of a cell of `adata`; over random cells this is the
        aggregate posterior. `"prior"`: p(z) of the model, that of each batch with `prior="conditional"`. The aggregate
        posterior is not N(0, I), the less so with `beta` below 1 (the default is 0.5), which lets states spread
        further: cells of the prior may lie between types, and their composition is not that of the data.
    cells
        Draw around these cells only: names, or a boolean per cell. Not with `source="prior"`.
    groups
        Draw around cells with these labels only: from columns of `obs` to a label or several, as in
        `{"cell_type": "B cell", "batch": ["s1", "s2"]}`; a cell must meet all, and `cells` too. Not with
        `source="prior"`.
    batch
        Decode as if in this batch of the fit. `None`: the batch of the cell drawn around; for the prior, of a random
        cell.
    size_factor
        Of all new cells, in the unit of the fit: that of its `size_factor` column, or without one, counts over the
        model's genes. `None`: that of the cell drawn around; for the prior, of a random cell (of `batch`, if given).
    device
        `"auto"` takes CUDA, then MPS, then CPU; or torch's name of a device.
    rng
        Seed. The same seed gives the same counts on the same kind of device.

    Returns
    -------
    A new AnnData, `adata` is unchanged:

    `X`
        Counts, CSR float32, whole numbers (new cells x the model's genes). A cell may be without counts where the size
        factor is small. A model with `likelihood="gaussian"` knows no counts: its values are brought back from the
        log scale and rounded, and their depth is the size factor only roughly.
    `obs`
        `source_cell` (not for the prior), the name of the cell drawn around; the batch and the size factor drawn with,
        under the names of the columns that the model was fitted with (`size_factor`, if with none).
    `uns["sample"]`
        Where they come from: `params`, the arguments with `version` (`groups` as JSON), and `fit`, the parameters of
        the model's fit.

    Raises
    ------
    KeyError, TypeError, ValueError
        There is no such model, column, label, cell or batch, or an argument or the counts are not what they must be.

    Examples
    --------
    >>> import sc_vaenb
    >>> adata = sc_vaenb.datasets.simulate()
    >>> sc_vaenb.pp.prepare(adata, batch_key="batch")
    >>> sc_vaenb.tl.cvae(adata, "batch")
    >>> new = sc_vaenb.tl.sample(adata, 500)
    >>> b = sc_vaenb.tl.sample(adata, 100, groups={"cell_type": "type_1"}, batch="batch_0", size_factor=2000)
    """
    check_adata(adata)
    rng = seed_of(rng)
    where = resolve_device(device)
    if source == "prior" and not (cells is None and groups is None):
        msg = "source='prior' draws around no cells, so cells and groups mean nothing. Leave them out."
        raise ValueError(msg)
    pool = _chosen(adata, cells, groups)
    fitted = FittedModel.from_uns(adata, key)
    code = None if batch is None else batch_code(fitted, batch, key)
    fit = deepcopy(fitted.params)
    counts = read_counts(adata, key, fitted)
    if source == "prior" and code is not None and size_factor is None:
        pool = np.flatnonzero(counts.batch_index == code)
        if not len(pool):
            msg = f"no cell of adata is in batch {batch!r}, from which to take size factors. Give size_factor."
            raise ValueError(msg)

    random = np.random.default_rng(rng)
    drawn = pool if n_cells is None else random.choice(pool, n_cells)
    start = logg.info(f"drawing {len(drawn):,} cells from the {source} of uns[{key!r}]")
    around = counts.subset(drawn)
    sizes = _adata.read_size_factor(adata, fit.get("size_factor"), counts.matrix)[drawn]
    if size_factor is not None:
        sizes = np.full(len(drawn), float(size_factor))
    codes = around.batch_index if code is None else np.full(len(drawn), code)
    state_seed, count_seed = (int(seed) for seed in random.integers(2**31, size=2))
    if source == "posterior":
        z = states_around(fitted.model, around, state_seed, where)
    else:
        z = states_of_prior(fitted.model, codes, state_seed)
    relative = (sizes / fitted.size_factor_mean).astype(np.float32)
    matrix = draw_counts(fitted.model, z, relative, codes, count_seed, where)

    obs: dict[str, Any] = {} if source == "prior" else {"source_cell": adata.obs_names[drawn].to_numpy(str)}
    if fitted.batches:
        obs[fit["batch_key"]] = pd.Categorical.from_codes(codes, fitted.batches)
    obs[fit.get("size_factor", "size_factor")] = sizes
    params = {"key": key, "source": source, "n_cells": len(drawn), "n_source_cells": len(pool), "rng": int(rng)}
    asked = None if groups is None else json.dumps({name: _listed(labels) for name, labels in groups.items()})
    given = {"groups": asked, "batch": batch, "size_factor": size_factor, "version": version("sc_vaenb")}
    params |= {name: value for name, value in given.items() if value is not None}
    names = pd.Index([f"sampled_{i}" for i in range(len(drawn))])
    new = AnnData(
        matrix,
        obs=pd.DataFrame(obs, index=names),
        var=pd.DataFrame(index=pd.Index(fitted.genes)),
        uns={"sample": {"params": params, "fit": fit}},
    )
    logg.info("    finished", time=start)
    return new


def batch_code(fitted: FittedModel, batch: str, key: str) -> int:
    """The code of a batch by its name, or an error that lists those the model knows."""
    if name_of(batch) not in fitted.batches:
        knows = f"knows {fitted.batches}. Choose one of these" if fitted.batches else "knows no batches. Leave it out"
        msg = f"batch={batch!r} is no batch of the model in uns[{key!r}], which {knows}."
        raise ValueError(msg)
    return fitted.batches.index(name_of(batch))


def _chosen(
    adata: AnnData,
    cells: Sequence[str] | NDArray[np.bool_] | None,
    groups: Mapping[str, str | Sequence[str]] | None,
) -> NDArray[np.int64]:
    """Where the cells are that have one of these names (or a True) and these labels."""
    mask = np.ones(adata.n_obs, dtype=bool)
    if cells is not None:
        mask &= _named(adata, cells)
    for column, labels in (groups or {}).items():
        mask &= labelled(adata, "groups", column, _listed(labels))
    if not mask.any():
        msg = f"no cell is in cells and has all the labels in groups={groups!r}. Ask for less at once."
        raise ValueError(msg)
    return np.flatnonzero(mask)


def _named(adata: AnnData, cells: Sequence[str] | NDArray[np.bool_]) -> NDArray[np.bool_]:
    asked = np.asarray(_listed(cells) if isinstance(cells, str) else cells)
    if asked.dtype == bool and asked.shape == (adata.n_obs,):
        return asked
    if asked.ndim != 1 or not all(isinstance(name, str) for name in asked):
        msg = (
            f"cells has dtype {asked.dtype} and shape {asked.shape}; give names of cells, or {adata.n_obs} booleans, "
            "one per cell."
        )
        raise ValueError(msg)
    unknown = [str(name) for name in asked if name not in adata.obs_names]
    if unknown:
        msg = f"{len(unknown)} of cells are not in obs_names (first: {unknown[0]!r}). Give names that are."
        raise ValueError(msg)
    return adata.obs_names.isin(asked)


def labelled(adata: AnnData, name: str, column: str, labels: Sequence[str]) -> NDArray[np.bool_]:
    """Which cells have one of these labels in a column of obs; refuses a label that no cell has."""
    _adata.check_obs_key(adata, name, column)
    found = pd.Series(texts(adata.obs[column]), dtype=object)
    unknown = [label for label in labels if not (found == label).any()]
    if unknown:
        there = sorted(found.dropna().unique())
        msg = f"no cell has the label {unknown[0]!r} in obs[{column!r}], which holds {there[:20]}. Choose one of these."
        raise ValueError(msg)
    return found.isin(labels).to_numpy()


def _listed(labels: str | Sequence[str]) -> list[str]:
    """One label or several, as text: clusters are often numbers."""
    several = isinstance(labels, Sequence | np.ndarray) and not isinstance(labels, str)
    return names_of(labels if several else [labels])
