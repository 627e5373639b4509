from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .._checks import checked
from .._session import own_state
from ..inference.normalized import AsIn, as_in_all, as_in_one
from ._express import describe, express
from ._sample import batch_code

if TYPE_CHECKING:
    from anndata import AnnData

    from .._record import FittedModel
    from ..data.counts import Counts


@own_state()
@checked
@describe
def corrected(
    adata: AnnData,
    key: str = "vae",
    *,
    batch: str | None = None,
    counts: bool = False,
    genes: Sequence[str] | None = None,
    target_sum: float = 1e4,
    n_samples: int = 0,
    threshold: float | None = None,
    key_added: str | None = None,
    device: str = "auto",
    rng: int | np.random.Generator | None = 0,
    copy: bool = False,
) -> AnnData | None:
    """Expression without batch effects: denoised as if every cell came from one batch, or from all alike.

    Each cell is encoded in its own batch, its latent state aligned as that in the embedding is (`align` of
    :func:`sc_vaenb.tl.cvae`), and decoded in others, where :func:`sc_vaenb.tl.normalized` decodes it in its own.

    Where batches fell into groups without a kind of cell in common (`uns[key]["overlap"]`), nothing says what a cell
    would be in a batch of another group, so batches are averaged within each group, and what tells the groups apart
    stays in.

    Parameters
    ----------
    adata
        Cells x genes, with a model in `uns[key]` from :func:`sc_vaenb.tl.cvae`, and the counts and batches where the
        model was fitted on them.
    key
        Name of the stored model.
    batch
        Name of the batch that all cells are to come from. `None`: the mean over all batches (of a cell's group).
    counts
        Write counts instead, drawn from the likelihood at each cell's own size factor, sparse, for methods that need
        counts. With `batch=None` each count is drawn as in one of the batches at random, so that their mean is right.
        `target_sum` is not used.
    {genes}
    target_sum
        What the genes of the model sum to in every cell.
    n_samples
        Average over so many samples of each cell's posterior; 0 decodes its mean, which is fast and close to it. With
        `counts`, 1 draws from a sample of the posterior, so that the counts also vary as the cell's state is unsure.
    {threshold}
    key_added
        Name of the layer, or of the table in `obsm`. `None`: `"corrected"`, or `"corrected_counts"`.
    {rest}
    copy
        Work on a copy of `adata` and return it.

    Returns
    -------
    `None`, or the copy if `copy`. Written is one of

    `layers["corrected"]`
        float32, cells x genes, dense, or CSR with a `threshold`.
    `layers["corrected_counts"]`
        With `counts`: whole numbers, float32, CSR.
    `obsm["corrected"]`, `obsm["corrected_counts"]`
        With `genes`: a table, cells x these genes, float32.

    Raises
    ------
    {raises}

    Examples
    --------
    >>> import sc_vaenb
    >>> adata = sc_vaenb.datasets.simulate()
    >>> sc_vaenb.pp.prepare(adata, batch_key="batch")
    >>> sc_vaenb.tl.cvae(adata, "batch")
    >>> sc_vaenb.tl.corrected(adata)
    >>> sc_vaenb.tl.corrected(adata, batch="batch_0", counts=True)
    """

    def decode_in(fitted: FittedModel, cells: Counts) -> AsIn:
        if not fitted.batches:
            msg = (
                f"The model in uns[{key!r}] knows no batches, so there is nothing to correct. Fit one with "
                "sc_vaenb.tl.cvae(adata, batch_key), or use sc_vaenb.tl.normalized(adata)."
            )
            raise ValueError(msg)
        group = fitted.groups
        if batch is None:
            return as_in_all(group)
        target = batch_code(fitted, batch, key)
        other = np.flatnonzero(group[cells.batch_index] != group[target])
        if len(other):
            own = fitted.batches[cells.batch_index[other[0]]]
            like = [name for name, its in zip(fitted.batches, group, strict=True) if its == group[target]]
            msg = (
                f"{len(other)} cells (first: {str(adata.obs_names[other[0]])!r}, of batch {own!r}) are not of a kind "
                f"that batch={batch!r} holds, so the model cannot say what they would be in it "
                f"(uns[{key!r}]['overlap']). Pass batch=None, or an AnnData with cells of {like} alone."
            )
            raise ValueError(msg)
        return as_in_one(len(fitted.batches), target)

    if counts and n_samples > 1:
        msg = f"n_samples={n_samples} is not possible with counts=True, which draws from one state. Give 0 or 1."
        raise ValueError(msg)
    name = "corrected_counts" if counts else "corrected"
    return express(
        adata,
        key,
        what="corrected counts" if counts else "corrected expression",
        key_added=name if key_added is None else key_added,
        decode_in=decode_in,
        genes=genes,
        target_sum=target_sum,
        n_samples=n_samples,
        threshold=threshold,
        device=device,
        rng=rng,
        copy=copy,
        counts=counts,
    )
