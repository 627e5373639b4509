"""The parts that the docstrings of `tl.vae` and `tl.cvae` share: parameters, returns and errors."""

from __future__ import annotations

from collections.abc import Callable

from ._docstrings import fill

PARAMETERS = """\
layer
        Where the raw counts are: a layer, or `None` for `X`. Non-negative integers. Counts on disk (`X` of a backed
        AnnData, or a layer that :func:`anndata.io.sparse_dataset` opened) stay on disk. The fit gives the same result;
        in memory it holds only the cells that its steps use, at most 131,072 at a time.
    mask_var
        The genes to model: a boolean column of `var`, or an array with one value per gene. The default column,
        which :func:`sc_vaenb.pp.prepare` and scanpy write, is used if it exists; `None` takes all genes.
    size_factor
        Column of `obs` with a positive size factor per cell. `None`: the depth, which is the sum of a cell's counts
        over the genes used. Size factors are divided by their mean, so only their ratios matter.
    size_factor_as
        `"multiplier"`: the expected count is the size factor times the decoded expression. `"covariate"`: the
        logarithm of the size factor is an input of the decoder, like the latent state, and the decoder learns its
        effect (needs the link `"exp"` or `"softplus"`).
    likelihood
        Distribution of a count given the latent state. `"nb"`: negative binomial with mean mu and inverse dispersion
        theta, variance mu + mu^2 / theta. `"zinb"`: the same with zero inflation per cell and gene. `"poisson"`: no
        over-dispersion. `"gaussian"`: a normal distribution of log1p of the scaled counts.
    dispersion
        One theta (or variance) per `"gene"`, or per gene and batch (`"gene-batch"`, in `cvae` only).
    link
        Function from the decoder's output to the expected expression: `"softmax"` over the genes (shares of the cell's
        depth, as in scVI), or `"exp"` or `"softplus"` for a free rate per gene. Not used by `"gaussian"`.
    covariate_keys
        Columns of `obs` that are inputs of the model, so that the embedding need not contain them: numbers (a share of
        mitochondrial counts, a score) or categories (the chemistry, in addition to the sample in `batch_key`). Cells
        are not aligned by them, as they are by batch. Expression is decoded at the mean of the covariates.
    protein_key
        Table in `obsm` with raw counts of surface proteins (CITE-seq), cells x proteins: a DataFrame, or an array with
        names in `uns["protein_names"]`. The embedding is then of genes and proteins together. A protein count is
        background alone, or background plus bound protein (Gayoso et al. 2021, Nature Methods, totalVI);
        :func:`sc_vaenb.tl.denoised_protein` separates the two. A protein is not measured in a cell if its value is NaN,
        or if it is 0 in all cells of the batch. Proteins have no size factors. `None`: genes alone.
    peaks_key
        Table in `obsm` with counts of ATAC fragments in peaks, cells x peaks: sparse, dense or a DataFrame. The names
        are its columns, or in `uns["peak_names"]`. A table of 0 and 1 works as well. The embedding is then of genes and
        peaks together, in equal parts. The counts of a cell are taken as a multinomial draw of its depth in peaks. A
        cell without counts in peaks is embedded by its genes alone. Cells without counts in genes cannot be fitted;
        :func:`sc_vaenb.tl.map_query` maps them. The table is read into memory. `None`: genes alone.
    n_components
        Maximum number of components of a mixture prior (`"mog"`, `"vamp"`), 100 at most. Components that explain less
        than about 2 % of the cells are not used, so the data determine the number of used components.
    labels_key
        Column of `obs` with labels of some or all cells (cell types). The model predicts the labels of all cells, and
        the labels shape the embedding (Xu et al. 2021, scANVI). A cell of a type that no label names gets one of the
        other labels.
    unlabeled
        The word for "no label" in that column, in addition to missing values. Other such words ("Unassigned", "NA", ""
        and similar, in upper or lower case) count as no label too, and a warning names them.
    n_latent
        Dimensions of the embedding.
    hidden
        Widths of the encoder's hidden layers, from the genes to the latent space; `()` for a linear one.
    decoder_hidden
        Widths of the decoder's hidden layers, from the latent space to the genes. `None`: the encoder's, mirrored.
    activation
        Of the hidden layers: `"relu"`, `"gelu"` or `"silu"`.
    norm
        Of the hidden layers: `"layer"` (LayerNorm), `"batch"` (BatchNorm) or `"none"`.
    dropout
        Share of hidden units dropped in each step, 0 to 0.9.
    beta
        Final weight of the KL divergence in the objective, reconstruction + beta * KL. Below 1, the embedding keeps
        more of the differences between cells; above 1, it is smoother.
    warmup
        Share of the steps over which the weight of the KL rises from 0 to `beta`.
    free_bits
        Nats of KL that each latent dimension may have without a penalty (averaged over the cells of a step). A value
        above 0, such as 0.1, prevents dimensions from collapsing onto the prior.
    target_kl
        Target of the KL in nats per cell. The fit changes `beta`, which is then only the start value, until the KL
        reaches the target. The KL depends on the data: fits with the default `beta` ended at 12 to 60 nats. `None`:
        `beta` stays fixed.
    n_steps
        Steps of the fit. `None`: 28 passes over the cells (two steps for every nine cells) plus twice the square root
        of the depth (the median counts per cell; with fewer than 500 genes, 500 times the counts per gene), 700 at
        most. So large data cost no more (700 steps of 128 cells use an eleventh of a million cells), few cells are not
        overfitted, and deep counts get enough steps.
    batch_size
        Cells per step (at most the number of cells). If the device runs out of memory, the fit starts again with half
        as many, 16 at least, and a warning says so.
    learning_rate
        Peak learning rate of the one-cycle schedule of AdamW. If the loss rises far, or becomes NaN or infinite, the
        fit goes back to the weights with the lowest loss and continues with a third of the learning rate.
    weight_decay
        Weight decay of AdamW: every step shrinks the networks' matrices, the batch vectors and the logarithms of the
        dispersions by this value times the learning rate. It prevents overfitting when there are few cells. `None`:
        1,800 / number of cells, 2 at most, so that the weights average over the same number of passes over the cells.
    validation_fraction
        Share of each batch's cells that is held out from the fit to evaluate it, at most 0.9 (and at most 2,048 cells
        in all); 0 for none.
    patience
        Stop after this many evaluations on the held-out cells (a fit has 20 to 50) without a lower loss, and keep the
        weights with the lowest loss. `None`: use all steps and keep the last weights.
    device
        `"auto"` takes CUDA, then MPS, then CPU; or torch's name of a device. Several processes that torchrun
        started share the fit, each on its own CUDA device or all on the CPU. The result is the same up to rounding.
    rng
        Seed, or a numpy Generator to draw a seed from; `None` for a random seed. The same seed gives the same result on
        the same machine and CPU with the same number of threads; the global random state is neither read nor changed.
    allow_non_integer
        Accept counts with fractions, such as counts after ambient-RNA correction.
    checkpoint
        A folder where the fit saves its state, which takes about 2 % of the time. If the fit is killed and called again
        with the same data and arguments, it continues from this state. The result is the same as without the
        interruption: bit for bit on a CPU with the same number of threads. The last state stays until you remove the
        folder. Only one fit at a time can use a folder. `None`: nothing is saved.
    key_added
        Name for the results, `"vae"` by default: `obsm["X_" + key_added]` and `uns[key_added]`.
    copy
        Work on a copy of `adata` and return it."""

