"""Test which column of `obs` is the batch: whether cells of one type differ between its values."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .._names import n_values, texts
from ..metrics.separation import batch_separation, shifted_batches
from ._donors import BATCH_NAMES, DONOR_NAMES, SUFFIX
from ._findings import Confidence, Finding, listed, number, p_value
from ._needed import LEVEL, MIXED

if TYPE_CHECKING:
    from anndata import AnnData

BATCH_COLUMN = "Which column is the batch?"
MIN_CELLS_PER_VALUE = 20  # mean number of cells per value of a column that may be the batch
MAX_COLUMNS_TESTED = 10
MIN_SHARE_TESTED = 0.1  # share of the cells that a test must cover
CLUSTERINGS = ("leiden", "louvain", "cluster")
TECHNICAL = ("tech", "technology", "platform", "chemistry", "plate", "assay", "protocol", "channel")
BATCH_COLUMN_NAMES = (*DONOR_NAMES, *BATCH_NAMES, *TECHNICAL, "site", "study", "dataset")
NAMES_A_BATCH = re.compile(rf"(\w+[_. ])?({'|'.join(BATCH_COLUMN_NAMES)}){SUFFIX}", re.IGNORECASE)


def find_candidates(adata: AnnData, batch: NDArray[Any], batch_key: str, excluded: set[str | None]) -> pd.DataFrame:
    """Columns of obs that may be the batch, as text; `batch_key` is one of them."""
    candidates = {batch_key: batch}
    n_names = adata.obs.columns.value_counts()
    for key in map(str, n_names.index[n_names == 1]):
        if key in excluded | {batch_key} or key.lower().startswith(CLUSTERINGS) or key not in adata.obs:
            continue
        column = adata.obs[key]
        kind = getattr(column.dtype, "kind", "O")
        if kind not in "Oib" and not isinstance(column.dtype, pd.CategoricalDtype | pd.StringDtype):
            continue
        if column.isna().any() or not 2 <= n_values(column) <= max(2, adata.n_obs // MIN_CELLS_PER_VALUE):
            continue
        if kind == "i" and not NAMES_A_BATCH.fullmatch(key):  # usually counts or scores
            continue
        if _relation(values := texts(column).astype(str), batch) != "crossed" or NAMES_A_BATCH.fullmatch(key):
            candidates[key] = values
        if len(candidates) > MAX_COLUMNS_TESTED:
            break
    return pd.DataFrame(candidates, index=adata.obs_names)


def _relation(values: NDArray[Any], batch: NDArray[Any]) -> str:
    """Whether the values are the batches by other names, or finer, coarser, or neither ("crossed")."""
    pairs = pd.DataFrame({"value": values, "batch": batch}).drop_duplicates()
    finer, coarser = not pairs["value"].duplicated().any(), not pairs["batch"].duplicated().any()
    return {(True, True): "same", (True, False): "finer", (False, True): "coarser"}.get((finer, coarser), "crossed")


def find_batch_column(
    reference: NDArray[np.float32],
    batch: NDArray[Any],
    strata: NDArray[Any],
    columns: pd.DataFrame,
    batch_key: str,
    labelled: bool,
) -> tuple[Finding, pd.DataFrame]:
    """The finest column whose values differ within the values of the next coarser column, and the tests."""
    strata = strata.astype(str)
    relation = {str(key): _relation(columns[key].to_numpy(), batch) for key in columns}
    ordered = sorted(relation, key=lambda key: (columns[key].nunique(), key != batch_key))
    chain: list[str] = [batch_key]  # columns, each nested in the one before it
    for key in ordered:
        relations = [_relation(columns[key].to_numpy(), columns[other].to_numpy()) for other in chain]
        if key != batch_key and all(name in {"finer", "coarser"} for name in relations):
            chain.append(key)
    chain.sort(key=lambda key: columns[key].nunique())
    rows, shifted = [], set()
    for key in ordered:
        if key in chain:
            level = chain.index(key)
            within = chain[level - 1] if level else ""
        elif any(_relation(columns[key].to_numpy(), columns[other].to_numpy()) == "same" for other in chain):
            # the same column by another name
            rows.append([key, columns[key].nunique(), relation[key], "", np.nan, np.nan, 0.0])
            continue
        else:
            within = batch_key
        parts = strata if not within else np.char.add(np.char.add(strata, "\t"), columns[within].to_numpy().astype(str))
        test = batch_separation(reference, columns[key].to_numpy().astype(str), parts)
        rows.append([key, columns[key].nunique(), relation[key], within, test.excess, test.p, test.tested])
        if not labelled and test.tested < MIN_SHARE_TESTED and _differ_by_a_shift(reference, columns, key, within):
            shifted.add(key)
    names = ["column", "n_values", "relation", "within", "separation", "p", "tested"]
    table = pd.DataFrame(rows, columns=names).set_index("column")
    differs = (table["separation"] >= MIXED) & (table["p"] <= LEVEL) & (table["tested"] >= MIN_SHARE_TESTED)
    differs |= table.index.isin(shifted)
    choice = next((key for key in reversed(chain) if differs[key]), "")
    return _batch_column_in_words(table, chain, choice, differs, shifted, batch_key, labelled), table


def _differ_by_a_shift(reference: NDArray[np.float32], columns: pd.DataFrame, key: str, within: str) -> bool:
    """Whether a shift moves the clusters of each value onto those of the others: the same kinds of cells, far apart."""
    one_group = pd.Series("", index=columns.index)
    parts = [part for _, part in columns.groupby(columns[within] if within else one_group) if part[key].nunique() > 1]
    rows_of = columns.index.get_indexer
    groups = (shifted_batches(reference[rows_of(part.index)], part[key].to_numpy().astype(str)) for part in parts)
    return all(not group.any() for group in groups)


def _batch_column_in_words(
    table: pd.DataFrame,
    chain: list[str],
    answer: str,
    differs: pd.Series,
    shifted: set[str],
    batch_key: str,
    labelled: bool,
) -> Finding:
    kind = "types" if labelled else "clusters"

    def numbers(key: str) -> str:
        row = table.loc[key]
        if key in shifted:
            return (
                f"{key!r}: its values share no cluster, but one shift moves the clusters of one onto those of another."
            )
        if not row["tested"] >= MIN_SHARE_TESTED:
            return f"{key!r}: not tested, because too few cells are of {kind} that two of its values share."
        where = f" within {row['within']!r}" if row["within"] else ""
        return f"{key!r}{where}: {number(max(row['separation'], 0))}, p {p_value(row['p'])}."

    evidence = f"Separation of neighbours within {kind} (0 = fully mixed, 1 = fully separated): "
    evidence += " ".join(numbers(key) for key in chain)
    confidence: Confidence = "high" if labelled else "moderate"
    if answer:
        text = _choice_in_words(chain, batch_key, answer)
    elif (table.loc[chain, "tested"] >= MIN_SHARE_TESTED).all():
        answer = "none"
        text = f"Cells do not differ between values of {listed([repr(key) for key in chain])}: no batch effect is seen."
    else:
        answer = "cannot be told"
        untested = listed([repr(key) for key in chain if table.loc[key, "tested"] < MIN_SHARE_TESTED])
        text = (
            f"Which column is the batch cannot be told, because the values of {untested} have hardly any {kind} in "
            "common."
        )
    crossed = [str(key) for key in table.index if table.loc[key, "relation"] == "crossed" and differs[key]]
    if crossed:
        text += (
            f" Within batches, cells of one kind also differ between values of {listed([repr(c) for c in crossed])}: "
            f"if that is technical, pass covariate_keys={crossed}."
        )
    return Finding(BATCH_COLUMN, batch_key, answer, confidence, text, evidence)


def _choice_in_words(chain: list[str], batch_key: str, answer: str) -> str:
    level, batch_level = chain.index(answer), chain.index(batch_key)
    if level == batch_level:
        finer = [repr(key) for key in chain[batch_level + 1 :]]
        end = f", and those of {listed(finer)} within it do not." if finer else "."
        return f"{batch_key!r} is a good choice of batch: its values differ{end}"
    if level > batch_level:
        return (
            f"{batch_key!r} is too coarse: within its values, cells of one kind differ between values of {answer!r}. "
            f"If {answer!r} names libraries, samples or runs, use batch_key={answer!r}."
        )
    return (
        f"{batch_key!r} is finer than needed: its values do not differ within those of {answer!r}, which do. If "
        f"{answer!r} is technical, batch_key={answer!r} is enough; if it is biological, such as a condition, no "
        "correction is needed."
    )
