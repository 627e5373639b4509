from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scanpy import logging as logg
from scipy.sparse.csgraph import connected_components

from .. import _adata, _obs
from .._checks import checked, seed_of
from .._session import own_state
from ..metrics.separation import clusters
from ._arguments import to_uns
from ._batch_column import BATCH_COLUMN, find_batch_column, find_candidates
from ._findings import MAX_JUDGED, Finding, few, listed
from ._pca import log_pca

if TYPE_CHECKING:
    from anndata import AnnData

SHARED, CONDITION, ONE_SIDED = (
    "Which batches share types?",
    "Can conditions be told from batches?",
    "Which types can be compared between conditions?",
)
MIN_CELLS_PER_TYPE = 10  # cells of a type in a batch, for the type to count as present there
MIN_SHARE_OF_BATCH = 0.02  # the same, as a share of the batch
TOO_SMALL = f"fewer than {MIN_CELLS_PER_TYPE} cells, or {MIN_SHARE_OF_BATCH:.0%} of the batch, in every batch"


@dataclass(frozen=True)
class Design:
    """Numbers of cells per batch, condition and type; tests of columns that may be the batch; and the findings."""

    cells: pd.DataFrame
    columns: pd.DataFrame
    findings: pd.DataFrame

    def in_words(self) -> str:
        """One line per finding."""
        return "\n".join(f"{row.sentence} {row.evidence}".strip() for row in self.findings.itertuples())


@own_state()
@checked
def design(
    adata: AnnData,
    batch_key: str | Sequence[str],
    *,
    label_key: str | None = None,
    condition_key: str | None = None,
    layer: str | None = "counts",
    mask_var: str | NDArray[np.bool_] | None = "highly_variable",
    rng: int | np.random.Generator | None = 0,
    key_added: str = "design",
    copy: bool = False,
) -> AnnData | None:
    """Say, before any fit, which questions the design of the data can answer.

    The design is how batches, types and conditions are combined. No method can separate factors that always occur
    together. If two batches share no cell type, a batch effect between them cannot be told from biology. If a condition
    is in one batch only, its effect cannot be told from that of the batch. This function reads the design from `obs`,
    and tests in the counts which columns may be the batch (donor, library, technology).
    :func:`sc_vaenb.tl.compare` calls it first.

    Parameters
    ----------
    adata
        Cells x genes, prepared by :func:`sc_vaenb.pp.prepare`.
    batch_key
        Column of `obs` with the batch of each cell, or several columns, as in :func:`sc_vaenb.tl.cvae`; two batches or
        more.
    label_key
        Column of `obs` with cell types. `None`: types are not looked at, and columns are tested within clusters.
    condition_key
        Column of `obs` with the conditions to compare, such as treated and control.
    layer, mask_var
        Counts and genes, as in :func:`sc_vaenb.tl.cvae`.
    rng
        Seed.
    key_added
        Where in `uns` the result goes.
    copy
        Work on a copy of `adata` and return it.

    Returns
    -------
    `None`, or the copy if `copy`. `uns["design"]` holds

    `findings`
        DataFrame: `question`, `subject` (a column of `obs`), `answer`, `confidence`, `sentence`, `evidence`.
    `cells`
        DataFrame: `n_cells` of each combination of `batch`, `condition` and `label` in the data.
    `columns`
        DataFrame, a row per column of `obs` that may be the batch. `n_values`; `relation` to `batch_key` (each value of
        a `finer` column is in one batch; each batch is in one value of a `coarser` column); `within`: the values were
        compared within the values of this column (and within types); `separation` of the values among neighbours
        (0 = fully mixed, 1 = fully separated), and its `p` from permutations; `tested`: share of the cells tested.
    `params`
        The parameters.

    Raises
    ------
    KeyError, TypeError, ValueError
        A key does not exist, the counts are not counts, or two keys are the same. `adata` is unchanged.

    See Also
    --------
    sc_vaenb.tl.compare : Runs this before any fit.
    sc_vaenb.tl.cvae : The fit; see `overlap` there.

    Notes
    -----
    A type counts as present in a batch if it has at least 10 cells there (or 2 % of the batch, if that is more). Types
    and conditions that are present in no batch are named as too small to be judged. *The batch* is the finest column
    whose values differ within those of the next coarser column: among cells of one type, separation is at least 0.05
    and p at most 0.01. The test cannot tell technology from biology: it says where there are differences, not what they
    are.

    Examples
    --------
    >>> import sc_vaenb
    >>> adata = sc_vaenb.datasets.simulate()
    >>> sc_vaenb.pp.prepare(adata, batch_key="batch")
    >>> sc_vaenb.tl.design(adata, "batch", label_key="cell_type")
    >>> print(adata.uns["design"]["findings"]["sentence"].tolist())
    """
    seed = seed_of(rng)
    _adata.check_key_added(adata, key_added)
    _adata.check_can_be_subset(adata)
    result = audit(adata, batch_key, label_key, condition_key, layer, mask_var, seed)
    params = {"batch_key": batch_key, "label_key": label_key, "condition_key": condition_key, "rng": seed}
    adata = adata.copy() if copy else adata
    record = {
        "findings": result.findings,
        "cells": result.cells,
        "columns": result.columns,
        "params": to_uns(params),
    }
    _adata.write_record(adata, key_added, record)
    logg.info(result.in_words(), deep=f"added\n    {key_added!r}, the findings and their tables (adata.uns)")
    return adata if copy else None


