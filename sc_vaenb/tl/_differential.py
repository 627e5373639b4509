from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scanpy import logging as logg

from .. import _adata, _obs
from .._checks import checked, seed_of
from .._names import is_writable, name_of, names_of
from .._record import FittedModel
from .._session import own_state
from ..data.counts import Counts
from ..fit.device import resolve_device
from ..inference.differential import StratumSums, difference, overdispersion, stratum_sums
from ..inference.shrink import false_discovery_rate, shrink
from ._counts import read_counts
from ._donors import compare_by_donors, plan_comparisons, read_donors, warn_about_donors

if TYPE_CHECKING:
    from anndata import AnnData

MIN_CELLS_PER_GROUP = 2  # one cell does not show how much cells vary
# fields that scanpy.get.rank_genes_groups_df reads: the columns of the table that fill them
SCANPY_FIELDS = {
    "names": "names",
    "scores": "scores",
    "logfoldchanges": "logfoldchanges",
    "pvals": "local_fdr",
    "pvals_adj": "fdr",
}


@own_state()
@checked
def differential(
    adata: AnnData,
    groupby: str,
    key: str = "vae",
    *,
    groups: str | Sequence[str] = "all",
    reference: str = "rest",
    sample_key: str | None = None,
    delta: float = 0.25,
    n_samples: int = 4,
    device: str = "auto",
    rng: int | np.random.Generator | None = 0,
    key_added: str = "differential",
    copy: bool = False,
) -> AnnData | None:
    """Compare the mean expression of groups of cells: log2 fold changes, their probabilities, false discovery rates.

    The means over the cells of each group are compared, not pairs of single cells (as by Lopez et al. 2018). A mean is
    the expression that the model decodes from samples of each cell's posterior, times a factor per group and gene that
    corrects it by the counts. The factor is needed because decoders smooth over cells: without it, genes that do not
    differ would seem to differ between groups. The model also gives the weight of each count, the variance of the
    counts, and the expression to expect if there are hardly any counts. Groups are compared within the batches that the
    model knows, and the results are averaged over the batches that hold cells of both, as in the rate ratio of Mantel &
    Haenszel (1959). The distribution of differences is then learned from all genes together (empirical Bayes; Stephens
    2017): if most genes differ little, an uncertain estimate shrinks towards zero.

    `probability` is the posterior probability that the means of the two groups, in cells like these of these
    batches, differ by more than `delta` on the log2 scale, in either direction. `fdr` is the expected share of false
    discoveries if this gene is called with all genes that are more probable (Newton et al. 2004): of the genes with
    `fdr <= 0.05`, about 5 % differ by less. Groups that were found by clustering these counts differ by construction;
    `fdr` does not account for that.

    **Donors.** Cells of one donor are alike. A comparison of conditions needs `sample_key`: without it, `fdr` holds for
    these donors only, and for other donors up to all of the called genes may be false (Squair et al. 2021, Zimmerman et
    al. 2021). With it, donors are the replicates:

    - A donor's mean expression is the log of the sum of its counts, normalised such that most genes do not differ
      (Robinson & Oshlack 2010). The decoder is not used, because it makes donors alike. The sampling variance follows
      from the number of counts and the variance over cells, so donors with few cells have a low weight.
    - A donor with cells of both groups is compared with itself (paired). Donors with cells of one group are compared
      with each other, within the batches that hold several donors. A batch with one donor is treated as part of the
      donor, so `batch_key` may be the donor. Both kinds of donors together give one estimate.
    - The variance between donors beyond the sampling variance is estimated for each gene, and moderated over genes
      (Smyth 2004; the degrees of freedom of the prior are lowered by their uncertainty). The fold changes are then
      shrunk as above, with errors of Student's t distribution. `fdr` is the larger of the resulting rate and that of
      Benjamini & Hochberg (1995) for the moderated t-test: the first is too low if a few donors change many genes.

    Assumptions: donors are a random sample on each side, log expression has about the same variance on both sides, and
    most genes do not differ. The result is wrong if donors are related, or if groups differ in something that was not
    recorded. With two donors on each side, only large differences are found.

    The parameters are in three groups:

    - set these first: `groupby` to `sample_key`
    - for experts: `delta` to `n_samples`
    - how to run, and where results go: `device` to `copy`

    Parameters
    ----------
    adata
        Cells x genes, with a model in `uns[key]` (from :func:`sc_vaenb.tl.vae` or :func:`sc_vaenb.tl.cvae`).
    groupby
        Column of `obs` with the group of each cell. Cells without one are left out.
    key
        Name of the stored model. The genes are those of the model.
    groups
        The groups to compare with the reference; `"all"` for each.
    reference
        `"rest"`, all other cells that have a group, or one of the groups.
    sample_key
        Column of `obs` with the donor (sample, animal) of each cell: the replicates of the comparison, at least two on
        each side. `None` uses cells as replicates, and warns if `obs` seems to hold donors.
    delta
        The smallest log2 fold change that counts as a difference. Expression is never exactly equal: if a few genes
        change, all shares change a little. 0.25, a change by a fifth, is above that and below changes of marker genes.
    n_samples
        Number of samples of each cell's posterior to decode. More samples take more time. Not used with `sample_key`.
    device
        `"auto"` takes CUDA, then MPS, then CPU; or torch's name of a device.
    rng
        Seed of the samples.
    key_added
        Where in `uns` the results go.
    copy
        Work on a copy of `adata` and return it.

    Returns
    -------
    `None`, or the copy if `copy`. `uns["differential"]` holds:

    `table`
        DataFrame with a row per group and gene, the groups in order, the highest scores first: `group`, `names` (the
        gene), `scores` (estimate by its standard deviation), `logfoldchanges` (posterior mean of the log2 fold change),
        `probability`, `local_fdr` (1 - probability), `fdr`, `mean_group` and `mean_reference` (counts per 10,000 of an
        average cell, averaged over the batches with cells of both), `pct_nz_group` and `pct_nz_reference` (share
        of the cells with a count). With `sample_key` also `p_value` (moderated t-test of no difference), `df` (its
        degrees of freedom), and `donor_sd` (standard deviation between donors of log2 expression; for paired donors, of
        the log2 fold change); `mean_group` and `mean_reference` are then means over donors.
    `donors`
        With `sample_key`, DataFrame with a row per group: `n_donors_group`, `n_donors_reference`, `n_pairs` (donors
        with cells of both sides), `prior_df` (degrees of freedom of the prior of variances; infinite if all genes have
        the same variance).
    `names`, `scores`, `logfoldchanges`, `pvals`, `pvals_adj`, `pts`, `pts_rest`, `params`
        The same in the format of :func:`scanpy.tl.rank_genes_groups`, for :func:`scanpy.get.rank_genes_groups_df` and
        scanpy's plots, with `key="differential"`: `pvals` is the local_fdr and `pvals_adj` the fdr. (`pts`, `pts_rest`
        are left out if a group has a name that files cannot hold, such as one with a slash.)

    Raises
    ------
    KeyError, TypeError, ValueError
        There is no such model, column or group; a group has fewer than two cells, or no batch in common with its
        reference; with `sample_key`, a side has one donor, or each batch holds several donors of one side only; genes
        of the model are missing, or the counts are not valid. `adata` is unchanged.

    See Also
    --------
    sc_vaenb.tl.pseudobulk : Sums of counts, for methods for bulk RNA-seq.
    scanpy.tl.rank_genes_groups : Tests with cells as replicates.

    References
    ----------
    .. [1] Lopez et al. (2018), Deep generative modeling for single-cell transcriptomics, Nature Methods 15:1053-1058.
    .. [2] Mantel and Haenszel (1959), Statistical aspects of the analysis of data from retrospective studies of
       disease, Journal of the National Cancer Institute 22:719-748.
    .. [3] Stephens (2017), False discovery rates: a new deal, Biostatistics 18:275-294.
    .. [4] Newton et al. (2004), Detecting differential gene expression with a semiparametric hierarchical mixture
       method, Biostatistics 5:155-176.
    .. [5] Squair et al. (2021), Confronting false discoveries in single-cell differential expression, Nature
       Communications 12:5692.
    .. [6] Zimmerman, Espeland and Langefeld (2021), A practical solution to pseudoreplication bias in single-cell
       studies, Nature Communications 12:738.
    .. [7] Robinson and Oshlack (2010), A scaling normalization method for differential expression analysis of RNA-seq
       data, Genome Biology 11:R25.
    .. [8] Smyth (2004), Linear models and empirical Bayes methods for assessing differential expression in microarray
       experiments, Statistical Applications in Genetics and Molecular Biology 3:3.
    .. [9] Benjamini and Hochberg (1995), Controlling the false discovery rate, Journal of the Royal Statistical Society
       B 57:289-300.

    Examples
    --------
    >>> import scanpy as sc, sc_vaenb
    >>> adata = sc_vaenb.datasets.simulate()
    >>> sc_vaenb.pp.prepare(adata, batch_key="batch")
    >>> sc_vaenb.tl.cvae(adata, "batch")
    >>> sc_vaenb.tl.differential(adata, "cell_type")
    >>> sc.get.rank_genes_groups_df(adata, "type_0", key="differential", pval_cutoff=0.05)

    Conditions of donors, in one cell type:

    >>> cells = adata[adata.obs["cell_type"] == "B cells"].copy()  # doctest: +SKIP
    >>> sc_vaenb.tl.differential(cells, "condition", sample_key="donor", reference="control")  # doctest: +SKIP
    """
    rng = seed_of(rng)
    _adata.check_key_added(adata, key_added)
    torch_device, reference = resolve_device(device), name_of(reference)
    fitted = FittedModel.from_uns(adata, key)
    codes, names = _group_codes(adata, groupby)
    tested = _tested_groups(names, groupby, groups, reference)
    references = {
        g: [i for i in range(len(names)) if i != g] if reference == "rest" else [names.index(reference)] for g in tested
    }
    _obs.warn_about_no_label_words(adata, groupby, "compared like other groups. Make it NaN to leave these cells out.")
    counts = read_counts(adata, key, fitted)
    used = np.isin(codes, [*tested, *(i for group in references.values() for i in group)])
    _check_cells(codes[used], names, references, reference)
    batch_key = fitted.params.get("batch_key")
    extra: dict[str, Any] = {}
    if sample_key is None:
        _check_batches(codes[used], counts.batch_index[used], names, references, reference, batch_key)
    else:
        donors = read_donors(adata, sample_key, groupby, used)
        plans = plan_comparisons(donors, counts.batch_index, codes, names, references, reference, batch_key)

    start = logg.info(f"comparing {len(tested)} groups of obs[{groupby!r}] with {reference!r}, by uns[{key!r}]")
    if sample_key is None:
        warn_about_donors(adata, groupby, codes, used)
        by_code = _compare_by_cells(fitted, counts, codes, used, references, delta, n_samples, torch_device, rng)
    else:
        by_code, summary = compare_by_donors(counts, fitted.genes, donors, codes, names, used, references, plans, delta)
        extra["donors"] = pd.DataFrame([{"group": names[g], **row} for g, row in summary.items()])
    tables = {names[g]: table for g, table in by_code.items()}
    adata = adata.copy() if copy else adata
    params: dict[str, Any] = {"groupby": groupby, "reference": reference, "method": "sc_vaenb", "use_raw": False}
    params |= {"key": key, "delta": float(delta), "n_samples": int(n_samples), "rng": int(rng)}
    params |= {} if sample_key is None else {"sample_key": sample_key}
    _adata.write_record(adata, key_added, _record(tables, params) | extra)
    logg.info("    finished", time=start, deep=f"added\n    {key_added!r}, the comparison (adata.uns)")
    return adata if copy else None


