from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scanpy import logging as logg
from scipy.sparse.csgraph import connected_components

from .. import _adata, _obs
from .._checks import checked, seed_of
from .._names import n_values, texts
from .._session import own_state
from ..metrics.separation import batch_separation, clusters, shifted_batches
from ._donors import BATCH_NAMES, DONOR_NAMES, SUFFIX
from ._findings import MAX_JUDGED, Confidence, Finding, few, listed, number, p_value
from ._needed import LEVEL, MIXED
from ._pca import log_pca

if TYPE_CHECKING:
    from anndata import AnnData

SHARED, CONDITION, ONE_SIDED, UNIT = (
    "Which batches share types?",
    "Can conditions be told from batches?",
    "Which types can be compared between conditions?",
    "Which column is the batch?",
)
MIN_CELLS_PER_TYPE = 10  # cells of a type in a batch, to be there
PER_UNIT = 20  # cells, on average, of each value of a column that may be the batch
MAX_COLUMNS_TESTED = 10  # that are tested
TESTED = 0.1  # share of the cells that a test must cover
CLUSTERINGS = ("leiden", "louvain", "cluster")
TECHNICAL = ("tech", "technology", "platform", "chemistry", "plate", "assay", "protocol", "channel")
UNIT_NAMES = (*DONOR_NAMES, *BATCH_NAMES, *TECHNICAL, "site", "study", "dataset")
IS_UNIT = re.compile(rf"(\w+[_. ])?({'|'.join(UNIT_NAMES)}){SUFFIX}", re.IGNORECASE)


@dataclass(frozen=True)
class Design:
    """Cells of each batch, condition and type; columns that may be the batch; what follows, in words."""

    cells: pd.DataFrame
    columns: pd.DataFrame
    findings: pd.DataFrame

    def in_words(self) -> str:
        """A line for each finding."""
        return "\n".join(f"{row.sentence} {row.evidence}".strip() for row in self.findings.itertuples())


