from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from .._checks import checked
from .._session import own_state
from ._fit import fit_and_write
from ._parameters import describe

if TYPE_CHECKING:
    from anndata import AnnData


@own_state()
@checked
@describe
def cvae(
    adata: AnnData,
    batch_key: str,
    *,
    layer: str | None = "counts",
    mask_var: str | NDArray[np.bool_] | None = "highly_variable",
    size_factor: str | None = None,
    size_factor_as: Literal["multiplier", "covariate"] = "multiplier",
    likelihood: Literal["nb", "zinb", "poisson", "gaussian"] = "nb",
    dispersion: Literal["gene", "gene-batch"] = "gene",
    link: Literal["softmax", "exp", "softplus"] = "softmax",
    condition: Literal["embedding", "onehot"] = "embedding",
    encode_batch: bool = True,
    overlap: Literal["auto", "all"] = "auto",
    controls: str | NDArray[np.bool_] | None = None,
    align: bool = True,
    covariate_keys: Sequence[str] | None = None,
    protein_key: str | None = None,
    prior: Literal["normal", "conditional", "mog", "vamp"] = "normal",
    n_components: int = 30,
    adversary: float = 0.0,
    mmd: float = 0.0,
    labels_key: str | None = None,
    unlabeled: str = "unknown",
    n_latent: int = 30,
    hidden: Sequence[int] = (128,),
    decoder_hidden: Sequence[int] | None = None,
    activation: Literal["relu", "gelu", "silu"] = "gelu",
    norm: Literal["layer", "batch", "none"] = "layer",
    dropout: float = 0.0,
    beta: float = 0.5,
    warmup: float = 0.3,
    free_bits: float = 0.0,
    target_kl: float | None = None,
    n_steps: int | None = None,
    batch_size: int = 128,
    learning_rate: float = 6e-3,
    weight_decay: float | None = None,
    validation_fraction: float = 0.1,
    patience: int | None = None,
    device: str = "auto",
    rng: int | np.random.Generator | None = 0,
    allow_non_integer: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    key_added: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Embed cells with a conditional variational autoencoder of their counts, leaving batch effects out.

    The decoder p(x | z, s) knows each cell's batch s, so that the latent state z need not say it (Sohn, Lee & Yan
    2015; for single-cell counts Lopez et al. 2018, scVI). The mean of q(z | x, s), aligned over the batches, is written
    as the embedding, to be used where PCA's or Harmony's would be. Where batches have no cells of the same kind, no
    method can tell biology from batch: see `overlap`, and compare with :func:`sc_vaenb.tl.vae`.

    Parameters
    ----------
    adata
        Cells x genes.
    batch_key
        Column of `obs` with the batch (sample, donor, protocol) of each cell; two batches or more.
    condition
        How the networks see the batch: a learned `"embedding"` of up to 10 dimensions, or `"onehot"`.
    encode_batch
        Let the encoder know the batch too: q(z | x, s). The embedding of a cell then depends on its label.
    overlap
        Which batches have kinds of cells in common. `"auto"`: found in the counts. Each batch is clustered alone. On
        the log scale a batch effect is the same for all kinds of cells, so it cancels in the contrast of two clusters
        of one batch; batches whose contrasts agree hold the same kinds, however far apart they are. Batches that are
        linked directly or over others make a group. Batch effects are taken out within each group, and the differences
        between the groups are kept; where there are several groups, a warning names them. A batch that shares nothing
        stands alone, as one population of sorted cells does. `"all"`: one group, whatever the counts say, as when
        replicates of two protocols differ by protocol alone.
    controls
        For studies in which each patient is a batch: which cells are of control samples, a boolean column of `obs` or
        an array of one boolean for each cell. A batch then shifts the log expression of each gene by the same amount
        in all kinds of cells, and by nothing else: the weighted median of its log fold changes against the controls
        over clusters of cells. What a disease does to *some* kinds of cells stays in the embedding; what it does to all
        kinds alike is taken for a batch effect. The clusters are those of an ordinary conditional model, which is
        fitted first, so a fit takes twice as long. `condition`, `encode_batch` and `align` have no part in the second
        model. See Zhang et al. 2024 (CellANOVA), who learn batch effects from control samples.
    align
        Take off what the decoder leaves of the batches in the latent space, after the fit: soft clusters, in each of
        which every batch has a shift (Korsunsky et al. 2019, Harmony). `False` writes the encoder's means as they are.
    prior
        `"normal"`: z ~ N(0, I), whatever the batch, which draws the batches onto each other. `"conditional"`:
        p(z | s), a normal per batch with learned mean and variance. It costs the model nothing to keep the
        batches apart in the latent space then, so expect *less* mixing: it suits batches that differ in composition.
        `"mog"`: a mixture of Gaussians, whatever the batch, whose components become soft clusters of the cells (Jiang
        et al. 2017, VaDE). `"vamp"`: the same with the posteriors of `n_components` cells as components, of learned
        weights (Tomczak & Welling 2018, VampPrior). Where batch effects stay, batches may have components of their own.
    adversary
        Weight, in nats per cell, of an adversary: a network learns to guess each cell's batch from its latent state,
        and the encoder to leave it in the dark (Ganin et al. 2016, with the loss of Tzeng et al. 2015). The history has
        the divergence of the guess from the batches' shares, times the weight: 0 is chance. 1 to 10 mixed two real data
        sets better at little cost in biology, and cost cell types in two others; 30 cost them in all four. With
        few genes and strong batch effects it can drive batches apart while the network, always behind, guesses at
        chance: compare :func:`sc_vaenb.tl.score` with and without, and try `mmd` first.
    mmd
        Weight, in nats per cell, of the squared maximum mean discrepancy between the latent states of each two batches
        of a minibatch (Gretton et al. 2012); in the history times the weight, 0 where batches are alike. 10 mixed
        better, with `align` too, at little cost in biology; more cost cell types in some data. Like `adversary` it
        takes all that tells batches of a group apart for technical, also that they are composed of other cells: where
        they are, and `overlap` does not keep them apart, both over-correct.
    {parameters}

    Returns
    -------
    {returns}

    Raises
    ------
    {raises}

    Examples
    --------
    >>> import scanpy as sc, sc_vaenb
    >>> adata = sc_vaenb.datasets.simulate()
    >>> sc_vaenb.pp.prepare(adata, batch_key="batch")
    >>> sc_vaenb.tl.cvae(adata, "batch")
    >>> sc.pp.neighbors(adata, use_rep="X_vae")
    """
    return fit_and_write(adata, "cvae", locals())
