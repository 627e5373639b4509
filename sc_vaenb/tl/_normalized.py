from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .._checks import checked
from .._session import own_state
from ..inference.normalized import own_batch
from ._express import describe, express

if TYPE_CHECKING:
    from anndata import AnnData


@own_state()
@checked
@describe
def normalized(
    adata: AnnData,
    key: str = "vae",
    *,
    genes: Sequence[str] | None = None,
    target_sum: float = 1e4,
    n_samples: int = 0,
    threshold: float | None = None,
    key_added: str = "normalized",
    device: str = "auto",
    rng: int | np.random.Generator | None = 0,
    copy: bool = False,
) -> AnnData | None:
    """Denoised expression: the expected expression of each gene in each cell, at the same depth for all cells.

    Each cell is encoded and decoded in its own batch, so batch effects are kept; :func:`sc_vaenb.tl.corrected` removes
    them. Values are not logarithms: apply `sc.pp.log1p` to the layer if you need these. Values vary less than the
    counts of cells, so a test for differential expression on them gives too many false positives.

    Parameters
    ----------
    adata
        Cells x genes, with a model in `uns[key]` (from :func:`sc_vaenb.tl.vae` or :func:`sc_vaenb.tl.cvae`), and the
        counts and batches in the same layer and column as in the fit.
    key
        Name of the stored model.
    {genes}
    target_sum
        Sum over the genes of the model, in every cell.
    n_samples
        Number of samples of each cell's posterior to average over. 0 decodes the posterior mean, which is fast and
        close to this average.
    {threshold}
    key_added
        Name of the layer, or of the table in `obsm`.
    {rest}
    copy
        Work on a copy of `adata` and return it.

    Returns
    -------
    `None`, or the copy if `copy`. Written is one of

    `layers["normalized"]`
        float32, cells x genes, dense, or CSR with a `threshold`.
    `obsm["normalized"]`
        With `genes`: a table, cells x these genes, float32.

    Raises
    ------
    {raises}

    See Also
    --------
    sc_vaenb.tl.corrected : The same without batch effects.
    sc_vaenb.tl.denoised_protein : The same for surface proteins.

    References
    ----------
    .. [1] Lopez et al. (2018), Deep generative modeling for single-cell transcriptomics, Nature Methods 15:1053-1058.

    Examples
    --------
    >>> import sc_vaenb
    >>> adata = sc_vaenb.datasets.simulate()
    >>> sc_vaenb.pp.prepare(adata, batch_key="batch")
    >>> sc_vaenb.tl.cvae(adata, "batch")
    >>> sc_vaenb.tl.normalized(adata)
    >>> sc_vaenb.tl.normalized(adata, genes=["gene_0", "gene_1"])
    """
    return express(
        adata,
        key,
        what="denoised expression",
        key_added=key_added,
        decode_in=lambda fitted, _: own_batch(len(fitted.batches)),
        genes=genes,
        target_sum=target_sum,
        n_samples=n_samples,
        threshold=threshold,
        device=device,
        rng=rng,
        copy=copy,
    )