@own_state()
@checked
def design(
    adata: AnnData,
    batch_key: str,
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

    The design is how batches, types and conditions come together. No method can separate what always comes together. If
    two batches share no type of cell, nothing tells a batch effect between them from biology; if a condition is in one
    batch only, nothing tells its effect from that of the batch. Here the design is read from `obs`, and columns that
    may be the batch (donor, library, technology) are tested in the counts. :func:`sc_vaenb.tl.compare` does this first.

    Parameters
    ----------
    adata
        Cells x genes, prepared by :func:`sc_vaenb.pp.prepare`.
    batch_key
        Column of `obs` with the batch of each cell; two batches or more.
    label_key
        Column of `obs` with cell types. Without, types are not looked at, and columns are tested within clusters.
    condition_key
        Column of `obs` with what is to be compared, such as treated and control.
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
        DataFrame: `n_cells` of each `batch`, `condition` and `label` that come together.
    `columns`
        DataFrame: columns of `obs` that may be the batch. `n_values`; `relation` to `batch_key`: each value of a
        `finer` column is in one batch, each batch in one value of a `coarser` one; `within`, the column within whose
        values (and types) the values were compared; `separation` of their neighbours (0 fully mixed, 1 fully
        separated), and `p` of a permutation.
    `params`
        The parameters.

    Notes
    -----
    A type counts as being in a batch from 10 cells on (or 2 % of the batch, where that is more). *The batch* is the
    finest column whose values differ within those of the next coarser one: separation of at least 0.05, p at most 0.01,
    of neighbours among cells of one type. The test cannot tell technology from biology: it says where there are
    differences, not what they are.

    Raises
    ------
    KeyError, TypeError, ValueError
        A key is not there, the counts are not counts, or two keys are one. `adata` is unchanged.

    Examples
    --------
    >>> import sc_vaenb
    >>> adata = sc_vaenb.datasets.simulate()
    >>> sc_vaenb.pp.prepare(adata, batch_key="batch")
    >>> sc_vaenb.tl.design(adata, "batch", label_key="cell_type")
    >>> print(adata.uns["design"]["findings"]["sentence"].tolist())
    """
    seed = seed_of(rng)
    _adata.check_can_be_subset(adata)
    found = audit(adata, batch_key, label_key, condition_key, layer, mask_var, seed)
    params = {"batch_key": batch_key, "label_key": label_key, "condition_key": condition_key, "rng": seed}
    adata = adata.copy() if copy else adata
    adata.uns[key_added] = {
        "findings": found.findings,
        "cells": found.cells,
        "columns": found.columns,
        "params": {name: value for name, value in params.items() if value is not None},
    }
    logg.info(found.in_words(), deep=f"added\n    {key_added!r}, the findings and their tables (adata.uns)")
    return adata if copy else None


def audit(
    adata: AnnData,
    batch_key: str,
    label_key: str | None,
    condition_key: str | None,
    layer: str | None,
    mask_var: str | NDArray[np.bool_] | None,
    seed: int,
) -> Design:
    """Read the layout, and test columns in the PCA of at most 20,000 cells. `adata` is unchanged."""
    keys = {"batch_key": batch_key, "label_key": label_key, "condition_key": condition_key}
    names = [name for name, key in keys.items() if key is not None]
    for first, second in ((a, b) for i, a in enumerate(names) for b in names[i + 1 :]):
        if keys[first] == keys[second]:
            msg = f"{first} and {second} are both {keys[first]!r}. Give two different columns of obs."
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
    columns = _candidates(adata, batch, batch_key, {label_key, condition_key})
    known = np.flatnonzero(label != None) if label is not None else np.array([])  # noqa: E711 (of each cell)
    labelled = len(known) >= 2 * MIN_CELLS_PER_TYPE
    known = known if labelled else np.arange(adata.n_obs)
    cells = np.sort(np.random.default_rng(seed).permutation(known)[:MAX_JUDGED])
    table = pd.DataFrame(columns=["n_values", "relation", "within", "separation", "p", "tested"])
    if min(len(cells), _adata.gene_mask(adata, mask_var).sum()) < 2:  # a comparison goes on without a PCA, too
        text = (
            "Which column is the batch cannot be told: the PCA that this takes needs two cells and two genes at least."
        )
        unit = Finding(UNIT, batch_key, "cannot be told", "high", text)
    else:
        reference = log_pca(adata if len(cells) == adata.n_obs else adata[cells], layer, mask_var, seed)
        strata = label[cells].astype(str) if label is not None and labelled else clusters(reference)
        judged = columns.iloc[cells].reset_index(drop=True)
        unit, table = _unit(reference, batch[cells], strata, judged, batch_key, labelled)
    findings.append(unit)
    return Design(_cells(batch, condition, label), table, pd.DataFrame([asdict(finding) for finding in findings]))


def _cells(batch: NDArray[Any], condition: NDArray[Any] | None, label: NDArray[Any] | None) -> pd.DataFrame:
    parts = {"batch": batch, "condition": condition, "label": label}
    table = pd.DataFrame({name: values for name, values in parts.items() if values is not None}).astype(object)
    table = table.fillna("")
    return table.value_counts(sort=False).rename("n_cells").reset_index()


def _present(batch: NDArray[Any], kind: NDArray[Any]) -> pd.DataFrame:
    """Whether each batch (rows) has cells enough of each kind (columns), of those that some batch has."""
    table = pd.crosstab(batch, kind)  # leaves out cells without a kind
    least = np.minimum(np.maximum(MIN_CELLS_PER_TYPE, 0.02 * table.sum(axis=1)), table.max(axis=1))
    return table.ge(least, axis=0).loc[:, lambda there: there.any()]


def _sets(there: pd.DataFrame) -> list[list[str]]:
    """Rows that share a column, directly or over others."""
    matrix = there.to_numpy().astype(int)
    codes = connected_components(matrix @ matrix.T > 0, directed=False)[1]
    return [there.index[codes == code].astype(str).tolist() for code in np.unique(codes)]


def _sets_in_words(sets: Sequence[Sequence[str]]) -> str:
    return " | ".join(few(names) for names in sets[:6]) + (" | ..." if len(sets) > 6 else "")


def _shared_types(batch: NDArray[Any], label: NDArray[Any]) -> list[Finding]:
    there = _present(batch, label)
    if there.empty:
        text = "Which batches share types cannot be told, because no cell has a label."
        return [Finding(SHARED, "", "cannot be told", "high", text)]
    sets = _sets(there)
    n_batches, n_types = there.shape
    everywhere, alone = there.all().sum(), there.columns[there.sum() == 1].astype(str).tolist()
    evidence = f"Of {n_types} types, {everywhere} are in every batch and {len(alone)} in one batch only"
    evidence += f" ({few(alone)})." if alone else "."
    if len(sets) > 1:
        text = (
            f"The batches fall into {len(sets)} sets without a type in common: {_sets_in_words(sets)}. Between the "
            "sets no method can tell a batch effect from biology: leave tl.cvae at overlap='auto', which corrects "
            "within sets only."
        )
        return [Finding(SHARED, "", "no", "high", text, evidence)]
    bridges = [str(name) for name in there if len(_sets(there.drop(columns=name))) > 1]
    text = f"All {n_batches} batches are linked by types that they share."
    if bridges:
        name = bridges[0]
        apart = _sets(there.drop(columns=name))
        text += (
            f" But type {name!r} alone links {_sets_in_words(apart)}: if its label is wrong in one of them, they share "
            "nothing."
        )
    return [Finding(SHARED, "", "yes", "moderate" if bridges else "high", text, evidence)]


def _confounded(batch: NDArray[Any], condition: NDArray[Any], batch_key: str, condition_key: str) -> Finding:
    there = _present(batch, condition)
    n_batches = there.sum()
    held = "; ".join(f"{name}: {few(there.index[there[name]].astype(str).tolist())}" for name in there.columns[:8])
    evidence = f"Batches of each condition: {held}."
    crossed = there.sum(axis=1) > 1
    sets = _sets(there.T)
    if crossed.all() and there.to_numpy().all():
        text = (
            f"Every batch holds all conditions of {condition_key!r}: their differences can be seen within batches, "
            f"free of batch effects. tl.differential compares within batches; sample_key={batch_key!r} makes pairs."
        )
        return Finding(CONDITION, condition_key, "crossed", "high", text, evidence)
    if len(sets) == 1:
        text = (
            f"Conditions of {condition_key!r} are crossed with batches in part: {crossed.sum()} of {len(there)} "
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
            f"batches only by how batches of one condition differ: use tl.differential(sample_key={batch_key!r}). A "
            "conditional model takes differences between batches out of the embedding, and those between conditions "
            "with them: look for those in the counts, or in tl.vae."
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
    batch: NDArray[Any], condition: NDArray[Any], label: NDArray[Any], batch_key: str, condition_key: str
) -> list[Finding]:
    known = (condition != None) & (label != None)  # noqa: E711 (of each cell)
    table = pd.DataFrame({"batch": batch, "condition": condition, "label": label})[known].astype(str)
    sizes = table.value_counts(sort=False)
    units = (sizes >= MIN_CELLS_PER_TYPE).groupby(level=["label", "condition"]).sum().unstack("condition").fillna(0)
    one_sided = units.index[(units > 0).sum(axis=1) < 2].tolist()
    thin = [name for name in units.index[(units >= 2).sum(axis=1) < 2] if name not in one_sided]
    evidence = f"Batches with {MIN_CELLS_PER_TYPE} cells of the type or more are counted."
    parts = []
    if one_sided:
        parts.append(
            f"{'Type' if len(one_sided) == 1 else 'Types'} {few(one_sided)} cannot be compared between conditions of "
            f"{condition_key!r}: fewer than two conditions hold {'it' if len(one_sided) == 1 else 'them'}."
        )
    if thin:
        parts.append(
            f"For {few(thin)} no two conditions have two batches each, so a test with sample_key={batch_key!r} "
            "has no replicates."
        )
    if not parts:
        text = f"Every type is in two batches or more of two conditions or more of {condition_key!r}."
        return [Finding(ONE_SIDED, condition_key, "all", "high", text, evidence)]
    answer = listed([*one_sided, *thin]) if len(one_sided) + len(thin) < 4 else f"all but {len(one_sided) + len(thin)}"
    if len(one_sided) + len(thin) < 4:
        answer = f"all but {answer}"
    return [Finding(ONE_SIDED, condition_key, answer, "high", " ".join(parts), evidence)]


def _candidates(adata: AnnData, batch: NDArray[Any], batch_key: str, known: set[str | None]) -> pd.DataFrame:
    """Columns of obs that may be the batch, each cell's value as text; `batch_key` is one of them."""
    found = {batch_key: batch}
    n_names = adata.obs.columns.value_counts()
    for key in map(str, n_names.index[n_names == 1]):
        if key in known | {batch_key} or key.lower().startswith(CLUSTERINGS) or key not in adata.obs:
            continue
        column = adata.obs[key]
        kind = getattr(column.dtype, "kind", "O")
        if kind not in "Oib" and not isinstance(column.dtype, pd.CategoricalDtype | pd.StringDtype):
            continue
        if column.isna().any() or not 2 <= n_values(column) <= max(2, adata.n_obs // PER_UNIT):
            continue
        if kind == "i" and not IS_UNIT.fullmatch(key):  # counts and scores, as a rule
            continue
        if _relation(values := texts(column).astype(str), batch) != "crossed" or IS_UNIT.fullmatch(key):
            found[key] = values
        if len(found) > MAX_COLUMNS_TESTED:
            break
    return pd.DataFrame(found, index=adata.obs_names)


def _relation(values: NDArray[Any], batch: NDArray[Any]) -> str:
    pairs = pd.DataFrame({"value": values, "batch": batch}).drop_duplicates()
    finer, coarser = not pairs["value"].duplicated().any(), not pairs["batch"].duplicated().any()
    return {(True, True): "same", (True, False): "finer", (False, True): "coarser"}.get((finer, coarser), "crossed")


def _unit(
    reference: NDArray[np.float32],
    batch: NDArray[Any],
    strata: NDArray[Any],
    columns: pd.DataFrame,
    batch_key: str,
    labelled: bool,
) -> tuple[Finding, pd.DataFrame]:
    """Go from the finest column to the coarsest, until values differ within those of the next coarser one."""
    strata = strata.astype(str)
    relation = {str(key): _relation(columns[key].to_numpy(), batch) for key in columns}
    ordered = sorted(relation, key=lambda key: (columns[key].nunique(), key != batch_key))
    chain: list[str] = [batch_key]  # of columns that are nested in each other
    for key in ordered:
        nested = [_relation(columns[key].to_numpy(), columns[other].to_numpy()) for other in chain]
        if key != batch_key and all(one in {"finer", "coarser"} for one in nested):
            chain.append(key)
    chain.sort(key=lambda key: columns[key].nunique())
    rows, shifted = [], set()
    for key in ordered:
        if key in chain:
            at = chain.index(key)
            within = chain[at - 1] if at else ""
        elif any(_relation(columns[key].to_numpy(), columns[other].to_numpy()) == "same" for other in chain):
            rows.append([key, columns[key].nunique(), relation[key], "", np.nan, np.nan, 0.0])  # by another name
            continue
        else:
            within = batch_key
        parts = strata if not within else np.char.add(np.char.add(strata, "\t"), columns[within].to_numpy().astype(str))
        found = batch_separation(reference, columns[key].to_numpy().astype(str), parts)
        rows.append([key, columns[key].nunique(), relation[key], within, found.excess, found.p, found.tested])
        if not labelled and found.tested < TESTED and _one_shift(reference, columns, key, within):
            shifted.add(key)
    names = ["column", "n_values", "relation", "within", "separation", "p", "tested"]
    table = pd.DataFrame(rows, columns=names).set_index("column")
    differs = (table["separation"] >= MIXED) & (table["p"] <= LEVEL) & (table["tested"] >= TESTED)
    differs |= table.index.isin(shifted)
    answer = next((key for key in reversed(chain) if differs[key]), "")
    return _unit_in_words(table, chain, answer, differs, shifted, batch_key, labelled), table


def _one_shift(reference: NDArray[np.float32], columns: pd.DataFrame, key: str, within: str) -> bool:
    """Whether clusters of one value lie to each other as those of the others do: the same kinds, far apart."""
    whole = pd.Series("", index=columns.index)
    parts = [part for _, part in columns.groupby(columns[within] if within else whole) if part[key].nunique() > 1]
    at = columns.index.get_indexer
    return all(not shifted_batches(reference[at(part.index)], part[key].to_numpy().astype(str)).any() for part in parts)


def _unit_in_words(
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
            return f"{key!r}: no cluster is in two of its values, but one shift lays those of one on those of another."
        if not row["tested"] >= TESTED:
            return f"{key!r}: not tested, too few cells are of {kind} that two of its values have."
        where = f" within {row['within']!r}" if row["within"] else ""
        return f"{key!r}{where}: {number(max(row['separation'], 0))}, p {p_value(row['p'])}."

    evidence = f"Separation of neighbours within {kind} (0 = fully mixed, 1 = fully separated): "
    evidence += " ".join(numbers(key) for key in chain)
    confidence: Confidence = "high" if labelled else "moderate"
    if answer:
        text = _choice_in_words(chain, batch_key, answer)
    elif (table.loc[chain, "tested"] >= TESTED).all():
        answer = "none"
        text = f"Cells do not differ between values of {listed([repr(key) for key in chain])}: no batch effect is seen."
    else:
        answer = "cannot be told"
        untested = listed([repr(key) for key in chain if table.loc[key, "tested"] < TESTED])
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
    return Finding(UNIT, batch_key, answer, confidence, text, evidence)


def _choice_in_words(chain: list[str], batch_key: str, answer: str) -> str:
    at, own = chain.index(answer), chain.index(batch_key)
    if at == own:
        finer = [repr(key) for key in chain[own + 1 :]]
        and_not = f", and those of {listed(finer)} within it do not." if finer else "."
        return f"{batch_key!r} is a good choice of batch: its values differ{and_not}"
    if at > own:
        return (
            f"{batch_key!r} is too coarse: within its values, cells of one kind differ between values of {answer!r}. "
            f"If {answer!r} names libraries, samples or runs, use batch_key={answer!r}."
        )
    return (
        f"{batch_key!r} is finer than needed: its values do not differ within those of {answer!r}, which do. If "
        f"{answer!r} is technical, batch_key={answer!r} is enough; if it is biological, such as a condition, no "
        "correction is needed."
    )
