from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scanpy import logging as logg

from .. import _adata
from ..fit.batches import Counts
from ..fit.device import resolve_device
from ..fit.embed import aligned
from ..fit.embed import embed as embed_cells
from ._model import load_model

if TYPE_CHECKING:
    from anndata import AnnData


def embed(
    adata: AnnData,
    key: str = "vae",
    *,
    key_added: str | None = None,
    device: str = "auto",
    copy: bool = False,
) -> AnnData | None:
    """Embed the cells again with the model stored in `uns`, without fitting.

    Counts, size factors and batches are read from where the model was fitted on them (`uns[key]["params"]`); genes
    are matched by name.

    Parameters
    ----------
    adata
        Cells x genes, with a model in `uns[key]` (from :func:`sc_vaenb.tl.vae` or :func:`sc_vaenb.tl.cvae`).
    key
        Name of the stored model.
    key_added
        Name for the embedding, `key` by default: `obsm["X_" + key_added]`.
    device
        `"auto"` takes CUDA, then MPS, then CPU; or torch's name of a device.
    copy
        Work on a copy of `adata` and return it.

    Returns
    -------
    `None`, or the copy if `copy`. Written is `obsm["X_" + key_added]`, the posterior mean of each cell's latent state,
    float32, cells x latent dimensions.

    Raises
    ------
    KeyError, TypeError, ValueError
        There is no such model, it cannot be read, genes of it are missing, or the counts are not what they must be.
        `adata` is unchanged.
    """
    name = key if key_added is None else key_added
    _adata.check_adata(adata, copy=copy)
    _adata.check_key(name)
    where = resolve_device(device)
    params = _adata.find_record(adata, key)["params"]
    stored = load_model(adata, key)
    order = _adata.locate_genes(adata, stored.genes, key)
    mask = np.zeros(adata.n_vars, dtype=bool)
    mask[order] = True
    allowed = bool(params.get("allow_non_integer", False))
    matrix = _adata.read_counts(adata, params.get("layer"), mask, allow_non_integer=allowed)
    if (np.diff(order) < 0).any():  # the genes stand in another order than in the model
        matrix = matrix[:, np.argsort(np.argsort(order))]
    size_factor = _adata.read_size_factor(adata, params.get("size_factor"), matrix) / stored.size_factor_mean
    codes = np.zeros(len(size_factor), np.int64)
    if stored.model.config.encode_batch or stored.model.alignment is not None:
        codes = _adata.batch_codes(adata, params["batch_key"], stored.batches)

    start = logg.info(f"embedding {adata.n_obs:,} cells with uns[{key!r}]")
    adata = adata.copy() if copy else adata
    counts = Counts(matrix, size_factor.astype(np.float32), codes)
    embedding = aligned(stored.model, embed_cells(stored.model, counts, where), codes, where)
    _adata.write_result(adata, name, embedding)
    logg.info("    finished", time=start, deep=f"added\n    'X_{name}', the embedding (adata.obsm)")
    return adata if copy else None
