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
    """Denoised surface proteins: how much of each is bound to each cell, the background taken out.

    A protein is decoded from a cell's latent state, which genes and proteins share, so it is also there for cells in
    which it was not measured: imputed, from their genes and their other proteins.
    Background and foreground are told apart by their levels: of a protein with one level (no cell has it, or all do)
    the split, and so the probability, means little.

    Parameters
    ----------
    adata
        Cells x genes, with a model in `uns[key]` that was fitted with a `protein_key`, and genes, proteins and batches
        where it was fitted on them.
    key
        Name of the stored model.
    corrected
        Decode every cell as in all batches that measured the protein (with cells of its kind, if there are such) and
        average over these, which takes out what batches do, as :func:`sc_vaenb.tl.corrected`. `False`: as in its own
        batch, and so only where that did not measure the protein.
    device
        `"auto"` takes CUDA, then MPS, then CPU; or torch's name of a device.
    copy
        Work on a copy of `adata` and return it.

    Returns
    -------
    `None`, or the copy if `copy`. Written are tables, cells x proteins, float32 (a "/" in a name becomes "|"):

    `obsm["vae_protein"]`
        Counts to expect of the foreground without the background, times its probability.
    `obsm["vae_protein_foreground"]`
        Probability that the count is more than background.

    Raises
    ------
    KeyError, TypeError, ValueError
        There is no such model, it knows no proteins, genes of it are missing, or the counts, proteins or batches are
        not what they must be. `adata` is unchanged.

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
    where = resolve_device(device)
    fitted = FittedModel.from_uns(adata, key)
    if not fitted.proteins:
        msg = f"The model in uns[{key!r}] knows no proteins. Fit one with protein_key."
        raise ValueError(msg)
    counts = read_counts(adata, key, fitted)
    measured, n_batches = np.array(fitted.proteins["measured"]), max(len(fitted.batches), 1)
    group = fitted.groups if fitted.batches else np.zeros(n_batches, np.int64)

    names = column_names(fitted.proteins["names"])
    start = logg.info(f"denoising {len(names)} proteins of {adata.n_obs:,} cells with uns[{key!r}]")
    tables = {f"{key}_protein": "what is bound", f"{key}_protein_foreground": "the probability that anything is"}
    for name in tables:
        if name in adata.obsm:
            logg.warning(f"replacing obsm[{name!r}]")
    adata = adata.copy() if copy else adata
    own = np.eye(n_batches, dtype=np.float32)[:, :, None].repeat(len(names), 2)
    as_own = foreground(fitted.model, counts, own, False, where)
    as_others = foreground(fitted.model, counts, as_measured(measured, group), True, where)
    there = measured[counts.batch_index] & (not corrected)
    for name, ours, others in zip(tables, as_own, as_others, strict=True):
        values = np.where(there, ours, others)
        _adata.write_table(adata, name, pd.DataFrame(values, index=adata.obs_names, columns=names))
    added = "".join(f"\n    {name!r}, {what} (adata.obsm)" for name, what in tables.items())
    logg.info("    finished", time=start, deep="added" + added)
    return adata if copy else None
