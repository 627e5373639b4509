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
    batch_key: str | Sequence[str],
    *,
    layer: str | None = "counts",
    mask_var: str | NDArray[np.bool_] | None = "highly_variable",
    labels_key: str | None = None,
    unlabeled: str = "unknown",
    covariate_keys: Sequence[str] | None = None,
    protein_key: str | None = None,
    peaks_key: str | None = None,
    overlap: Literal["auto", "all"] = "auto",
    time_key: str | None = None,
    controls: str | NDArray[np.bool_] | None = None,
    size_factor: str | None = None,
    allow_non_integer: bool = False,
    likelihood: Literal["nb", "zinb", "poisson", "gaussian"] = "nb",
    prior: Literal["normal", "conditional", "mog", "vamp"] = "normal",
    n_components: int = 30,
    n_latent: int = 30,
    size_factor_as: Literal["multiplier", "covariate"] = "multiplier",
    dispersion: Literal["gene", "gene-batch"] = "gene",
    link: Literal["softmax", "exp", "softplus"] = "softmax",
    condition: Literal["embedding", "onehot"] = "embedding",
    encode_batch: bool = True,
    align: bool = True,
    adversary: float = 0.0,
    mmd: float = 0.0,
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
    checkpoint: str | os.PathLike[str] | None = None,
    key_added: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Embed cells with a conditional variational autoencoder of their counts, leaving batch effects out.

    Usually set: `batch_key`, `layer`, `labels_key`; then `n_latent`, `n_steps`. Leave the rest at the defaults.

    The decoder p(x | z, s) knows the batch s of each cell, so the latent state z does not have to encode it (Sohn, Lee
    & Yan 2015; for single-cell counts Lopez et al. 2018, scVI). The embedding is the mean of q(z | x, s), in
    coordinates in which distances are those of log expression, and aligned over the batches. Use it in place of PCA or
    Harmony. If batches have no cells of the same kind, no method can tell biology from batch effects: see `overlap`,
    and compare with :func:`sc_vaenb.tl.vae`.

    The parameters are in four groups:

    - set these first: `batch_key` to `peaks_key`
    - for some data: `overlap` to `n_latent`
    - for experts: `size_factor_as` to `patience`
    - how to run, and where results go: `device` to `copy`

    Parameters
    ----------
    adata
        Cells x genes.
    batch_key
        Column of `obs` with the batch (sample, donor, protocol) of each cell; two batches or more. Of several columns,
        such as `["donor", "technology"]`, the batches are the combinations that occur, named `"d1 | 10x"`; a value that
        holds `|` is refused.
    condition
        How the networks see the batch: a learned `"embedding"` of up to 10 dimensions, or `"onehot"`.
    encode_batch
        Give the batch to the encoder too: q(z | x, s). The embedding of a cell then depends on its batch label.
    overlap
        Which batches have kinds of cells in common. `"auto"`: this is estimated from the counts. Each batch is
        clustered separately. On the log scale a batch effect is the same for all kinds of cells, so it cancels in the
        contrast of two clusters of one batch. Batches whose contrasts agree hold the same kinds, however far apart the
        batches are. Batches that are linked directly or through others form a group. Batch effects are removed within
        each group, and differences between groups are kept. If there are several groups, a warning names them. A batch
        that shares nothing is a group of its own, for example one population of sorted cells. `"all"`: all batches are
        one group, whatever the counts show, for example if replicates of two protocols differ only by protocol.
    time_key
        For time courses in which each batch is of one time point: column of `obs` with the time point (stage,
        condition) of each cell. What the batches of a time point have in common is kept, and differences between the
        batches of one time point are removed. A batch that is alone at its time point is not changed. Each batch is
        compared with all cells of its time point, in each cluster of cells of an ordinary conditional model, which is
        fitted first: so a fit takes twice as long. The batch effect on a gene is the weighted median of the log fold
        changes, as with `controls`. `align` acts within time points. Batches of one time point are taken to hold the
        same kinds of cells, whatever the counts show. A batch may have several time points: it then links them, and
        all of them are aligned together. The order of the time points is not used.
    controls
        For studies in which each patient is a batch: which cells are from control samples, as a boolean column of `obs`
        or an array with one boolean per cell. A batch effect is then only a shift of the log expression of each gene,
        by the same amount in all kinds of cells: the weighted median, over clusters of cells, of the log fold changes
        of the batch against the controls. The effect of a disease on *some* kinds of cells stays in the embedding. An
        equal effect on all kinds counts as a batch effect. The clusters come from an ordinary conditional model, which
        is fitted first, so a fit takes twice as long. The second model does not use `condition`, `encode_batch` and
        `align`. See Zhang et al. 2024 (CellANOVA), who learn batch effects from control samples.
    align
        After the fit, remove the batch effects that remain in the latent space: cells are put into soft clusters, and
        each batch is shifted within each cluster (Korsunsky et al. 2019, Harmony). `False` writes the encoder's means
        without this step.
    prior
        `"normal"`: z ~ N(0, I) for all batches, which mixes the batches. `"conditional"`: p(z | s), a normal per batch
        with learned mean and variance. The model then has no penalty for separating batches in the latent space, so
        expect *less* mixing: it suits batches that differ in composition. `"mog"`: a mixture of Gaussians for all
        batches, whose components become soft clusters of the cells (Jiang et al. 2017, VaDE). `"vamp"`: the same, with
        the posteriors of `n_components` cells as components, with learned weights (Tomczak & Welling 2018, VampPrior).
        If batch effects remain, batches may have their own components.
    adversary
        Weight, in nats per cell, of an adversary: a network learns to predict each cell's batch from its latent state,
        and the encoder learns to prevent this (Ganin et al. 2016, with the loss of Tzeng et al. 2015). The history has
        the divergence of the prediction from the batches' shares, times the weight: 0 is chance. In two real data sets,
        weights of 1 to 10 mixed batches better at little cost in biology. In two others they lost cell types, and a
        weight of 30 lost them in all four. With few genes and strong batch effects the adversary can separate batches,
        because the network learns too late and predicts at chance: compare :func:`sc_vaenb.tl.score` with and without,
        and try `mmd` first.
    mmd
        Weight, in nats per cell, of the squared maximum mean discrepancy between the latent states of each two batches
        of a minibatch (Gretton et al. 2012). The history has it times the weight: 0 if batches are alike. A weight of
        10 mixed batches better, also with `align`, at little cost in biology. Larger weights lost cell types in some
        data. Like `adversary`, it treats all differences between the batches of a group as technical, also differences
        in composition. If batches differ in composition and `overlap` does not separate them, both over-correct.
    {parameters}

    Returns
    -------
    {returns}

    Raises
    ------
    {raises}

    See Also
    --------
    sc_vaenb.tl.vae : The same with batch effects.
    sc_vaenb.tl.design : Before the fit: can batch effects be told from biology?
    sc_vaenb.tl.compare : PCA, Harmony, VAE and CVAE on the same data.
    sc_vaenb.tl.map_query : Embeds new cells and batches with the stored model.
    sc_vaenb.tl.corrected : Expression without batch effects.

    References
    ----------
    .. [1] Sohn, Lee and Yan (2015), Learning structured output representation using deep conditional generative models,
       Advances in Neural Information Processing Systems 28.
    .. [2] Lopez et al. (2018), Deep generative modeling for single-cell transcriptomics, Nature Methods 15:1053-1058.
    .. [3] Korsunsky et al. (2019), Fast, sensitive and accurate integration of single-cell data with Harmony, Nature
       Methods 16:1289-1296.
    .. [4] Zhang et al. (2024), Recovery of biological signals lost in single-cell batch integration with CellANOVA,
       Nature Biotechnology.
    .. [5] Jiang et al. (2017), Variational deep embedding, arXiv:1611.05148.
    .. [6] Tomczak and Welling (2018), VAE with a VampPrior, arXiv:1705.07120.
    .. [7] Ganin et al. (2016), Domain-adversarial training of neural networks, Journal of Machine Learning Research 17.
    .. [8] Tzeng et al. (2015), Simultaneous deep transfer across domains and tasks, arXiv:1510.02192.
    .. [9] Gretton et al. (2012), A kernel two-sample test, Journal of Machine Learning Research 13:723-773.
    .. [10] Gayoso et al. (2021), Joint probabilistic modeling of single-cell multi-omic data with totalVI, Nature
       Methods 18:272-282.
    .. [11] Xu et al. (2021), Probabilistic harmonization and annotation of single-cell transcriptomics data with deep
       generative models, Molecular Systems Biology 17:e9620.

    Examples
    --------
    >>> import scanpy as sc, sc_vaenb
    >>> adata = sc_vaenb.datasets.simulate()
    >>> sc_vaenb.pp.prepare(adata, batch_key="batch")
    >>> sc_vaenb.tl.cvae(adata, "batch")
    >>> sc.pp.neighbors(adata, use_rep="X_vae")
    """
    return fit_and_write(adata, "cvae", locals())