def audit(
    adata: AnnData,
    batch_key: str | Sequence[str],
    label_key: str | None,
    condition_key: str | None,
    layer: str | None,
    mask_var: str | NDArray[np.bool_] | None,
    seed: int,
) -> Design:
    """Find the design in obs, and test columns in the PCA of at most 20,000 cells. `adata` is unchanged."""
    keys = {"batch_key": batch_key, "label_key": label_key, "condition_key": condition_key}
    columns_of = {name: _obs.columns_of(key) for name, key in keys.items() if key is not None}
    for first, second in combinations(columns_of, 2):
        if common := [key for key in columns_of[first] if key in columns_of[second]]:
            msg = f"{first} and {second} both name {common[0]!r}. Give two different columns of obs."
            raise ValueError(msg)
    codes, batches = _obs.read_batches(adata, batch_key)
    batch = batches[codes].astype(str)
    label = None if label_key is None else _obs.read_labels(adata, "label_key", label_key)
    condition = None if condition_key is None else _obs.read_labels(adata, "condition_key", condition_key)
    if condition is not None and len(set(condition.tolist()) - {None}) < 2:
        msg = f"obs[{condition_key!r}] holds fewer than two conditions: there is nothing to compare. Leave it out."
        raise ValueError(msg)
    findings: list[Finding] = []
    if label is not None:
        findings += _shared_types(batch, label)
    if condition is not None:
        assert condition_key is not None
        findings.append(_confounded(batch, condition, batch_key, condition_key))
        if label is not None:
            findings += _comparable(batch, condition, label, batch_key, condition_key)
    title = _obs.title_of(batch_key)
    columns = find_candidates(adata, batch, title, {label_key, condition_key})
    labelled_cells = np.flatnonzero(label != None) if label is not None else np.array([])  # noqa: E711 (elementwise)
    labelled = len(labelled_cells) >= 2 * MIN_CELLS_PER_TYPE
    testable_cells = labelled_cells if labelled else np.arange(adata.n_obs)
    cells = np.sort(np.random.default_rng(seed).permutation(testable_cells)[:MAX_JUDGED])
    table = pd.DataFrame(columns=["n_values", "relation", "within", "separation", "p", "tested"])
    if min(len(cells), _adata.gene_mask(adata, mask_var).sum()) < 2:  # no PCA, but tl.compare continues
        text = "Which column is the batch cannot be told: the PCA for the test needs two cells and two genes at least."
        finding = Finding(BATCH_COLUMN, title, "cannot be told", "high", text)
    else:
        reference = log_pca(adata if len(cells) == adata.n_obs else adata[cells], layer, mask_var, seed)
        strata = label[cells].astype(str) if label is not None and labelled else clusters(reference)
        columns = columns.iloc[cells].reset_index(drop=True)
        finding, table = find_batch_column(reference, batch[cells], strata, columns, title, labelled)
    findings.append(finding)
    return Design(_count_cells(batch, condition, label), table, pd.DataFrame([asdict(finding) for finding in findings]))


