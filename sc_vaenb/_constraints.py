"""Two tables on the arguments of public functions, by the name of the parameter. `_checks` reads them.

`BOUNDS` holds the allowed range of numbers. `DESCRIPTIONS` holds what a message tells the user to pass.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

LARGEST_SEED = 2**32 - 1  # of the seeds of numpy, scikit-learn and umap
LARGEST_INT = 2**31 - 1  # of counted things: compiled code counts with 32-bit integers
LARGEST_NUMBER = 1e12  # of a weight, sum or size factor: squares of larger numbers overflow float32


class ArgumentError(ValueError, TypeError):
    """An argument is of the wrong type or has an impossible value."""


class Bounds(NamedTuple):
    """The allowed range of a number. With `above` (`below`), the lower (upper) end itself is not allowed."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False

    def largest(self, value: float) -> float:
        """The largest allowed number, which has a default where the table gives none."""
        return min(self.high, LARGEST_INT if isinstance(value, int) and self.high == math.inf else LARGEST_NUMBER)

    def allow(self, value: float) -> bool:
        in_range = self.low <= value <= self.largest(value) and value > -math.inf  # False for NaN
        return in_range and not (self.above and value == self.low) and not (self.below and value == self.high)

    def in_words(self) -> str:
        """The bounds at the end of "a number", such as " above 0 and at most 1"; empty if there are none."""
        if self == Bounds():
            return ""
        low = "" if self.low == -math.inf else f" {'above' if self.above else 'at least'} {self.low:,g}"
        high = "" if self.high == math.inf else f" {'below' if self.below else 'at most'} {self.high:,}"
        return low + (" and" if low and high else "") + high


POSITIVE = Bounds(0, above=True)
AT_LEAST_0, AT_LEAST_1, AT_LEAST_2 = Bounds(0), Bounds(1), Bounds(2)
ZERO_TO_ONE = Bounds(0, 1)

# The keys are names of parameters, or "folder.function.parameter" where one name has several meanings.
BOUNDS: Mapping[str, Bounds] = {
    "adversary": AT_LEAST_0,
    "alpha": Bounds(0, 1, above=True, below=True),
    "batch_size": AT_LEAST_1,
    "bio_weight": ZERO_TO_ONE,
    "batch_strength": Bounds(0, 10),  # a log: e**10 is 22,000-fold
    "beta": AT_LEAST_0,
    "decoder_hidden": Bounds(1, 100_000),
    "delta": POSITIVE,
    "depth_spread": Bounds(0, 10),
    "dropout": Bounds(0, 0.9),
    "datasets.simulate.dropout": Bounds(0, 1, below=True),
    "free_bits": AT_LEAST_0,
    "hidden": Bounds(1, 100_000),
    "k": AT_LEAST_1,
    "metrics.score.k": Bounds(6),
    "learning_rate": POSITIVE,
    "marker_fold": AT_LEAST_1,
    "marker_share": ZERO_TO_ONE,
    "max_batches": AT_LEAST_1,
    "max_cells": AT_LEAST_1,
    "tl.factors.max_cells": AT_LEAST_2,
    "tl.score.max_cells": Bounds(100),
    "mean_depth": POSITIVE,
    "mmd": AT_LEAST_0,
    "n_batches": AT_LEAST_1,
    "datasets.demo.n_batches": Bounds(1, 26),  # named by letters
    "n_cells": Bounds(1, 10**8),
    "n_components": Bounds(1, 100),
    "n_dimensions": AT_LEAST_1,
    "n_draws": Bounds(1, 10_000),
    "n_genes": Bounds(1, 10**6),
    "n_hops": Bounds(0, 1_000),
    "n_kinds": Bounds(0, 1_000),
    "n_jobs": Bounds(1, 10_000),
    "n_latent": Bounds(1, 10_000),
    "n_neighbors": AT_LEAST_1,
    "n_points": Bounds(2, 100_000),
    "min_cells": AT_LEAST_1,
    "n_samples": Bounds(0, 10**6),
    "tl.differential.n_samples": Bounds(1, 10**6),
    "tl.posterior_check.n_samples": Bounds(10, 10**6),
    "n_seeds": Bounds(1, 10_000),
    "tl.tune.n_seeds": Bounds(0, 10_000),
    "n_steps": Bounds(1, 10**9),
    "n_top": AT_LEAST_1,
    "n_top_genes": AT_LEAST_1,
    "n_trials": Bounds(1, 10**6),
    "n_types": AT_LEAST_1,
    "ncols": AT_LEAST_1,
    "patience": AT_LEAST_1,
    "perplexity": Bounds(1, above=True),
    "resolution": POSITIVE,
    "resolutions": POSITIVE,
    "rng": Bounds(0, LARGEST_SEED),
    "seed": Bounds(0, LARGEST_SEED),
    "size": POSITIVE,
    "size_factor": POSITIVE,
    "target_kl": POSITIVE,
    "target_sum": POSITIVE,
    "theta": Bounds(1e-3),  # below, gamma draws leave the range of floats
    "threshold": AT_LEAST_0,
    "validation_fraction": Bounds(0, 0.9),
    "warmup": ZERO_TO_ONE,
    "weight_decay": AT_LEAST_0,
}