def _group_codes(adata: AnnData, groupby: str) -> tuple[NDArray[np.int64], list[str]]:
    """Group codes (-1 if the label is missing) and group names. Categories without cells are ignored."""
    column = _obs.read_categories(adata, "groupby", groupby)
    names = [str(name) for name in column.cat.categories]
    if len(names) < 2:
        msg = f"obs[{groupby!r}] holds the groups {names}: two or more are needed. Choose another column as groupby."
        raise ValueError(msg)
    return column.cat.codes.to_numpy(dtype=np.int64), names


def _tested_groups(names: list[str], groupby: str, groups: str | Sequence[str], reference: str) -> list[int]:
    """Codes of the groups to compare with the reference, in the order of the column."""
    if reference != "rest" and reference not in names:
        msg = f"reference={reference!r} is not in obs[{groupby!r}]. Choose 'rest' or one of {names}."
        raise ValueError(msg)
    requested = names_of(names if groups == "all" else [groups] if isinstance(groups, str) else groups)
    unknown = [name for name in requested if name not in names]
    if unknown:
        msg = f"groups={unknown} are not in obs[{groupby!r}], which holds {names}."
        raise ValueError(msg)
    if reference == "rest" and reference in names:
        logg.warning(
            f"obs[{groupby!r}] has a group named 'rest', but reference='rest' means all cells of other groups. To "
            "compare with that group, give it another name."
        )
    tested = [
        code for code, name in enumerate(names) if name in requested and (reference == "rest" or name != reference)
    ]
    if not tested:
        msg = f"groups={requested} leaves nothing to compare with reference={reference!r}. Name other groups."
        raise ValueError(msg)
    return tested


