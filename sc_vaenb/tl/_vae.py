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
def vae(
    adata: AnnData,
    *,
    layer: str | None = "counts",
    mask_var: str | NDArray[np.bool_] | None = "highly_variable",
    labels_key: str | None = None,
    unlabeled: str = "unknown",
    covariate_keys: Sequence[str] | None = None,
    protein_key: str | None = None,
    peaks_key: str | None = None,
    size_factor: str | None = None,
    allow_non_integer: bool = False,
    likelihood: Literal["nb", "zinb", "poisson", "gaussian"] = "nb",
    prior: Literal["normal", "mog", "vamp"] = "normal",
    n_components: int = 30,
    n_latent: int = 30,
    size_factor_as: Literal["multiplier", "covariate"] = "multiplier",
    dispersion: Literal["gene"] = "gene",
    link: Literal["softmax", "exp", "softplus"] = "softmax",
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
    """Embed cells with a variational autoencoder of their counts.

    Usually set: `layer`, `labels_key`; then `n_latent`, `n_steps`. Leave the rest at the defaults.

    The model is p(x | z) with z ~ N(0, I), or another `prior`, and q(z | x), a diagonal normal. It is fitted by
    maximising the evidence lower bound (Kingma & Welling 2014; for single-cell counts Lopez et al. 2018, scVI). The
    embedding of a cell is the mean of q(z | x), in coordinates in which distances are those of log expression as the
    decoder sees it. Use it in place of PCA. Batch effects are kept: :func:`sc_vaenb.tl.cvae` removes them.

    The parameters are in four groups:

    - set these first: `layer` to `peaks_key`
    - for some data: `size_factor` to `n_latent`
    - for experts: `size_factor_as` to `patience`
    - how to run, and where results go: `device` to `copy`

    Parameters
    ----------
    adata
        Cells x genes.
    prior
        Distribution of z. `"normal"`: N(0, I). `"mog"`: a mixture of Gaussians, whose components become soft clusters
        of the cells (Jiang et al. 2017, VaDE). `"vamp"`: a mixture of the posteriors of `n_components` cells, with
        learned weights (Tomczak & Welling 2018, VampPrior).
    {parameters}

    Returns
    -------
    {returns}

    Raises
    ------
    {raises}

    See Also
    --------
    sc_vaenb.tl.cvae : The same without batch effects.
    sc_vaenb.pl.history : How the fit went.
    sc_vaenb.tl.embed : Embeds cells again with the stored model.
    sc_vaenb.tl.tune : Searches parameters of the fit.

    References
    ----------
    .. [1] Kingma and Welling (2014), Auto-encoding variational Bayes, arXiv:1312.6114.
    .. [2] Lopez et al. (2018), Deep generative modeling for single-cell transcriptomics, Nature Methods 15:1053-1058.
    .. [3] Jiang et al. (2017), Variational deep embedding, arXiv:1611.05148.
    .. [4] Tomczak and Welling (2018), VAE with a VampPrior, arXiv:1705.07120.
    .. [5] Gayoso et al. (2021), Joint probabilistic modeling of single-cell multi-omic data with totalVI, Nature
       Methods 18:272-282.
    .. [6] Xu et al. (2021), Probabilistic harmonization and annotation of single-cell transcriptomics data with deep
       generative models, Molecular Systems Biology 17:e9620.

    Examples
    --------
    >>> import scanpy as sc, sc_vaenb
    >>> adata = sc_vaenb.datasets.simulate()
    >>> sc_vaenb.pp.prepare(adata)
    >>> sc_vaenb.tl.vae(adata)
    >>> sc.pp.neighbors(adata, use_rep="X_vae")
    """
    return fit_and_write(adata, "vae", locals())
