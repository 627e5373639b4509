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

from .. import _adata, _obs
from .._anndata_checks import check_adata
from .._checks import checked, seed_of
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
    """Draw new cells from a fitted model: integer counts, like those of a sequencer.

    A latent state is drawn and decoded in a batch and at a size factor. Then counts are drawn from the likelihood. So
    the counts vary as the model says that single cells vary; expected counts are smoother than real cells.

    Parameters
    ----------
    adata
        Cells x genes, with a model in `uns[key]` (from :func:`sc_vaenb.tl.vae` or :func:`sc_vaenb.tl.cvae`).
    n_cells
        How many cells to draw, each around a cell chosen at random with replacement. `None`: one around each cell, in
        the order of the cells.
    key
        Name of the stored model.
    source
        Distribution of the latent states. `"posterior"`: q(z | x) of a cell of `adata`; over random cells this is the
        aggregate posterior. `"prior"`: p(z) of the model, or p(z) of each batch with `prior="conditional"`. The
        aggregate posterior differs from N(0, I), more so with `beta` below 1 (the default is 0.5), which lets states
        spread further. So cells drawn from the prior may lie between types, and their composition differs from that of
        the data.
    cells
        Draw around these cells only: names, or one boolean per cell. Not with `source="prior"`.
    groups
        Draw around cells with these labels only: a dict from columns of `obs` to one label or several, as in
        `{"cell_type": "B cell", "batch": ["s1", "s2"]}`. A cell must meet all of these, and `cells` too. Not with
        `source="prior"`.
    batch
        Decode as in this batch of the fit. `None`: the batch of the source cell; for the prior, the batch of a random
        cell.
    size_factor
        Size factor of all new cells, in the unit of the fit: the unit of its `size_factor` column, or without one,
        counts over the model's genes. `None`: the size factor of the source cell; for the prior, of a random cell (of
        `batch`, if given).
    device
        `"auto"` takes CUDA, then MPS, then CPU; or torch's name of a device.
    rng
        Seed. The same seed gives the same counts on the same kind of device.

    Returns
    -------
    A new AnnData; `adata` is unchanged:

    `X`
        Counts, CSR float32, integers (new cells x the model's genes). A cell may have no counts if the size factor is
        small. A model with `likelihood="gaussian"` is not a model of counts: its values are transformed back from the
        log scale and rounded, and their depth only roughly equals the size factor.
    `obs`
        `source_cell` (not for the prior), the name of the cell that the new cell was drawn around; the batch and the
        size factor that were used, under the names of the columns that the model was fitted with (`size_factor`, if
        there was none).
    `uns["sample"]`
        How the cells were drawn: `params`, the arguments with `version` (`groups` as JSON), and `fit`, the parameters
        of the model's fit.

    Raises
    ------
    KeyError, TypeError, ValueError
        There is no such model, column, label, cell or batch, or an argument or the counts are not valid.

    See Also
    --------
    sc_vaenb.tl.interpolate : Expression between groups of cells.
    sc_vaenb.tl.posterior_check : Do simulated cells look like the data?

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
    torch_device = resolve_device(device)
    if source == "prior" and not (cells is None and groups is None):
        msg = "source='prior' draws around no cells, so cells and groups have no effect. Leave them out."
        raise ValueError(msg)
    source_cells = _source_cells(adata, cells, groups)
    fitted = FittedModel.from_uns(adata, key)
    code = None if batch is None else batch_code(fitted, batch, key)
    params_of_fit = deepcopy(fitted.params)
    counts = read_counts(adata, key, fitted)
    if source == "prior" and code is not None and size_factor is None:
        source_cells = np.flatnonzero(counts.batch_index == code)
        if not len(source_cells):
            msg = f"no cell of adata is in batch {batch!r}, from which to take size factors. Give size_factor."
            raise ValueError(msg)

    generator = np.random.default_rng(rng)
    drawn = source_cells if n_cells is None else generator.choice(source_cells, n_cells)
    start = logg.info(f"drawing {len(drawn):,} cells from the {source} of uns[{key!r}]")
    source_counts = counts.subset(drawn)
    size_factors = _adata.read_size_factor(adata, params_of_fit.get("size_factor"), counts.matrix)[drawn]
    if size_factor is not None:
        size_factors = np.full(len(drawn), float(size_factor))
    codes = source_counts.batch_index if code is None else np.full(len(drawn), code)
    state_seed, count_seed = (int(seed) for seed in generator.integers(2**31, size=2))
    if source == "posterior":
        z = states_around(fitted.model, source_counts, state_seed, torch_device)
    else:
        z = states_of_prior(fitted.model, codes, state_seed)
    relative = (size_factors / fitted.size_factor_mean).astype(np.float32)
    matrix = draw_counts(fitted.model, z, relative, codes, count_seed, torch_device)

    obs: dict[str, Any] = {} if source == "prior" else {"source_cell": adata.obs_names[drawn].to_numpy(str)}
    if fitted.batches:
        obs |= _obs.batch_columns(params_of_fit["batch_key"], codes, fitted.batches)
    obs[params_of_fit.get("size_factor", "size_factor")] = size_factors
    params = {"key": key, "source": source, "n_cells": len(drawn), "n_source_cells": len(source_cells), "rng": int(rng)}
    groups_json = None if groups is None else json.dumps({name: _as_names(labels) for name, labels in groups.items()})
    optional = {"groups": groups_json, "batch": batch, "size_factor": size_factor, "version": version("sc_vaenb")}
    params |= {name: value for name, value in optional.items() if value is not None}
    names = pd.Index([f"sampled_{i}" for i in range(len(drawn))])
    new = AnnData(
        matrix,
        obs=pd.DataFrame(obs, index=names),
        var=pd.DataFrame(index=pd.Index(fitted.genes)),
        uns={"sample": {"params": params, "fit": params_of_fit}},
    )
    logg.info("    finished", time=start)
    return new


def batch_code(fitted: FittedModel, batch: str, key: str) -> int:
    """The code of a batch by its name; an error that lists the known batches if the model does not know it."""
    if name_of(batch) not in fitted.batches:
        knows = f"knows {fitted.batches}. Choose one of these" if fitted.batches else "knows no batches. Leave it out"
        msg = f"batch={batch!r} is no batch of the model in uns[{key!r}], which {knows}."
        raise ValueError(msg)
    return fitted.batches.index(name_of(batch))


def _source_cells(
    adata: AnnData,
    cells: Sequence[str] | NDArray[np.bool_] | None,
    groups: Mapping[str, str | Sequence[str]] | None,
) -> NDArray[np.int64]:
    """Positions of the cells with one of these names (or True) and with these labels."""
    mask = np.ones(adata.n_obs, dtype=bool)
    if cells is not None:
        mask &= _cell_mask(adata, cells)
    for column, labels in (groups or {}).items():
        mask &= labelled(adata, "groups", column, _as_names(labels))
    if not mask.any():
        msg = f"no cell is in cells and has all the labels in groups={groups!r}. Use fewer conditions."
        raise ValueError(msg)
    return np.flatnonzero(mask)


def _cell_mask(adata: AnnData, cells: Sequence[str] | NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mask of the cells with these names; a mask is returned as it is."""
    names = np.asarray(_as_names(cells) if isinstance(cells, str) else cells)
    if names.dtype == bool and names.shape == (adata.n_obs,):
        return names
    if names.ndim != 1 or not all(isinstance(name, str) for name in names):
        msg = (
            f"cells has dtype {names.dtype} and shape {names.shape}; give names of cells, or {adata.n_obs} booleans, "
            "one per cell."
        )
        raise ValueError(msg)
    unknown = [str(name) for name in names if name not in adata.obs_names]
    if unknown:
        msg = f"{len(unknown)} of cells are not in obs_names (first: {unknown[0]!r}). Give names that are."
        raise ValueError(msg)
    return adata.obs_names.isin(names)


def labelled(adata: AnnData, name: str, column: str, labels: Sequence[str]) -> NDArray[np.bool_]:
    """Mask of the cells with one of these labels in a column of `obs`; an error if one of the labels is on no cell."""
    _obs.check_obs_key(adata, name, column)
    label_of_cell = pd.Series(texts(adata.obs[column]), dtype=object)
    unknown = [label for label in labels if not (label_of_cell == label).any()]
    if unknown:
        known = sorted(label_of_cell.dropna().unique())
        msg = f"no cell has the label {unknown[0]!r} in obs[{column!r}], which holds {known[:20]}. Choose one of these."
        raise ValueError(msg)
    return label_of_cell.isin(labels).to_numpy()


def _as_names(labels: str | Sequence[str]) -> list[str]:
    """One label or several as a list of strings, because clusters are often numbers."""
    is_sequence = isinstance(labels, Sequence | np.ndarray) and not isinstance(labels, str)
    return names_of(labels if is_sequence else [labels])