def _count_cells(batch: NDArray[Any], condition: NDArray[Any] | None, label: NDArray[Any] | None) -> pd.DataFrame:
    parts = {"batch": batch, "condition": condition, "label": label}
    table = pd.DataFrame({name: values for name, values in parts.items() if values is not None}).astype(object)
    table = table.fillna("")
    return table.value_counts(sort=False).rename("n_cells").reset_index()


def _present(batch: NDArray[Any], label: NDArray[Any]) -> pd.DataFrame:
    """Whether each batch (rows) has enough cells of each type or condition (columns) that some batch has."""
    table = pd.crosstab(batch, label)  # leaves out cells without a label
    min_cells = np.minimum(np.maximum(MIN_CELLS_PER_TYPE, MIN_SHARE_OF_BATCH * table.sum(axis=1)), table.max(axis=1))
    return table.ge(min_cells, axis=0).loc[:, lambda present: present.any()]


def _too_small(values: NDArray[Any], present: pd.DataFrame) -> list[str]:
    """The types or conditions that no batch has enough cells of."""
    return sorted({str(value) for value in values if value is not None} - set(present.columns.astype(str)))


def _linked_sets(present: pd.DataFrame) -> list[list[str]]:
    """Sets of rows that share a column, directly or through other rows."""
    matrix = present.to_numpy().astype(int)
    codes = connected_components(matrix @ matrix.T > 0, directed=False)[1]
    return [present.index[codes == code].astype(str).tolist() for code in np.unique(codes)]


def _sets_in_words(sets: Sequence[Sequence[str]]) -> str:
    return " | ".join(few(names) for names in sets[:6]) + (" | ..." if len(sets) > 6 else "")


def _shared_types(batch: NDArray[Any], label: NDArray[Any]) -> list[Finding]:
    present = _present(batch, label)
    if present.empty:
        text = "Which batches share types cannot be told, because no cell has a label."
        return [Finding(SHARED, "", "cannot be told", "high", text)]
    sets = _linked_sets(present)
    n_batches, n_types = present.shape
    n_in_all, in_one = present.all().sum(), present.columns[present.sum() == 1].astype(str).tolist()
    too_small = _too_small(label, present)
    evidence = f"Of {n_types + len(too_small)} types, {n_in_all} are in every batch and {len(in_one)} in one batch only"
    evidence += f" ({few(in_one)})." if in_one else "."
    if too_small:
        evidence += f" {len(too_small)} are too small to be judged ({TOO_SMALL}): {few(too_small)}."
    if len(sets) > 1:
        text = (
            f"The batches fall into {len(sets)} sets without a type in common: {_sets_in_words(sets)}. Between the "
            "sets no method can tell a batch effect from biology: leave tl.cvae at overlap='auto', which corrects "
            "within sets only."
        )
        return [Finding(SHARED, "", "no", "high", text, evidence)]
    bridges = [str(name) for name in present if len(_linked_sets(present.drop(columns=name))) > 1]
    text = f"All {n_batches} batches are linked by types that they share."
    if bridges:
        name = bridges[0]
        unlinked = _linked_sets(present.drop(columns=name))
        text += (
            f" But type {name!r} alone links {_sets_in_words(unlinked)}: if its label is wrong in one of them, they "
            "share nothing."
        )
    return [Finding(SHARED, "", "yes", "moderate" if bridges else "high", text, evidence)]