def _check_cells(codes: NDArray[np.int64], names: list[str], references: dict[int, list[int]], reference: str) -> None:
    """Raise if a group has too few cells."""
    for group, rest in references.items():
        for name, cells in ((names[group], codes == group), (reference, np.isin(codes, rest))):
            if cells.sum() < MIN_CELLS_PER_GROUP:
                msg = f"group {name!r} has one cell, too few to compare. Leave it out of groups, or merge it."
                raise ValueError(msg)


def _check_batches(
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


def _compare_by_cells(
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
    table = pd.DataFrame(
        {
            "names": genes,
            "scores": result.log2_fold / result.sd,
            "logfoldchanges": effect.mean,
            "probability": 1 - effect.local_fdr,
            "local_fdr": effect.local_fdr,
            "fdr": false_discovery_rate(effect.local_fdr),
            "mean_group": per_10k * result.rate,
            "mean_reference": per_10k * result.reference_rate,
            "pct_nz_group": _share_expressing(group),
            "pct_nz_reference": _share_expressing(rest),
        }
    )
    return table.sort_values("scores", ascending=False, kind="stable", ignore_index=True)


def _share_expressing(group: dict[int, StratumSums]) -> NDArray[np.float64]:
    return np.sum([s.cells_expressing for s in group.values()], axis=0) / sum(s.n for s in group.values())


def _record(tables: dict[str, pd.DataFrame], params: dict[str, Any]) -> dict[str, Any]:
    """All tables as one, and in the format of scanpy.tl.rank_genes_groups: an array per column, a field per group."""
    record: dict[str, Any] = {"params": params}
    for name, column in SCANPY_FIELDS.items():
        frame = pd.DataFrame({group: table[column] for group, table in tables.items()})
        record[name] = frame.to_records(index=False)
    # Files cannot hold table columns with a slash in the name. Scanpy reads the other fields without these two.
    shares = {} if not all(map(is_writable, tables)) else {"pts": "pct_nz_group", "pts_rest": "pct_nz_reference"}
    for name, column in shares.items():
        record[name] = pd.DataFrame({group: table.set_index("names")[column] for group, table in tables.items()})
    table = pd.concat(tables, names=["group"]).reset_index(level="group").reset_index(drop=True)
    table["group"] = pd.Categorical(table["group"], categories=list(tables))
    record["table"] = table
    return record
