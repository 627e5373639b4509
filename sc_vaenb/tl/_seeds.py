"""Whether fits with different seeds give the same nearest neighbours."""

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

N_CELLS = 2_000  # cells among which neighbours are searched
N_NEIGHBORS = 15
LOW = 0.2  # share of common neighbours, below which fits differ by more than the noise of the counts explains


def seed_overlap(adata: AnnData, methods: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The share of a cell's nearest neighbours that two fits have in common: mean over cells and pairs of seeds."""
    cells = np.sort(np.random.default_rng(seed).permutation(adata.n_obs)[:N_CELLS])
    k = min(N_NEIGHBORS, len(cells) - 1)
    rows = []
    for method, keys in methods.groupby("method", sort=False)["embedding"]:
        if len(keys) > 1:
            embeddings = [_adata.read_embedding(adata, str(key))[cells] for key in keys]
            neighbors = [knn(embedding, k + 1).indices[:, 1:] for embedding in embeddings]
            overlaps = [_overlap(first, second) for first, second in combinations(neighbors, 2)]
            rows.append((str(method), len(keys), float(np.mean(overlaps))))
    table = pd.DataFrame(rows, columns=["method", "n_seeds", "overlap"])
    return table.astype({"method": object, "n_seeds": np.int64, "overlap": np.float64})


def seeds_in_words(overlap: pd.DataFrame) -> list[Finding]:
    """A finding for each method with several seeds."""
    findings = []
    for row in overlap.itertuples():
        numbers = (
            f"Of the {N_NEIGHBORS} nearest cells, {row.overlap:.0%} are the same in two fits on average "
            f"({row.n_seeds} seeds)."
        )
        if row.overlap < LOW:
            text = (
                f"{row.method} depends on the seed: most neighbours of a cell differ between fits. Do not interpret "
                "which cells are neighbours within a type."
            )
            findings.append(Finding(SEEDS, str(row.method), "no", "high", text, numbers))
        else:
            text = f"Fits of {row.method} with other seeds have neighbours in common."
            findings.append(Finding(SEEDS, str(row.method), "yes", "high", text, numbers))
    return findings


def _overlap(first: NDArray[np.intp], second: NDArray[np.intp]) -> float:
    """Mean share of common neighbours (both cells x neighbours)."""
    return float((first[:, :, None] == second[:, None, :]).any(2).mean())
