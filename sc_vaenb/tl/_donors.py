"""Donors as replicates in `tl.differential`: find their column, plan the comparisons, compare the donors."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scanpy import logging as logg
from scipy.stats import false_discovery_control, t

from .. import _obs
from .._names import codes_of, n_values
from ..data.counts import Counts
from ..inference.donors import DesignError, DonorBatch, Moments, Plan, compare_donors, plan, stratum_moments, total
from ..inference.shrink import false_discovery_rate, shrink
from ._cells import gene_table

if TYPE_CHECKING:
    from anndata import AnnData

# Names of columns that hold replicates, the most certain first. Batches are replicates if each is within one group.
DONOR_NAMES = (
    *("donor", "patient", "individual", "subject", "participant", "person", "animal", "mouse", "mice", "rat", "pig"),
    *("monkey", "specimen", "biosample", "sample", "replicate"),
)
BATCH_NAMES = ("library", "batch", "lane", "pool", "run", "chip", "orig")
SUFFIX = r"s?([_. ]?(id|ids|name|label|code|key|nr|no|num|number|index|ident))?"
MAX_DONORS_PER_CELL = 0.1  # a column with more values per cell does not hold donors


class Donors(NamedTuple):
    """The donor of each cell: codes, and names by code."""

    key: str
    codes: NDArray[np.int64]
    names: list[str]


def read_donors(adata: AnnData, sample_key: str, groupby: str, used: NDArray[np.bool_]) -> Donors:
    """The donors of the cells that are compared."""
    _obs.check_obs_key(adata, "sample_key", sample_key)
    if sample_key == groupby:
        msg = f"sample_key={sample_key!r} is also groupby. Give the column of obs with the donor of each cell."
        raise ValueError(msg)
    column = adata.obs[sample_key]
    missing = column.isna().to_numpy() & used
    if missing.any():
        msg = (
            f"obs[{sample_key!r}] is missing for {missing.sum()} of the cells to compare (first: "
            f"{str(adata.obs_names[int(np.argmax(missing))])!r}). Label or remove them."
        )
        raise ValueError(msg)
    codes, values = codes_of(column, sort=True)
    return Donors(sample_key, codes.astype(np.int64), [str(value) for value in values])


def plan_comparisons(
    donors: Donors,
    batch: NDArray[np.int64],
    codes: NDArray[np.int64],
    names: Sequence[str],
    references: Mapping[int, Sequence[int]],
    reference: str,
    batch_key: str | Sequence[str] | None,
) -> dict[int, Plan]:
    """How each group is compared with its reference. Raise if these donors do not allow the comparison."""

    def donor_batches(groups: Sequence[int]) -> set[DonorBatch]:
        cells = np.isin(codes, groups)
        return set(zip(donors.codes[cells].tolist(), batch[cells].tolist(), strict=True))

    plans = {}
    for group, rest in references.items():
        sides = donor_batches([group]), donor_batches(rest)
        try:
            plans[group] = plan(*sides)
        except DesignError as error:
            donors_of_sides = [{donor for donor, _ in side} for side in sides]
            pair = (names[group], reference)
            too_few = str(error) == "donors"
            message = (
                _too_few_donors(donors, pair, donors_of_sides) if too_few else _no_shared_batch(donors, pair, batch_key)
            )
            raise ValueError(message) from None
    return plans


def _too_few_donors(donors: Donors, pair: tuple[str, str], donors_of_sides: Sequence[set[int]]) -> str:
    side = int(len(donors_of_sides[0]) >= len(donors_of_sides[1]))
    only = ", ".join(repr(donors.names[donor]) for donor in donors_of_sides[side])
    return (
        f"{pair[side]!r} has cells of only one donor ({only} in obs[{donors.key!r}]), which does not show how donors "
        "differ. At least two donors are needed on each side. Add donors, or leave the group out of groups; or leave "
        "out sample_key: the result then holds for the cells of these donors, not for others."
    )


def _no_shared_batch(donors: Donors, pair: tuple[str, str], batch_key: str | Sequence[str] | None) -> str:
    return (
        f"no batch in obs[{batch_key!r}] holds donors of both {pair[0]!r} and {pair[1]!r}, and batches hold several "
        "donors each, so the difference cannot be told from that of the batches. If batches are the replicates, pass "
        f"sample_key={_obs.as_one_column(batch_key)}. Otherwise leave the group out of groups, or choose another "
        "reference."
    )


def _n_donors(design: Plan) -> dict[str, int]:
    units = [*(unit for pair in design.pairs for unit in pair), *design.units]
    n_group, n_reference = (len({unit.donor for unit in units if unit.side == side}) for side in (0, 1))
    return {
        "n_donors_group": n_group,
        "n_donors_reference": n_reference,
        "n_pairs": len({pair[0].donor for pair in design.pairs}),
    }


def compare_by_donors(
    counts: Counts,
    genes: list[str],
    donors: Donors,
    codes: NDArray[np.int64],
    names: Sequence[str],
    used: NDArray[np.bool_],
    references: Mapping[int, Sequence[int]],
    plans: Mapping[int, Plan],
    delta: float,
) -> tuple[dict[int, pd.DataFrame], dict[int, dict[str, float]]]:
    """For each group a table with a row per gene, and a summary: numbers of donors and the prior of their variances."""
    n_batches, n_donors = int(counts.batch_index.max()) + 1, len(donors.names)
    stratum = np.where(used, (codes * n_donors + donors.codes) * n_batches + counts.batch_index, -1)
    moments = stratum_moments(counts.matrix, counts.size_factor, stratum)
    by_group: dict[int, dict[DonorBatch, Moments]] = {}
    for code, stratum_sums in moments.items():
        group_donor, batch = divmod(code, n_batches)
        group, donor = divmod(group_donor, n_donors)
        by_group.setdefault(group, {})[donor, batch] = stratum_sums
    per_10k = 1e4 * counts.size_factor[used].sum(dtype=np.float64) / sum(m.x.sum() for m in moments.values())
    tables, summaries = {}, {}
    for group, rest in references.items():
        sides = by_group[group], _sum_groups([by_group[i] for i in rest if i in by_group])
        tables[group], prior_df = _table(genes, *sides, plans[group], delta, per_10k)
        n = summaries[group] = {**_n_donors(plans[group]), "prior_df": prior_df}
        logg.info(
            f"    {names[group]!r}: {n['n_donors_group']} donors against {n['n_donors_reference']}, "
            f"{n['n_pairs']} of them with cells of both"
        )
    return tables, summaries


def _sum_groups(groups: Sequence[Mapping[DonorBatch, Moments]]) -> dict[DonorBatch, Moments]:
    keys = {key for group in groups for key in group}
    return {key: total(group[key] for group in groups if key in group) for key in sorted(keys)}


def _table(
    genes: list[str],
    group: Mapping[DonorBatch, Moments],
    rest: Mapping[DonorBatch, Moments],
    design: Plan,
    delta: float,
    per_10k: float,
) -> tuple[pd.DataFrame, float]:
    """One group against its reference, the highest scores first, and the degrees of freedom of the prior."""
    result = compare_donors(group, rest, design)
    effect = shrink(result.log2_fold, result.sd, delta, result.df)
    p_value = 2 * t.sf(np.abs(result.log2_fold / result.sd), result.df)
    # The first is valid if the errors of genes are independent, the second also if a few donors change many
    fdr = np.maximum(false_discovery_rate(effect.local_fdr), false_discovery_control(p_value))
    sides = total(group.values()), total(rest.values())
    shares = sides[0].cells_expressing / sides[0].n_cells, sides[1].cells_expressing / sides[1].n_cells
    donor_columns = {"p_value": p_value, "df": result.df, "donor_sd": result.donor_sd}
    return gene_table(genes, result, effect, fdr, per_10k, shares, **donor_columns), result.prior_df


def warn_about_donors(adata: AnnData, groupby: str, codes: NDArray[np.int64], used: NDArray[np.bool_]) -> None:
    """Warn if a column of obs seems to hold donors; called without `sample_key`."""
    column = find_donors(adata.obs.loc[used], groupby, codes[used])
    if column is not None:
        n = adata.obs.loc[used, column].nunique()
        logg.warning(
            f"obs[{column!r}] seems to hold {n} donors or samples. Cells of one donor are alike, and fdr does not "
            f"cover how donors differ: it holds for these donors only. Pass sample_key={column!r} to compare donors."
        )


def find_donors(obs: pd.DataFrame, groupby: str, codes: NDArray[np.int64]) -> str | None:
    """The column that most likely holds donors, or None. `codes` are the groups of the cells."""
    for names, nested_only in ((DONOR_NAMES, False), (BATCH_NAMES, True)):
        for name in names:
            pattern = re.compile(rf"(\w+[_. ])?{name}{SUFFIX}", re.IGNORECASE)
            for column in obs.columns[~obs.columns.duplicated(keep=False)]:
                if column != groupby and pattern.fullmatch(str(column)) and _is_donor(obs[column], codes, nested_only):
                    return str(column)
    return None


def _is_donor(column: pd.Series, codes: NDArray[np.int64], nested_only: bool) -> bool:
    """Whether there are few values, either nested in the groups and more than groups, or shared by groups.

    With `nested_only`, values that groups share do not count.
    """
    if pd.api.types.is_float_dtype(column) or pd.api.types.is_bool_dtype(column) or column.isna().any():
        return False
    n_donors, n_groups = n_values(column), len(np.unique(codes))
    if n_donors < 2 or n_donors > max(MAX_DONORS_PER_CELL * len(codes), 2):
        return False
    n_combinations = len(np.unique(pd.factorize(column)[0] * (codes.max() + 1) + codes))
    nested = n_combinations == n_donors
    return (nested and n_donors > n_groups) or (not nested and not nested_only)
