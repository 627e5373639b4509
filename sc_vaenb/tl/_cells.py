"""Cells as replicates in `tl.differential`: check the groups, compare their cells; the table of a comparison."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from .. import _obs
from .._record import FittedModel
from ..data.counts import Counts
from ..inference.differential import Difference, StratumSums, difference, overdispersion, stratum_sums
from ..inference.donors import Comparison
from ..inference.shrink import Shrunken, false_discovery_rate, shrink

MIN_CELLS_PER_GROUP = 2  # one cell does not show how much cells vary


def check_cells(codes: NDArray[np.int64], names: list[str], references: dict[int, list[int]], reference: str) -> None:
    """Raise if a group has too few cells."""
    for group, rest in references.items():
        for name, cells in ((names[group], codes == group), (reference, np.isin(codes, rest))):
            if cells.sum() < MIN_CELLS_PER_GROUP:
                msg = f"group {name!r} has one cell, too few to compare. Leave it out of groups, or merge it."
                raise ValueError(msg)


def check_batches(
    codes: NDArray[np.int64],
    batch: NDArray[np.int64],
    names: list[str],
    references: dict[int, list[int]],
    reference: str,
    batch_key: str | Sequence[str] | None,
) -> None:
    """Raise if a group shares no batch with its reference."""
    for group, rest in references.items():
        if not np.intersect1d(batch[codes == group], batch[np.isin(codes, rest)]).size:
            msg = (
                f"no batch holds cells of both {names[group]!r} and {reference!r}, so that their difference cannot be "
                "told from that of the batches. If each batch is a donor or a sample, compare donors with "
                f"sample_key={_obs.as_one_column(batch_key)} (at least two on each side are needed). Otherwise "
                "leave the group out of groups, or choose another reference."
            )
            raise ValueError(msg)


def compare_by_cells(
    fitted: FittedModel,
    counts: Counts,
    codes: NDArray[np.int64],
    used: NDArray[np.bool_],
    references: dict[int, list[int]],
    delta: float,
    n_samples: int,
    device: torch.device,
    rng: int,
) -> dict[int, pd.DataFrame]:
    """A table per group, with a row per gene. Cells are the replicates."""
    n_batches = max(len(fitted.batches), 1)
    stratum = np.where(used, codes * n_batches + counts.batch_index, -1)
    sums = stratum_sums(fitted.model, counts, stratum, n_samples, device, rng)
    by_group = {
        g: {code % n_batches: s for code, s in sums.items() if code // n_batches == g} for g in range(codes.max() + 1)
    }
    dispersion = overdispersion(list(sums.values()))
    per_10k = 1e4 * counts.size_factor[used].sum(dtype=np.float64) / sum(s.count.sum() for s in sums.values())
    return {
        g: _table(fitted.genes, by_group[g], _sum_groups([by_group[i] for i in rest]), dispersion, delta, per_10k)
        for g, rest in references.items()
    }


def _sum_groups(groups: Sequence[dict[int, StratumSums]]) -> dict[int, StratumSums]:
    """The sums of several groups, by batch."""
    total: dict[int, StratumSums] = {}
    for group in groups:
        for batch, sums in group.items():
            total[batch] = total[batch] + sums if batch in total else sums
    return total


def _table(
    genes: list[str],
    group: dict[int, StratumSums],
    rest: dict[int, StratumSums],
    dispersion: NDArray[np.float64],
    delta: float,
    per_10k: float,
) -> pd.DataFrame:
    """One group against its reference, a row per gene, the highest scores first."""
    result = difference(group, rest, dispersion)
    effect = shrink(result.log2_fold, result.sd, delta)
    shares = _share_expressing(group), _share_expressing(rest)
    return gene_table(genes, result, effect, false_discovery_rate(effect.local_fdr), per_10k, shares)


def _share_expressing(group: dict[int, StratumSums]) -> NDArray[np.float64]:
    return np.sum([s.cells_expressing for s in group.values()], axis=0) / sum(s.n for s in group.values())


def gene_table(
    genes: list[str],
    result: Difference | Comparison,
    effect: Shrunken,
    fdr: NDArray[np.float64],
    per_10k: float,
    shares: tuple[NDArray[np.float64], NDArray[np.float64]],
    **more_columns: NDArray[np.float64],
) -> pd.DataFrame:
    """The columns of both comparisons, by cells and by donors: a row per gene, the highest scores first.

    `shares`: of the cells of the group and of the reference that express each gene.
    """
    table = pd.DataFrame(
        {
            "names": genes,
            "scores": result.log2_fold / result.sd,
            "logfoldchanges": effect.mean,
            "probability": 1 - effect.local_fdr,
            "local_fdr": effect.local_fdr,
            "fdr": fdr,
            "mean_group": per_10k * result.rate,
            "mean_reference": per_10k * result.reference_rate,
            "pct_nz_group": shares[0],
            "pct_nz_reference": shares[1],
            **more_columns,
        }
    )
    return table.sort_values("scores", ascending=False, kind="stable", ignore_index=True)
