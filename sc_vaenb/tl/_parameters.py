"""What the docstrings of `tl.vae` and `tl.cvae` share: the meaning of parameters, what is written, what is raised."""

from __future__ import annotations

from collections.abc import Callable

PARAMETERS = """\
layer
        Where the raw counts are: a layer, or `None` for `X`. Non-negative integers. Counts on disk (`X` of a backed
        AnnData, or a layer that :func:`anndata.io.sparse_dataset` opened) stay there: the fit is the same, and holds no
        more than the cells that its steps see, 131,072 at a time.
    mask_var
        The genes to model: a boolean column of `var`, or an array with one value per gene. The default column,
        which :func:`sc_vaenb.pp.prepare` and scanpy write, is used if it is there; `None` takes all genes.
    size_factor
        Column of `obs` with a positive size factor per cell. `None`: the depth, each cell's counts over the genes used.
        Only ratios matter: size factors are divided by their mean.
    size_factor_as
        `"multiplier"`: the expected count is the size factor times the decoded expression. `"covariate"`: the decoder
        gets the logarithm of the size factor beside the latent state and learns the rest (needs the link `"exp"` or
        `"softplus"`).
    likelihood
        Distribution of a count given the latent state. `"nb"`: negative binomial with mean mu and inverse dispersion
        theta, variance mu + mu^2 / theta. `"zinb"`: the same with a share of extra zeros per cell and gene.
        `"poisson"`: no over-dispersion. `"gaussian"`: a normal distribution of log1p of the scaled counts.
    dispersion
        One theta (or variance) per `"gene"`, or per gene and batch (`"gene-batch"`, in `cvae` only).
    link
        From the decoder's output to the expected expression: `"softmax"` over the genes (shares of the cell's depth,
        as scVI), or a free rate per gene through `"exp"` or `"softplus"`. Not used by `"gaussian"`.
    covariate_keys
        Columns of `obs` that the model is told, so that the embedding need not say them: numbers (a share of
        mitochondrial counts, a score) or categories (the chemistry, beside the sample in `batch_key`). They are not
        aligned as batches are. Decoded expression is that at their mean.
    protein_key
        Table in `obsm` with raw counts of surface proteins (CITE-seq), cells x proteins: a DataFrame, or an array with
        names in `uns["protein_names"]`. The embedding is then that of genes and proteins. A count is of background
        alone, or of background and what is bound (Gayoso et al. 2021, Nature Methods, totalVI), which
        :func:`sc_vaenb.tl.denoised_protein` tells apart. NaN says that a protein was not measured in a cell, as do
        zeros in all cells of a batch. There are no size factors of proteins. `None`: genes alone.
    n_components
        The most components that a prior of several may have (`"mog"`, `"vamp"`), 100 at most. Those that explain less
        than about 2 % of the cells go unused, so the cells decide how many there are.
    labels_key
        Column of `obs` with labels that are known of some cells or of all (cell types), to be predicted for all and to
        shape the embedding (Xu et al. 2021, scANVI). Cells of a label that no cell is known to have get one of the
        others.
    unlabeled
        What stands for no label in that column, beside missing values. Other words for it ("Unassigned", "NA", "" and
        the like, in whatever case) are taken as no label too, and a warning names them.
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
        Final weight of the KL divergence in the objective, reconstruction + beta * KL. Below 1, cells keep more of
        what tells them apart; above 1, the embedding is smoother.
    warmup
        Share of the steps over which the weight of the KL rises from 0 to `beta`.
    free_bits
        Nats of KL that each latent dimension may carry at no cost (averaged over the cells of a step): above 0
        (0.1, say) it keeps dimensions from collapsing onto the prior.
    target_kl
        Nats of KL that the latent state of a cell shall carry: `beta`, then only where it starts, is changed during the
        fit until it does. Data differ in what they carry: fits with the default `beta` ended at 12 to 60 nats. `None`:
        `beta` is kept.
    n_steps
        Steps of the fit. `None`: one for every eight cells (16 passes over the cells) and twice the square root of
        their depth (the median of their counts; of fewer than 500 genes, 500 times that of a gene), 700 at most. So
        large data cost no more (of a million cells, a fit of 700 steps of 128 sees an eleventh), few cells are not
        overfitted, and deep counts are learned.
    batch_size
        Cells per step (fewer if there are fewer). If the device runs out of memory, the fit begins again with half as
        many, 16 at least, and a warning says so.
    learning_rate
        Peak of the one-cycle schedule of AdamW. When the loss rises far or is no number any more, the fit goes back to
        the weights with the lowest and on with a third of it.
    weight_decay
        Of AdamW: every step shrinks the networks' matrices, the batch vectors and the logarithms of the dispersions by
        this times the learning rate, which keeps few cells from being learned by heart. `None`: 1,800 / number of
        cells, 2 at most, so that the weights remember the same number of passes over the cells.
    validation_fraction
        Share of each batch's cells (2,048 cells in all at most) that is held out from the fit to judge it, at most
        0.9; 0 for none.
    patience
        Stop after this many looks at the held-out cells (there are 20 to 50 in a fit) without a lower loss, and go back
        to the weights with the lowest. `None`: use all steps and keep the last weights.
    device
        `"auto"` takes CUDA, then MPS, then CPU; or torch's name of a device. Several processes that torchrun has
        started share the fit, each on a CUDA device of its own or all on the CPU, to the same result but for rounding.
    rng
        Seed, or a numpy Generator to draw one from; `None` for a random one. The same seed gives the same result on
        the same machine and CPU with the same number of threads; the global random state is neither read nor changed.
    allow_non_integer
        Accept counts with fractions, as ambient-RNA correction makes them.
    checkpoint
        A folder where the fit keeps its state, which takes about 2 % of its time. If it is killed and called again with
        the same data and arguments, it goes on from there, to the result that it would have had: bit for bit on a CPU
        with the same number of threads. The last state stays until you remove the folder, which one fit at a time can
        use. `None`: nothing is kept.
    key_added
        Name for the results, `"vae"` by default: `obsm["X_" + key_added]` and `uns[key_added]`.
    copy
        Work on a copy of `adata` and return it."""

