from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scanpy import logging as logg

from .. import _adata
from .._checks import checked
from .._names import column_names
from .._record import FittedModel
from .._session import own_state
from ..fit.device import resolve_device
from ..inference.denoised_protein import as_measured, foreground
from ._counts import read_counts

if TYPE_CHECKING:
    from anndata import AnnData


@own_state()
@checked
def denoised_protein(
    adata: AnnData,
    key: str = "vae",
    *,
    corrected: bool = False,
    device: str = "auto",
    copy: bool = False,
) -> AnnData | None:
    """Denoised surface proteins: how much of each protein is bound to each cell, without the background.

    A protein is decoded from the latent state of a cell, which genes and proteins share. So it is also imputed for
    cells in which it was not measured, from their genes and their other proteins. Background and foreground are
    separated by their levels. If a protein has one level only (no cell has it, or all cells have it), the separation
    means little, and so do the probability of the foreground and the counts of bound protein.

    Parameters
    ----------
    adata
        Cells x genes, with a model in `uns[key]` that was fitted with a `protein_key`, and with genes, proteins and
        batches in the same places as in the fit.
    key
        Name of the stored model.
    corrected
        Decode every cell in all batches that measured the protein (those with cells of its kind, if there are any) and
        average over them. This removes batch effects, as in :func:`sc_vaenb.tl.corrected`. `False`: decode every cell
        in its own batch, and average over others only if its batch did not measure the protein.
    device
        `"auto"` takes CUDA, then MPS, then CPU; or torch's name of a device.
    copy
        Work on a copy of `adata` and return it.

    Returns
    -------
    `None`, or the copy if `copy`. These tables are written, cells x proteins, float32 (a "/" in a name becomes "|"):

    `obsm["vae_protein"]`
        Expected counts of the foreground, without the background, times the probability of the foreground.
    `obsm["vae_protein_foreground"]`
        Probability that the count is more than background.

    Raises
    ------
    KeyError, TypeError, ValueError
        There is no such model, it knows no proteins, some of its genes are missing, or the counts, proteins or batches
        are not valid. `adata` is unchanged.

    See Also
    --------
    sc_vaenb.tl.normalized : The same for genes.
    sc_vaenb.tl.cvae : Fits the model; see `protein_key` there.

    References
    ----------
    .. [1] Gayoso et al. (2021), Joint probabilistic modeling of single-cell multi-omic data with totalVI, Nature
       Methods 18:272-282.

    Examples
    --------
    >>> import numpy as np, sc_vaenb
    >>> adata = sc_vaenb.datasets.simulate()
    >>> sc_vaenb.pp.prepare(adata, batch_key="batch")
    >>> bound = 200 * (adata.obs["cell_type"] == "type_0").to_numpy()
    >>> adata.obsm["protein_counts"] = np.random.default_rng(0).poisson(10 + bound)[:, None]
    >>> sc_vaenb.tl.cvae(adata, "batch", protein_key="protein_counts")
    >>> sc_vaenb.tl.denoised_protein(adata)
    >>> adata.obsm["vae_protein"]["protein_0"].groupby(adata.obs["cell_type"], observed=True).mean()
    """
    torch_device = resolve_device(device)
    fitted = FittedModel.from_uns(adata, key)
    if not fitted.proteins:
        msg = f"The model in uns[{key!r}] knows no proteins. Fit one with protein_key."
        raise ValueError(msg)
    counts = read_counts(adata, key, fitted)
    measured, n_batches = np.array(fitted.proteins["measured"]), max(len(fitted.batches), 1)
    group = fitted.groups if fitted.batches else np.zeros(n_batches, np.int64)

    names = column_names(fitted.proteins["names"])
    start = logg.info(f"denoising {len(names)} proteins of {adata.n_obs:,} cells with uns[{key!r}]")
    tables = {
        f"{key}_protein": "counts of bound protein",
        f"{key}_protein_foreground": "the probability that a count is more than background",
    }
    for name in tables:
        if name in adata.obsm:
            logg.warning(f"replacing obsm[{name!r}]")
    adata = adata.copy() if copy else adata
    own_weight = np.eye(n_batches, dtype=np.float32)[:, :, None].repeat(len(names), 2)
    in_own_batch = foreground(fitted.model, counts, own_weight, False, torch_device)
    in_measured_batches = foreground(fitted.model, counts, as_measured(measured, group), True, torch_device)
    use_own_batch = measured[counts.batch_index] & (not corrected)
    for name, own, averaged in zip(tables, in_own_batch, in_measured_batches, strict=True):
        values = np.where(use_own_batch, own, averaged)
        _adata.write_table(adata, name, pd.DataFrame(values, index=adata.obs_names, columns=names))
    added = "".join(f"\n    {name!r}, {content} (adata.obsm)" for name, content in tables.items())
    logg.info("    finished", time=start, deep="added" + added)
    return adata if copy else None