COLUMN, COLUMNS = "the name of a column of obs", "names of columns of obs"
COLUMN_OR_COLUMNS = "the name of a column of obs, or the different names of several"
DESCRIPTIONS: Mapping[str, str] = {
    "basis": "the name of an embedding in obsm",
    "neighbors_key": "the name of a graph of neighbours in uns",
    "batch": "the name of a batch",
    "batch_key": COLUMN_OR_COLUMNS,
    "condition_key": COLUMN,
    "checkpoint": "a folder",
    "clusters": COLUMN,
    "cmap": "the name of a colormap of matplotlib",
    "color": "names of columns of obs, or of genes",
    "pl.spatial_domains.color": "the name of a column of obs, or of a gene",
    "covariate_keys": COLUMNS,
    "covariates": COLUMNS,
    "data": "the path of a file",
    "decoder_hidden": "a sequence of widths: (128,), or () for no hidden layer",
    "device": "the name of a device, such as 'auto', 'cpu' or 'cuda:0'",
    "embeddings": "names of embeddings in obsm",
    "end": "the name of a cell, or of a group",
    "folder": "the path of a folder",
    "genes": "names of genes",
    "groupby": COLUMN,
    "groups": "names of groups",
    "tl.sample.groups": "a dict from columns of obs to labels, such as {'cell_type': 'B'}",
    "hidden": "a sequence of widths: (128,), or () for no hidden layer",
    "key": "a name in uns",
    "key_added": "a name without '/'",
    "keys": "names of embeddings in obsm",
    "label_key": COLUMN,
    "sample_key": COLUMN,
    "groups_key": COLUMNS,
    "labels_key": COLUMN,
    "layer": "the name of a layer",
    "likelihoods": "'nb', with which the others are compared, and one or more of 'zinb' and 'poisson'",
    "mask_var": "the name of a boolean column of var, an array of booleans",
    "controls": "the name of a boolean column of obs, an array of booleans",
    "palette": "a list of colours, the name of a colormap, a dict from labels to colours",
    "path": "the path of a file",
    "peaks_key": "the name of a table in obsm",
    "protein_key": "the name of a table in obsm",
    "reference": "a name",
    "tl.score.reference": "the name of an embedding in obsm",
    "size_factor": COLUMN,
    "slice_key": COLUMN_OR_COLUMNS,
    "space": "a dict such as {'n_latent': [10, 30], 'beta': (0.1, 2.0)}",
    "start": "the name of a cell, or of a group",
    "storage": "the name of a file, or a URL such as 'sqlite:///tune.db'",
    "time_key": COLUMN,
    "unlabeled": "the text that stands for no label",
    "variants": "a dict from names to arguments of sc_vaenb.tl.cvae, such as {'wide': {'hidden': (256,)}}",
    "via": "names of cells, or of groups",
}
# arguments that are names of groups; names of clusters are often numbers
GROUP_NAMES = {"batch", "end", "groups", "tl.differential.reference", "start", "via"}
NEEDS_BATCHES = (
    " This needs batches. Use sc_vaenb.tl.cvae(adata, batch_key=...)."  # advice for choices that tl.vae does not have
)
MAY_BE_EMPTY = {"command", "title", "unlabeled"}

NOT_ARRAYS = ("AnnData", "MuData", "SpatialData", "Mapping", "dict", "set")  # numpy would iterate over their items
CLASS_DESCRIPTIONS = {
    "Generator": "a numpy.random.Generator",
    "Figure": "a matplotlib Figure",
    "SubFigure": "a SubFigure",
    "Neighbors": "what sc_vaenb.metrics.knn returns",
    "ClusterScore": "what sc_vaenb.metrics.cluster_scores returns",
}


def is_a(value: object, *names: str) -> bool:
    """Whether the class of a value, or one that it inherits from, has one of these names."""
    return any(kind.__name__ in names for kind in type(value).__mro__)