RETURNS = """\
`None`, or the copy if `copy`. Written are:

    `obsm["X_vae"]`
        The embedding: the posterior mean of each cell's latent state, float32, cells x `n_latent`.
    `uns["vae"]["params"]`
        The parameters as used (a parameter that is `None` is left out), with `method` and `version`.
    `uns["vae"]["history"]`
        Arrays with one value per look (once a pass over the cells, but 20 to 50 times): `step`, `epoch` (passes so
        far), `beta`, `learning_rate`, `seconds`, `active_units` (dimensions with more than 0.01 nats of KL), and
        in nats per cell `train_loss`, `train_reconstruction`, `train_kl`, `validation_loss`,
        `validation_reconstruction`, `validation_kl`; `kl_per_dim` is looks x dimensions. The validation loss is taken
        at the final `beta` (at 1 with `target_kl`). What else is in the losses (`adversary`, `labels`, `mmd`, and
        `protein`, the negative log-likelihood of proteins) adds `train_` and `validation_` columns of its name. A look
        at which the fit had to go back is left out. `neighbors_explained`, at some looks only (else NaN): how much of
        counts held back neighbours in the embedding explain, as a share of what neighbours in PCA explain.
    `uns["vae"]["verdict"]`
        `status` (`converged`, `still_improving`, `overfitted`, `worse_than_pca`, `not_judged`, `stopped_early` or
        `interrupted`: see the page on models), `posterior_collapse`, `best_step`
        (with the lowest held-out loss), `kept_step` (whose weights the model has), `setbacks` (how often the fit had to
        go back and on with smaller steps) and `message`.
    `uns["vae"]["overlap"]` (`cvae` only)
        `batches`, the `group` of each (a number), and which of them (numbers, from 0) were `compared`: the 64 largest,
        of 20 cells or more. `share` (compared x compared): of the cells of the first batch, those of kinds that the
        second has as well; NaN where two batches are linked over others.
    `obsm["vae_components"]`, `obs["vae_component"]` (`prior="mog"` and `"vamp"` only; named after `key_added`)
        Soft and hard clusters: the probability of each used component of the prior given q(z | x), before any
        alignment, float32, cells x components, largest component first; and the likeliest, a category per component.
        :func:`sc_vaenb.tl.embed` and :func:`sc_vaenb.tl.map_query` do not write them.
    `uns["vae"]["components"]` (these priors only)
        In the same order, unused ones last: the `weight` of each component in the prior, the `share` of the cells in it
        (the mean of their probabilities), and whether it is `live`, that is used.
    `obs["vae_label"]`, `obs["vae_label_probability"]`, `obsm["vae_label_probabilities"]` (with `labels_key` only)
        The most probable label of every cell, those with a known label included; its probability; and a table with the
        probability of each label (a "/" in its name becomes "|"; columns are in the order of `names` below).
    `uns["vae"]["labels"]` (with `labels_key` only)
        `names`, `n_known` (cells with a label), and `temperature`, by which the logits are divided. Where 250 labels
        or more are known, a tenth of them (`n_held_back`; 50 to 1,000) is held back from the fit to choose it, so that
        probabilities come true; `accuracy` and `calibration_error` are on these cells. Else it is 1. Of `cvae` also
        `accuracy_across_batches` and `calibration_error_across_batches`, with those of each batch predicted from the
        labels of the others alone: as in a batch without any labels. `across_batches` is 1 where the temperature was
        chosen so, as most cells without a label are in such batches; else 0.
    `uns["vae"]["model"]`
        The model itself as strings and arrays; :func:`sc_vaenb.tl.embed` reads it."""

RAISES = """\
KeyError, TypeError, ValueError
        An argument is unknown or impossible, or the counts, size factors or batches are not what they must be. The
        message names the place and the first offender; or `checkpoint` holds the state of another fit. `adata` is
        unchanged.
    FileExistsError, OSError
        `checkpoint` is a file, cannot be written to, or another fit is writing to it. `adata` is unchanged.
    FloatingPointError
        The loss left the numbers. `adata` is unchanged.
    MemoryError
        The device has too little memory. `adata` is unchanged."""


def describe(function: Callable) -> Callable:
    """Put the shared parts into a docstring."""
    if function.__doc__:  # python -OO has none
        for name, text in (("{parameters}", PARAMETERS), ("{returns}", RETURNS), ("{raises}", RAISES)):
            function.__doc__ = function.__doc__.replace(name, text)
    return function
