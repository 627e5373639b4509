from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .._checks import checked
from .._session import own_state
from ..inference.normalized import TargetBatches, all_batches_of_group, one_batch
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
    """Denoised expression without batch effects: as if every cell came from one batch, or averaged over all batches.

    Each cell is encoded in its own batch. Its latent state is aligned as in the embedding (`align` of
    :func:`sc_vaenb.tl.cvae`) and decoded in other batches. (:func:`sc_vaenb.tl.normalized` decodes it in its own
    batch.)

    If the batches form groups without a kind of cell in common (`uns[key]["overlap"]`), the data do not show how a cell
    would look in a batch of another group. Then batches are averaged within each group, and differences between the
    groups are kept.

    The parameters are in three groups:

    - set these first: `key` to `genes`
    - for experts: `target_sum` to `threshold`
    - how to run, and where results go: `key_added` to `copy`

    Parameters
    ----------
    adata
        Cells x genes, with a model in `uns[key]` from :func:`sc_vaenb.tl.cvae`, and with the counts and batches in the
        same places as in the fit.
    key
        Name of the stored model.
    batch
        Name of the batch in which all cells are decoded. `None`: the mean over all batches (of a cell's group).
    counts
        Write counts instead, as a sparse matrix, for methods that need counts. They are drawn from the likelihood with
        the size factor of each cell. With `batch=None` each count is drawn in a random batch, so that the mean of the
        counts is the mean over batches. `target_sum` is not used.
    {genes}
    target_sum
        Sum over the genes of the model in every cell.
    n_samples
        Number of samples of each cell's posterior over which to average; 0 decodes the posterior mean, which is fast
        and close to that average. With `counts`, 1 draws from a sample of the posterior, so that the counts also vary
        with the uncertainty of the latent state.
    {threshold}
    key_added
        Name of the layer, or of the table in `obsm`. `None`: `"corrected"`, or `"corrected_counts"`.
    {rest}
    copy
        Work on a copy of `adata` and return it.

    Returns
    -------
    `None`, or the copy if `copy`. One of these is written:

    `layers["corrected"]`
        float32, cells x genes, dense, or CSR with a `threshold`.
    `layers["corrected_counts"]`
        With `counts`: whole numbers, float32, CSR.
    `obsm["corrected"]`, `obsm["corrected_counts"]`
        With `genes`: a table, cells x these genes, float32.

    Raises
    ------
    {raises}

    See Also
    --------
    sc_vaenb.tl.normalized : Each cell in its own batch.
    sc_vaenb.tl.differential : Differences between groups; do not test corrected values.

    Examples
    --------
    >>> import sc_vaenb
    >>> adata = sc_vaenb.datasets.simulate()
    >>> sc_vaenb.pp.prepare(adata, batch_key="batch")
    >>> sc_vaenb.tl.cvae(adata, "batch")
    >>> sc_vaenb.tl.corrected(adata)
    >>> sc_vaenb.tl.corrected(adata, batch="batch_0", counts=True)
    """

    def decode_in(fitted: FittedModel, cells: Counts) -> TargetBatches:
        if not fitted.batches:
            msg = (
                f"The model in uns[{key!r}] knows no batches, so there is nothing to correct. Fit one with "
                "sc_vaenb.tl.cvae(adata, batch_key), or use sc_vaenb.tl.normalized(adata)."
            )
            raise ValueError(msg)
        group = fitted.groups
        if batch is None:
            return all_batches_of_group(group)
        target = batch_code(fitted, batch, key)
        other = np.flatnonzero(group[cells.batch_index] != group[target])
        if len(other):
            first_batch = fitted.batches[cells.batch_index[other[0]]]
            same_group = [name for name, code in zip(fitted.batches, group, strict=True) if code == group[target]]
            first = str(adata.obs_names[other[0]])
            msg = (
                f"{len(other)} cells (first: {first!r}, of batch {first_batch!r}) are not of a "
                f"kind that batch={batch!r} holds, so the model cannot say what they would be in it "
                f"(uns[{key!r}]['overlap']). Pass batch=None, or an AnnData with cells of {same_group} alone."
            )
            raise ValueError(msg)
        return one_batch(len(fitted.batches), target)

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
