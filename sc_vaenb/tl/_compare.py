from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scanpy import logging as logg

from .. import _adata, _obs
from .._checks import check_seeds, checked, seed_of
from .._results import check_result
from .._session import own_state
from ..data.counts import checksum
from ._arguments import to_uns
from ._cvae import cvae
from ._design import audit
from ._equal_fit import take_over
from ._fingerprints import check_keys, computed_before
from ._graph import neighbors_leiden_umap
from ._null_split import null_split
from ._runs import Run, plan_runs, stop_if_interrupted
from ._score import check_scored, score_embeddings
from ._seeds import seed_overlap
from ._verdict import judge

if TYPE_CHECKING:
    from anndata import AnnData

MAX_CELLS_SCORED = 20_000  # with more cells, scores are means over samples of the cells


@own_state()
@checked
def compare(
    adata: AnnData,
    batch_key: str | Sequence[str],
    *,
    label_key: str | None = None,
    condition_key: str | None = None,
    variants: Mapping[str, Mapping[str, Any]] | None = None,
    n_seeds: int = 1,
    layer: str | None = "counts",
    mask_var: str | NDArray[np.bool_] | None = "highly_variable",
    resolution: float = 1.0,
    device: str = "auto",
    rng: int | np.random.Generator | None = 0,
    key_added: str = "compare",
    copy: bool = False,
) -> AnnData | None:
    """Compute PCA, Harmony, VAE and CVAE in one AnnData, score them, and say which is best on these data.

    Each method gets an embedding, neighbours, Leiden clusters and a UMAP under its own keys. Results that an earlier
    call computed from the same data and parameters are used again: an interrupted comparison continues, and a new
    variant costs only its own fit. A fit of yours that is equal to one of these, to the bit, is taken in its place. A
    method that fails is reported, and the others go on.

    The parameters are in four groups:

    - set these first: `batch_key` to `condition_key`
    - for some data: `variants` to `mask_var`
    - for experts: `resolution`
    - how to run, and where results go: `device` to `copy`

    Parameters
    ----------
    adata
        Cells x genes, prepared by :func:`sc_vaenb.pp.prepare`.
    batch_key
        Column of `obs` with the batch of each cell, or several columns, as in :func:`sc_vaenb.tl.cvae`; two batches or
        more.
    label_key
        Column of `obs` with the cell types. `None`: without labels, methods are compared by how well batches mix and
        how much of the neighbourhoods within each batch they keep. A variant that was fitted with these labels
        (`labels_key`) is scored, but cannot be the best.
    condition_key
        Column of `obs` with the conditions to compare later, such as treated and control. `design` then says whether
        their effects can be told from those of batches.
    variants
        Further CVAEs: for each a name and arguments of :func:`sc_vaenb.tl.cvae`, such as
        `{"cvae_wide": {"hidden": (256,)}}`.
    n_seeds
        Fits of each model, with the seeds `rng`, `rng + 1`, ... Plots show the first. With one seed, the verdict
        assumes that scores have a standard deviation of 0.02 over seeds, so only a lead of about 0.1 counts as a lead.
        With three seeds it is measured.
    layer, mask_var
        Counts and genes, as in :func:`sc_vaenb.tl.cvae`.
    resolution
        Resolution of the Leiden clusters that are written. Scores do not depend on it.
    device
        Device of the fits, as in :func:`sc_vaenb.tl.cvae`.
    rng
        Seed.
    key_added
        Key in `uns` for the comparison.
    copy
        Work on a copy of `adata` and return it.

    Returns
    -------
    `None`, or the copy if `copy`. For each method NAME (`pca`, `pca_harmony`, `vae`, `cvae`, the variants) it writes
    the following. If a result with that name exists that no comparison made, it stays, and NAME ends in `_compare`;
    but a fit that equals the one of this method is used where it is.

    `obsm["X_NAME"]`, `obsm["X_umap_NAME"]`, `obs["leiden_NAME"]`
        Embedding, UMAP, clusters.
    `uns["neighbors_NAME"]`, `obsp["neighbors_NAME_distances"]`, `obsp["neighbors_NAME_connectivities"]`
        The 15 nearest neighbours.
    `uns["NAME"]`
        What :func:`sc_vaenb.tl.vae` and :func:`sc_vaenb.tl.cvae` write. Further seeds write `NAME_seed1`, ... and only
        an embedding.

    `uns["compare"]` holds

    `verdict`
        Text: which method is best and what to do, whether correction is needed, which types each method loses, and
        whether it leaves batches separated. Each line is a sentence, followed by its numbers.
    `findings`
        The same as a DataFrame: `question`, `subject` (the method, if it is about one; for "Which method is best?"
        the one to use), `answer` (such as "yes", "no", "hardly", "few", "cannot be told", or names joined by
        " or "), `confidence` ("high", "moderate", "low"), `sentence` and `evidence`.
    `design`
        DataFrame with the same columns: which questions the design of the data can answer, from
        :func:`sc_vaenb.tl.design`, which runs before any fit.
    `scores`
        As :func:`sc_vaenb.tl.score` writes them.
    `methods`
        DataFrame: a row per embedding with `method`, `seed`, `embedding`, and its `seconds` of computing, without
        neighbours and UMAP; of a fit that existed, those of its history.
    `null_split`
        DataFrame: the purity of clusters `before` and `after` each correction, where the largest batch is split at
        random into two. Written only if that batch has at least 100 cells; not for variants with `controls` or
        `time_key`.
    `seed_overlap`
        DataFrame, if `n_seeds` is above 1: for each model, the number of fits (`n_seeds`) and the mean share of a
        cell's 15 nearest cells that two fits have in common (`overlap`; among at most 2,000 cells).
    `params`, `failed`, `made`
        Arguments; the error of each method that failed; what this and earlier calls computed or `found`, with
        checksums.

    Raises
    ------
    KeyError, TypeError, ValueError
        A key does not exist, the counts are not counts, or a variant is not possible. `adata` is unchanged.
    RuntimeError
        Every method failed.

    See Also
    --------
    sc_vaenb.tl.design : Which questions the data can answer.
    sc_vaenb.tl.score : Scores of any embedding.
    sc_vaenb.pl.scores : A table of the scores.
    sc_vaenb.pl.compare : The UMAPs side by side.
    sc_vaenb.report.write : The comparison as one page.

    Notes
    -----
    *Is correction needed?* Batches are permuted within types (without labels: within clusters of the PCA). *Harm*: the
    purity of a type is the share of its cells' neighbours that are of the type. A type is lost if its purity is 0.1 or
    more below that in the PCA, and a bootstrap over its cells shows a loss of more than 0.05. A method that
    loses a tenth of all purity, or most of a third of the types, is never best. A method that loses any type can be
    best only if no other correction keeps that type. *Best*: the highest total among these. Methods over which its
    lead is not significant (over seeds, and over draws of half of the cells) are named with it. The total is computed
    in twelve ways, one of which is the default.

    References
    ----------
    .. [1] Luecken et al. (2022), Benchmarking atlas-level data integration, Nature Methods 19:41-50.

    Examples
    --------
    >>> import sc_vaenb
    >>> adata = sc_vaenb.datasets.simulate()
    >>> sc_vaenb.pp.prepare(adata, batch_key="batch")
    >>> sc_vaenb.tl.compare(adata, "batch", label_key="cell_type")
    >>> print(adata.uns["compare"]["verdict"])
    """
    rng = seed_of(rng)
    _check(adata, batch_key, label_key, n_seeds, rng, key_added)
    counts = _adata.read_counts(adata, layer, _adata.gene_mask(adata, mask_var), allow_non_integer=False)
    codes = _obs.read_batches(adata, batch_key)[0]
    data_checksum = checksum(counts.data, counts.indices, counts.indptr, codes)
    del counts
    made = computed_before(adata, key_added)
    options = {"layer": layer, "mask_var": mask_var, "device": device}
    runs = plan_runs(adata, batch_key, variants or {}, n_seeds, rng, options, data_checksum, made)
    check_keys([run.key for run in runs], key_added, batch_key, label_key)
    adata = adata.copy() if copy else adata

    audited_design = audit(adata, batch_key, label_key, condition_key, layer, mask_var, rng)
    logg.info(audited_design.in_words())
    rows: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    for run in runs:
        start = time.perf_counter()
        is_computed = run.key in made.index and made.loc[run.key, "made_from"] == run.fingerprint
        try:
            if not is_computed:
                if run.source is None:
                    run.compute(adata)
                    stop_if_interrupted(adata, run.key)
                    seconds = time.perf_counter() - start
                else:
                    logg.info(f"{run.method}: uns[{run.source!r}] holds this fit, so it is not computed again")
                    seconds = take_over(adata, run.source, run.key)
                embedding = np.asarray(adata.obsm[f"X_{run.key}"])
                made.loc[run.key] = [run.fingerprint, checksum(embedding), seconds, run.source == run.key]
                adata.uns.pop(f"neighbors_{run.key}", None)  # of an earlier embedding with this name
                # Written now, so that an interrupted comparison can continue. Earlier scores stay until the end.
                adata.uns[key_added] = {**adata.uns.get(key_added, {}), "made": made.copy()}
            if run.seed == rng:
                neighbors_leiden_umap(adata, run.key, resolution, rng, again=not is_computed)
        except Exception as error:  # any error of one method; the others go on
            failed[run.key] = f"{type(error).__name__}: {error}"
            logg.warning(f"{run.key} failed and is left out: {failed[run.key]}")
            continue
        seconds = float(made.loc[run.key, "seconds"])
        rows.append({"method": run.method, "seed": run.seed, "embedding": f"X_{run.key}", "seconds": seconds})
    if not rows:
        msg = f"every method failed: {failed}"
        raise RuntimeError(msg)

    methods = pd.DataFrame(rows)
    keys = methods["embedding"].tolist()
    uncorrected = keys[0] if methods["method"][0] == "PCA" else None
    scores = score_embeddings(adata, keys, batch_key, label_key, uncorrected, MAX_CELLS_SCORED, rng)
    succeeded = set(methods["method"])

    def null_runs(null: AnnData, half_key: str, n_steps: int) -> list[Run]:
        max_steps = min(n_steps, (cvae.__kwdefaults__ or {})["n_steps"] or n_steps)
        short_variants = {
            name: {**arguments, "n_steps": min(arguments.get("n_steps") or max_steps, max_steps)}
            for name, arguments in (variants or {}).items()
            # within one batch there are no controls to compare cases with, and no captures of one time point
            if arguments.get("controls") is None and arguments.get("time_key") is None
        }
        short_options = {**options, "n_steps": max_steps}
        none_made = made.iloc[:0]
        runs = plan_runs(null, half_key, short_variants, 1, rng, short_options, data_checksum, none_made)
        return [run for run in runs if run.method in succeeded]

    null, losses = null_split(adata, batch_key, null_runs, adata.uns.get(key_added, {}).get("null_split"), rng)
    overlap = seed_overlap(adata, methods, rng)
    findings, verdict = judge(adata, methods, scores, batch_key, label_key, losses, rng, overlap)
    params: dict[str, Any] = {"batch_key": batch_key, "label_key": label_key, "condition_key": condition_key}
    params |= {"n_seeds": n_seeds, "resolution": resolution, "rng": rng}
    adata.uns[key_added] = {
        "scores": scores,
        "methods": methods,
        "findings": findings,
        "design": audited_design.findings,
        "verdict": verdict,
        "params": to_uns(params),
        "failed": failed,
        "made": made,
        **({"null_split": null} if len(null) else {}),
        **({"seed_overlap": overlap} if len(overlap) else {}),
    }
    logg.hint(adata.uns[key_added]["verdict"])
    return adata if copy else None


def _check(
    adata: AnnData,
    batch_key: str | Sequence[str],
    label_key: str | None,
    n_seeds: int,
    rng: int,
    key_added: str,
) -> None:
    _adata.check_can_be_subset(adata)
    _obs.read_batches(adata, batch_key)
    check_scored(adata, batch_key, label_key)
    if label_key is not None:
        _obs.warn_about_no_label_words(adata, label_key, _obs.NOT_A_LABEL)
    check_seeds(rng, n_seeds)
    existing = adata.uns.get(key_added)
    if existing is not None and not (isinstance(existing, dict) and "made" in existing):
        msg = f"uns[{key_added!r}] holds something that is no comparison. Choose another key_added."
        raise ValueError(msg)
    if existing is not None:
        check_result({"made": existing["made"]}, key_added, "compare")