RETURNS = """\
`None`, or the copy if `copy`. Written are:

    `obsm["X_vae"]`
        The embedding, float32, cells x `n_latent`: the posterior mean of each cell's latent state in other coordinates
        (a linear map, one to one), aligned if the model is. Of a squared distance, half is that of the log expression
        that the decoder makes of both states, half that of the latent states. Dimensions are ordered by their variance
        before alignment.
    `varm["vae_loadings"]`
        Log expression (log1p of expected counts per 10,000) for one unit of each dimension, genes x `n_latent`, as
        `varm["PCs"]` of PCA; 0 for genes that are not in the model.
    `uns["vae"]["params"]`
        The parameters that the fit used (without those that are `None`), with `method` and `version`.
    `uns["vae"]["history"]`
        Arrays with one value per evaluation (once per pass over the cells, but 20 to 50 times in all): `step`, `epoch`
        (passes so far), `beta`, `learning_rate`, `seconds`, `active_units` (dimensions with more than 0.01 nats of KL),
        and in nats per cell `train_loss`, `train_reconstruction`, `train_kl`, `validation_loss`,
        `validation_reconstruction`, `validation_kl`; `kl_per_dim` is evaluations x dimensions. The validation loss is
        computed at the final `beta` (at 1 with `target_kl`). Each further term of the loss (`adversary`, `labels`,
        `mmd`, and `protein`, the negative log-likelihood of proteins) has a `train_` and a `validation_` column of its
        name. An evaluation after which the fit went back is left out. `neighbors_explained`, at some evaluations only
        (else NaN): how much of held-back counts the neighbours in the embedding explain, relative to the neighbours in
        PCA.
    `uns["vae"]["verdict"]`
        `status` (`converged`, `still_improving`, `overfitted`, `worse_than_pca`, `not_judged`, `stopped_early` or
        `interrupted`; see "Has the fit converged?" in the documentation), `posterior_collapse`, `best_step` (with the
        lowest held-out loss), `kept_step` (whose weights the model has), `setbacks` (how often the fit went
        back and continued with a lower learning rate) and `message`.
    `uns["vae"]["fingerprint"]`
        Checksums of the `params`, the `data` and the `results`, by which :func:`sc_vaenb.tl.compare` finds a fit that
        it need not make again. Not of fits that another call may not repeat to the bit (several processes, too little
        memory, interrupted, counts read in parts), and not with labels or a mixture as prior.
    `uns["vae"]["overlap"]` (`cvae` only)
        `batches`, the `group` of each (a number), and `compared`, the positions (from 0) of the batches that were
        compared: the 64 largest with 20 cells or more. `share` (compared x compared): the share of the first batch's
        cells that are of kinds that the second batch has too; NaN where two batches are linked through other batches.
    `obsm["vae_components"]`, `obs["vae_component"]` (`prior="mog"` and `"vamp"` only; named after `key_added`)
        Soft and hard clusters: the probability of each used component of the prior given q(z | x), before any
        alignment, float32, cells x components, largest component first; and the most probable component, as categories.
        :func:`sc_vaenb.tl.embed` and :func:`sc_vaenb.tl.map_query` do not write them.
    `uns["vae"]["components"]` (these priors only)
        In the same order, with unused components last: the `weight` of each component in the prior, the `share` of the
        cells in it (the mean of their probabilities), and whether it is `live`, that is, used.
    `obs["vae_label"]`, `obs["vae_label_probability"]`, `obsm["vae_label_probabilities"]` (with `labels_key` only)
        The most probable label of every cell, also of cells with a known label; its probability; and a table with the
        probability of each label (a "/" in its name becomes "|"; columns are in the order of `names` below).
    `uns["vae"]["labels"]` (with `labels_key` only)
        `names`, `n_known` (cells with a label), and `temperature`, by which the logits are divided. If 250 labels or
        more are known, a tenth of them (`n_held_back`; 50 to 1,000) is held back from the fit, and the temperature is
        chosen so that the probabilities on these cells are calibrated; `accuracy` and `calibration_error` are on these
        cells. Else the temperature is 1. `cvae` also writes `accuracy_across_batches` and
        `calibration_error_across_batches`: here the labels of each batch are predicted from the labels of the other
        batches alone, as for a batch without labels. `across_batches` is 1 if the temperature was chosen in this way,
        because most cells without a label are in such batches; else 0.
    `uns["vae"]["model"]`
        The model itself as strings and arrays; :func:`sc_vaenb.tl.embed` reads it."""

RAISES = """\
KeyError, TypeError, ValueError
        An argument is unknown or impossible, or the counts, size factors or batches are not valid: the message names
        the place and the first invalid value. Or `checkpoint` holds the state of another fit. `adata` is unchanged.
    FileExistsError, OSError
        `checkpoint` is a file, cannot be written to, or another fit is writing to it. `adata` is unchanged.
    FloatingPointError
        The loss became NaN or infinite. `adata` is unchanged.
    MemoryError
        The device has too little memory. `adata` is unchanged."""


def describe(function: Callable) -> Callable:
    """Insert the shared parts into a docstring."""
    return fill(function, {"parameters": PARAMETERS, "returns": RETURNS, "raises": RAISES})
