"""Whether fits with other seeds make the same cells neighbours."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .. import _adata
from ..metrics import knn
from ._findings import SEEDS, Finding

if TYPE_CHECKING:
    from anndata import AnnData

N_CELLS = 2_000  # among which neighbours are looked for
N_NEIGHBORS = 15
LOW = 0.2  # of the neighbours: seeds that have less in common differ in more than the noise of counts


def seed_overlap(adata: AnnData, methods: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Mean share of a cell's nearest neighbours that two fits of a method have in common, over pairs of seeds."""
    cells = np.sort(np.random.default_rng(seed).permutation(adata.n_obs)[:N_CELLS])
    k = min(N_NEIGHBORS, len(cells) - 1)
    rows = []
    for method, keys in methods.groupby("method", sort=False)["embedding"]:
        if len(keys) > 1:
            embeddings = [_adata.read_embedding(adata, str(key))[cells] for key in keys]
            near = [knn(embedding, k + 1).indices[:, 1:] for embedding in embeddings]
            shared = [_shared(one, other) for one, other in combinations(near, 2)]
            rows.append((str(method), len(keys), float(np.mean(shared))))
    table = pd.DataFrame(rows, columns=["method", "n_seeds", "overlap"])
    return table.astype({"method": object, "n_seeds": np.int64, "overlap": np.float64})


def seeds_in_words(overlap: pd.DataFrame) -> list[Finding]:
    """A finding for each method with several seeds; only those that disagree have a sentence of their own."""
    found = []
    for row in overlap.itertuples():
        numbers = (
            f"Of the {N_NEIGHBORS} nearest cells, {row.overlap:.0%} are the same in two fits on average "
            f"({row.n_seeds} seeds)."
        )
        if row.overlap < LOW:
            text = (
                f"{row.method} depends on the seed: most neighbours of a cell are others in the next fit. Do not rely "
                "on who is next to whom within a type."
            )
            found.append(Finding(SEEDS, str(row.method), "no", "high", text, numbers))
        else:
            text = f"Fits of {row.method} with other seeds have neighbours in common."
            found.append(Finding(SEEDS, str(row.method), "yes", "high", text, numbers))
    return found


def _shared(one: NDArray[np.intp], other: NDArray[np.intp]) -> float:
    """Mean share of neighbours in common."""
    return float((one[:, :, None] == other[:, None, :]).any(2).mean())