def _confounded(
    batch: NDArray[Any], condition: NDArray[Any], batch_key: str | Sequence[str], condition_key: str
) -> Finding:
    present = _present(batch, condition)
    n_batches = present.sum()
    listing = "; ".join(
        f"{name}: {few(present.index[present[name]].astype(str).tolist())}" for name in present.columns[:8]
    )
    evidence = f"Batches of each condition: {listing}."
    if too_small := _too_small(condition, present):
        evidence += f" Left out, because they are too small to be judged ({TOO_SMALL}): {few(too_small)}."
    crossed = present.sum(axis=1) > 1
    sets = _linked_sets(present.T)
    if crossed.all() and present.to_numpy().all():
        text = (
            f"Every batch holds all conditions of {condition_key!r}: their differences can be seen within batches, "
            "free of batch effects. tl.differential compares within batches; "
            f"sample_key={_obs.as_one_column(batch_key)} makes pairs."
        )
        return Finding(CONDITION, condition_key, "crossed", "high", text, evidence)
    if len(sets) == 1:
        text = (
            f"Conditions of {condition_key!r} are crossed with batches in part: {crossed.sum()} of {len(present)} "
            "batches hold more than one. Differences can be seen within these; batches of one condition add little."
        )
        return Finding(CONDITION, condition_key, "partly crossed", "high", text, evidence)
    single = [names[0] for names in sets if len(names) == 1 and n_batches[names[0]] < 2]
    if single:
        text = (
            f"The effect of {listed(single)} cannot be told from that of its batch, because one batch alone "
            f"holds it: no method and no correction can. It needs a second batch."
        )
        return Finding(CONDITION, condition_key, "confounded", "high", text, evidence)
    if not crossed.any():
        counts = ", ".join(f"{name}: {n}" for name, n in n_batches.items())
        text = (
            f"Each batch is of one condition of {condition_key!r} ({counts} batches). Conditions can be told from "
            "batches only by how batches of one condition differ: use "
            f"tl.differential(sample_key={_obs.as_one_column(batch_key)}). A "
            "conditional model takes differences between batches out of the embedding, and those between conditions "
            "with them: look for those in the counts or in tl.vae, or give tl.cvae the cells of control samples "
            "(controls=)."
        )
        return Finding(
            CONDITION, condition_key, "nested", "high" if n_batches.min() > 2 else "moderate", text, evidence
        )
    text = (
        f"Conditions of {condition_key!r} fall into {len(sets)} sets, which no batch joins: {_sets_in_words(sets)}. "
        "Within a set, differences can be seen within batches; between sets, only by how batches differ."
    )
    return Finding(CONDITION, condition_key, "partly nested", "high", text, evidence)


def _comparable(
    batch: NDArray[Any],
    condition: NDArray[Any],
    label: NDArray[Any],
    batch_key: str | Sequence[str],
    condition_key: str,
) -> list[Finding]:
    has_both = (condition != None) & (label != None)  # noqa: E711 (elementwise)
    table = pd.DataFrame({"batch": batch, "condition": condition, "label": label})[has_both].astype(str)
    sizes = table.value_counts(sort=False)
    n_batches = (sizes >= MIN_CELLS_PER_TYPE).groupby(level=["label", "condition"]).sum().unstack("condition").fillna(0)
    one_sided = n_batches.index[(n_batches > 0).sum(axis=1) < 2].tolist()
    too_few = n_batches.index[(n_batches >= 2).sum(axis=1) < 2]
    unreplicated = [name for name in too_few if name not in one_sided]
    evidence = f"Batches with {MIN_CELLS_PER_TYPE} cells of the type or more are counted."
    parts = []
    if one_sided:
        parts.append(
            f"{'Type' if len(one_sided) == 1 else 'Types'} {few(one_sided)} cannot be compared between conditions of "
            f"{condition_key!r}: fewer than two conditions hold {'it' if len(one_sided) == 1 else 'them'}."
        )
    if unreplicated:
        parts.append(
            f"For {few(unreplicated)} no two conditions have two batches each, so a test with "
            f"sample_key={_obs.as_one_column(batch_key)} has no replicates."
        )
    if not parts:
        text = f"Every type is in two batches or more of two conditions or more of {condition_key!r}."
        return [Finding(ONE_SIDED, condition_key, "all", "high", text, evidence)]
    excepted = [*one_sided, *unreplicated]
    answer = f"all but {listed(excepted) if len(excepted) < 4 else len(excepted)}"
    return [Finding(ONE_SIDED, condition_key, answer, "high", " ".join(parts), evidence)]
