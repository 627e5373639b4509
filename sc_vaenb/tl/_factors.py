from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api.types import is_bool_dtype, is_numeric_dtype
from scanpy import logging as logg
from scipy.stats import rankdata

from .. import _adata, _obs
from .._checks import checked, seed_of
from .._names import n_values
from .._record import FittedModel
from .._session import own_state
from ..fit.device import resolve_device
from ..inference.importance import mean_jacobian, states, sweep, variance_explained
from ..metrics import variance_explained as between_groups
from ._counts import read_counts
from ._importance import dimension_names, drawn

if TYPE_CHECKING:
    from anndata import AnnData

ACTIVE = 0.01  # nats of KL per cell
MANY = 50  # categories of a column that nobody named

Measure = Literal["spearman", "eta2"]


@own_state()
@checked
def factors(
    adata: AnnData,
    key: str = "vae",
    *,
    covariates: str | Sequence[str] | None = None,
    n_top: int = 5,
    max_cells: int = 1_000,
    rng: int | np.random.Generator | None = 0,
    device: str = "auto",
    copy: bool = False,
) -> AnnData | None:
    """Say what each latent dimension is: its share of the variance, its genes, and what it goes with in `obs`.

    Dimensions are ordered by the share of variance, active ones first, and keep the sign that they have in the model,
    which is arbitrary. Fit with `decoder_hidden=()` for a linear decoder: its loadings hold for every cell, as those of
    PCA do, whereas those of any other decoder are means over cells.

    Parameters
    ----------
    adata
        Cells x genes, with a model in `uns[key]` (from :func:`sc_vaenb.tl.vae` or :func:`sc_vaenb.tl.cvae`).
    key
        Name of the stored model.
    covariates
        Columns of `obs`. `None`: all with numbers that vary, or with 2 to 50 categories.
    n_top
        How many genes to name for each end of a dimension.
    max_cells
        Loadings and the variance to be shared are taken over so many cells, drawn at random where there are more.
    rng
        Seed of the draw.
    device
        `"auto"` takes CUDA, then MPS, then CPU; or torch's name of a device.
    copy
        Work on a copy of `adata` and return it.

    Returns
    -------
    `None`, or the copy if `copy`. Written are:

    `uns["vae_factors"]["dimensions"]`
        DataFrame, a row per dimension (`z0`, ..., as the columns of `obsm["X_vae"]`). `variance`: share of the variance
        of the decoded expression (log1p of the expected counts at the mean depth, all cells as in the largest batch)
        that a straight line in this dimension explains; the shares overlap where dimensions are correlated. `kl`: nats
        per cell that the encoder spends on it; `active`: above 0.01. `sd`: over cells. `up`, `down`: the genes whose
        decoded expression rises and falls most from its 1 % to its 99 % quantile.
    `uns["vae_factors"]["loadings"]`
        DataFrame, genes x dimensions: d log(expected count) / d z, mean over cells, each in its own batch. Of a linear
        decoder these are the weights (`params["loadings"]` is `"weights"`, else `"mean_jacobian"`); with the link
        `"softmax"` less a constant per dimension, since shares stay the same if a constant is added to all genes.
        Large also for genes that are hardly expressed, as folds are: `up` and `down` name those that show.
    `uns["vae_factors"]["association"]`
        DataFrame, a row per covariate: its `measure`, and for each dimension Spearman's correlation (`spearman`, of
        numbers), or the share of the dimension's variance between the categories (`eta2`). Cells without a value are
        left out.
    `uns["vae_factors"]["sweep"]`
        The `genes` in `up` and `down` (dimensions x 2 `n_top`) and their `log1p` decoded expression (dimensions x genes
        x points) at the points `z` (dimensions x points) from the dimension's 1 % to its 99 % quantile, the others at
        their mean, as in the largest batch.
    `obsm["X_vae_factors"]`
        The states that all this is about, columns as in `obsm["X_vae"]`: the encoder's means, before any alignment.

    Raises
    ------
    KeyError, TypeError, ValueError
        There is no such model or column, the model cannot be read, genes of it are missing, or the counts are not what
        they must be. `adata` is unchanged.

    Examples
    --------
    >>> import sc_vaenb
    >>> adata = sc_vaenb.datasets.simulate()
    >>> sc_vaenb.pp.prepare(adata, batch_key="batch")
    >>> sc_vaenb.tl.cvae(adata, "batch", decoder_hidden=())
    >>> sc_vaenb.tl.factors(adata)
    >>> adata.uns["vae_factors"]["loadings"]["z0"].nlargest(10)
    """
    rng = seed_of(rng)
    where = resolve_device(device)
    fitted = FittedModel.from_uns(adata, key)
    columns = _covariates(adata, covariates)
    counts = read_counts(adata, key, fitted)
    model, genes = fitted.model, np.array(fitted.genes)

    start = logg.info(f"describing the {model.config.n_latent} dimensions of uns[{key!r}]")
    adata = adata.copy() if copy else adata
    latent, kl, _ = states(model, counts, where)
    cells = drawn(np.arange(len(counts)), max_cells, rng)
    largest = int(np.bincount(counts.batch_index).argmax())
    loadings = mean_jacobian(model, latent[cells], counts.batch_index[cells], range(len(kl)), where)
    share = variance_explained(model, latent[cells], largest, where)
    rows, z, top, log1p = [], [], [], []
    n = min(n_top, len(genes) // 2)
    for dimension in range(len(kl)):
        values, decoded = sweep(model, latent, dimension, largest, where)
        ends = np.argsort(decoded[-1] - decoded[0], kind="stable")
        named = np.concatenate([ends[::-1][:n], ends[:n]])
        rows.append([", ".join(genes[part]) for part in (named[:n], named[n:])])
        z.append(values)
        top.append(genes[named])
        log1p.append(decoded[:, named].T)

    names = dimension_names(len(kl))
    order = np.lexsort((-share, kl <= ACTIVE))
    about = pd.DataFrame({"variance": share, "kl": kl, "active": kl > ACTIVE, "sd": latent.std(0)}, index=names)
    about[["up", "down"]] = rows
    linear = not model.config.decoder_hidden and (model.config.link != "softplus")
    record: dict[str, Any] = {
        "dimensions": about.iloc[order],
        "loadings": pd.DataFrame(loadings, index=fitted.genes, columns=names).iloc[:, order],
        "association": _association(latent, columns, names).iloc[:, [0, *(order + 1)]],
        "sweep": {
            "z": np.stack(z)[order],
            "genes": np.stack(top)[order].astype(object),
            "log1p": np.stack(log1p)[order],
        },
        "params": {
            "loadings": "weights" if linear else "mean_jacobian",
            "n_top": n_top,
            "max_cells": max_cells,
            "rng": rng,
        },
    }
    if fitted.batches:
        record["params"]["batch"] = fitted.batches[largest]
    _adata.write_result(adata, f"{key}_factors", latent, record)
    added = f"added\n    '{key}_factors', the dimensions (adata.uns)\n    'X_{key}_factors', the states (adata.obsm)"
    logg.info("    finished", time=start, deep=added)
    return adata if copy else None


def _covariates(adata: AnnData, asked: str | Sequence[str] | None) -> dict[str, tuple[Measure, pd.Series]]:
    """What each column is compared by, and its values."""
    names = list(adata.obs.columns) if asked is None else [asked] if isinstance(asked, str) else list(asked)
    found: dict[str, tuple[Measure, pd.Series]] = {}
    for name in names:
        _obs.check_obs_key(adata, "covariates", name)
        values = adata.obs[name]
        numeric = is_numeric_dtype(values) and not is_bool_dtype(values)
        n = n_values(values)
        if numeric:
            values = values.astype(float)
            n = n if np.isfinite(values.dropna()).all() else 0
        if n >= 2 and (asked is not None or numeric or n <= MANY):
            found[name] = ("spearman" if numeric else "eta2", values)
        elif asked is not None:
            msg = (
                f"obs[{name!r}] holds {n} different values that can be compared with, two or more are needed. "
                "Choose another column as covariate."
            )
            raise ValueError(msg)
    return found


def _association(
    latent: NDArray[np.float32], columns: dict[str, tuple[Measure, pd.Series]], names: list[str]
) -> pd.DataFrame:
    """Covariates x (measure, dimensions)."""
    rows = []
    for measure, values in columns.values():
        known = values.notna().to_numpy()
        state = latent[known]
        if measure == "spearman":
            ranks = np.column_stack([rankdata(state, axis=0), rankdata(values[known])])
            centred = ranks - ranks.mean(0)
            unit = centred / np.maximum(np.linalg.norm(centred, axis=0), 1e-12)
            numbers = unit[:, :-1].T @ unit[:, -1]
        else:
            labels = values[known].astype(str).to_numpy()
            numbers = np.array([between_groups(column[:, None], labels) for column in state.T])
        rows.append([measure, *numbers])
    return pd.DataFrame(rows, index=pd.Index(columns, dtype=object), columns=["measure", *names])
