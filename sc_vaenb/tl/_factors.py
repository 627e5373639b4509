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

MIN_KL_ACTIVE = 0.01  # nats per cell above which a dimension is active
MAX_CATEGORIES = 50  # with more, a column is not used unless the user names it

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
    """Describe each latent dimension: its share of the variance, its genes, and its association with columns of `obs`.

    Dimensions are ordered by their share of the variance, active ones first. They keep their sign in the model, which
    is arbitrary. Fit with `decoder_hidden=()` for a linear decoder: its loadings hold for every cell, like those of
    PCA. The loadings of any other decoder are means over cells.

    Parameters
    ----------
    adata
        Cells x genes, with a model in `uns[key]` (from :func:`sc_vaenb.tl.vae` or :func:`sc_vaenb.tl.cvae`).
    key
        Name of the stored model.
    covariates
        Columns of `obs`. `None`: all columns of numbers that vary, or with 2 to 50 categories.
    n_top
        Number of genes to name for each end of a dimension.
    max_cells
        Number of cells from which loadings and shares of variance are computed, drawn at random if there are more.
    rng
        Seed of this draw.
    device
        `"auto"` takes CUDA, then MPS, then CPU; or torch's name of a device.
    copy
        Work on a copy of `adata` and return it.

    Returns
    -------
    `None`, or the copy if `copy`. Written are:

    `uns["vae_factors"]["dimensions"]`
        DataFrame, a row per dimension (`z0`, ..., as the columns of `obsm["X_vae_factors"]`). `variance`: share of the
        variance of the decoded expression (log1p of the expected counts at the mean depth, all cells decoded in the
        largest batch) that a linear function of this dimension explains; the shares overlap if dimensions are
        correlated. `kl`:
        KL divergence in nats per cell; `active`: whether `kl` is above 0.01. `sd`: standard deviation over cells. `up`,
        `down`: the genes whose decoded expression increases and decreases most from the dimension's 1 % to its 99 %
        quantile.
    `uns["vae_factors"]["loadings"]`
        DataFrame, genes x dimensions: d log(expected count) / d z, mean over cells, each in its own batch. For a linear
        decoder these are the weights (`params["loadings"]` is `"weights"`, else `"mean_jacobian"`). With the link
        `"softmax"` a constant per dimension is subtracted, because shares do not change if a constant is added to all
        genes. Like fold changes, loadings can be large for genes that are hardly expressed; `up` and `down` name genes
        whose expression changes visibly.
    `uns["vae_factors"]["association"]`
        DataFrame, a row per covariate: its `measure`, and a value for each dimension. For numbers this is Spearman's
        correlation (`spearman`), for categories the share of the dimension's variance between categories (`eta2`).
        Cells without a value are left out.
    `uns["vae_factors"]["sweep"]`
        The `genes` in `up` and `down` (dimensions x 2 `n_top`) and their `log1p` decoded expression (dimensions x genes
        x points) at the points `z` (dimensions x points) from the dimension's 1 % to its 99 % quantile. The other
        dimensions are at their mean, and cells are decoded in the largest batch.
    `obsm["X_vae_factors"]`
        The latent states described here: the encoder's means, which the decoder reads. `obsm["X_vae"]` has other
        coordinates; their loadings are in `varm["vae_loadings"]`.

    Raises
    ------
    KeyError, TypeError, ValueError
        There is no such model or column, the model cannot be read, some of its genes are missing, or the counts are not
        valid. `adata` is unchanged.

    See Also
    --------
    sc_vaenb.pl.factors : Plots the result.
    sc_vaenb.pl.latent : Plots one dimension.
    sc_vaenb.tl.importance : Genes that the model reads.

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
    torch_device = resolve_device(device)
    fitted = FittedModel.from_uns(adata, key)
    columns = _covariates(adata, covariates)
    counts = read_counts(adata, key, fitted)
    model, genes = fitted.model, np.array(fitted.genes)

    start = logg.info(f"describing the {model.config.n_latent} dimensions of uns[{key!r}]")
    adata = adata.copy() if copy else adata
    latent, kl, _ = states(model, counts, torch_device)
    cells = drawn(np.arange(len(counts)), max_cells, rng)
    largest = int(np.bincount(counts.batch_index).argmax())
    loadings = mean_jacobian(model, latent[cells], counts.batch_index[cells], range(len(kl)), torch_device)
    share = variance_explained(model, latent[cells], largest, torch_device)
    rows, z, top, log1p = [], [], [], []
    n = min(n_top, len(genes) // 2)
    for dimension in range(len(kl)):
        values, decoded = sweep(model, latent, dimension, largest, torch_device)
        gene_order = np.argsort(decoded[-1] - decoded[0], kind="stable")
        top_genes = np.concatenate([gene_order[::-1][:n], gene_order[:n]])
        rows.append([", ".join(genes[part]) for part in (top_genes[:n], top_genes[n:])])
        z.append(values)
        top.append(genes[top_genes])
        log1p.append(decoded[:, top_genes].T)

    names = dimension_names(len(kl))
    order = np.lexsort((-share, kl <= MIN_KL_ACTIVE))
    dimensions = pd.DataFrame(
        {"variance": share, "kl": kl, "active": kl > MIN_KL_ACTIVE, "sd": latent.std(0)}, index=names
    )
    dimensions[["up", "down"]] = rows
    linear = not model.config.decoder_hidden and (model.config.link != "softplus")
    record: dict[str, Any] = {
        "dimensions": dimensions.iloc[order],
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


def _covariates(adata: AnnData, requested: str | Sequence[str] | None) -> dict[str, tuple[Measure, pd.Series]]:
    """The measure of association for each column, and its values."""
    names = [requested] if isinstance(requested, str) else list(adata.obs.columns if requested is None else requested)
    covariates: dict[str, tuple[Measure, pd.Series]] = {}
    for name in names:
        _obs.check_obs_key(adata, "covariates", name)
        values = adata.obs[name]
        numeric = is_numeric_dtype(values) and not is_bool_dtype(values)
        n = n_values(values)
        if numeric:
            values = values.astype(float)
            n = n if np.isfinite(values.dropna()).all() else 0
        if n >= 2 and (requested is not None or numeric or n <= MAX_CATEGORIES):
            covariates[name] = ("spearman" if numeric else "eta2", values)
        elif requested is not None:
            msg = (
                f"obs[{name!r}] holds {n} different values that can be compared with, two or more are needed. "
                "Choose another column as covariate."
            )
            raise ValueError(msg)
    return covariates


def _association(
    latent: NDArray[np.float32], columns: dict[str, tuple[Measure, pd.Series]], names: list[str]
) -> pd.DataFrame:
    """A row per covariate: its measure, and its association with each dimension."""
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
