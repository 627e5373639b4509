from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scanpy import logging as logg
from scanpy import settings

from .. import _adata, _obs
from .._anndata_checks import check_adata
from .._checks import checked, seed_of
from .._record import FittedModel, read_record
from .._session import own_state
from ..fit.device import resolve_device
from ..inference.map_query import embed_query, with_batches
from ..inference.transfer import nearest, novelty
from ._arguments import to_uns
from ._counts import read_counts
from ._labels import write_labels
from ._proteins import with_batches as proteins_with_batches
from ._reference import (
    errors_name_the_reference,
    genes_present,
    labelled_reference,
    overlap_with_batches,
    reference_labels,
    reference_space,
    without_missing_genes,
)
from ._transfer import transfer_labels

if TYPE_CHECKING:
    from anndata import AnnData

    from ..data.counts import Counts
    from ..model.vae import CountVAE


@own_state()
@checked
def map_query(
    adata: AnnData,
    reference: AnnData,
    key: str = "vae",
    *,
    batch_key: str | Sequence[str] | None = None,
    layer: str | None = "auto",
    label_key: str | None = None,
    n_neighbors: int = 15,
    n_steps: int = 300,
    device: str = "auto",
    rng: int | np.random.Generator | None = 0,
    copy: bool = False,
) -> AnnData | None:
    """Embed new cells in the latent space of a reference, with its model, and transfer its labels to them.

    Nothing that the model has learned changes. Cells of batches that the model knows (by name) are embedded as by
    :func:`sc_vaenb.tl.embed`. A new batch gets its own batch vector (a model
    fitted with `controls` or `time_key` maps only batches that it knows). Only this vector is fitted, to the cells of
    the batch ("architecture surgery", Lotfollahi et al. 2022, Nature Biotechnology, scArches). The new batch is then
    aligned on the clusters of the reference, which stay as they are (Kang et al. 2021, Nature Communications,
    Symphony).

    The parameters are in three groups:

    - set these first: `reference` to `label_key`
    - for experts: `n_neighbors` to `n_steps`
    - how to run, and where results go: `device` to `copy`

    Parameters
    ----------
    adata
        The new cells, cells x genes. Genes are matched by name. Up to half of the model's genes may be missing: they
        are left out of the model that is written to `adata`. They count as expressed at the mean of the reference, and
        the depth of a cell is its counts over the other genes. A model with proteins reads them from the same key of
        `obsm`; proteins that `adata` lacks count as not measured. So cells with RNA alone can be mapped on a reference
        with both. The same holds for peaks. With a model of genes and peaks, cells with peaks alone are mapped by
        these, if none of them has counts in genes (the genes must be there, as columns without counts).
    reference
        Cells with a model in `uns[key]`, from :func:`sc_vaenb.tl.vae` or :func:`sc_vaenb.tl.cvae`; not changed. Its
        embedding `obsm["X_" + key]` is computed if it is missing, and its counts are read if genes are missing.
    key
        Name of the model in `reference`, and of the results in `adata`.
    batch_key
        Column of `adata.obs` with the batch of each cell. `None`: the same name as in the fit. If the fit had several
        columns, as many here, or one with names like `"d1 | 10x"`. Not used by a model of :func:`sc_vaenb.tl.vae`.
    layer
        Where the raw counts of `adata` are: a layer, or `None` for `X`. `"auto"`: the layer that the model was fitted
        on if `adata` has it, else `X`.
    label_key
        Column of `reference.obs` with labels to transfer. Cells without a label do not vote: those with NaN, or with
        words such as "Unknown" and "NA", which a warning names.
    n_neighbors
        Number of nearest reference cells that vote on the label of a new cell and that its novelty is measured with.
    n_steps
        Steps of the fit of new batches.
    device
        `"auto"` takes CUDA, then MPS, then CPU; or torch's name of a device.
    rng
        Seed.
    copy
        Work on a copy of `adata` and return it.

    Returns
    -------
    `None`, or the copy if `copy`. Written are:

    `obsm["X_vae"]`
        The embedding in the space of the reference, float32, cells x latent dimensions.
    `varm["vae_loadings"]`
        Its loadings, if the reference has them: genes x latent dimensions, 0 for genes that the model does not read.
    `obs["novelty"]`
        Mean distance of a cell to its nearest reference cells, divided by the mean distance of these to their own
        nearest cells: about 1 for cells like those of the reference. For cells of a new batch it is measured before
        their alignment, so compare within a batch. A type that the reference lacks can lie on a type that it has; this
        number does not find it then.
    `obs["<label_key>_predicted"]`, `obs["<label_key>_uncertainty"]`
        The label with most votes of the nearest cells (nearer cells weigh more), and the share of the votes that it
        did not get, 0 to 1.
    `obs["<label_key>_confidence"]`
        The probability that the label is right, if the reference has the type of the cell. It is calibrated on the
        reference: each of its batches is predicted once from all others (at most 12 batches, and 6,000 cells in all).
        NaN where no two batches have a label in common.
    `obs["novelty_p"]`, `obs["novel"]` (with `label_key`)
        The conformal p-value (Bates et al. 2023, Annals of Statistics) of "the cell is of its predicted type". It is
        small where the cell lies far from the type in the latent space, or where the mean expression of similar cells
        of its own batch differs from that of the type. The effect that the batch has on most types alike is removed.
        NaN where the reference has fewer than 19 cells to compare with. `novel` marks the cells at a false discovery
        rate of 10 % in their batch (Benjamini & Hochberg 1995).
    `uns["vae_transfer"]` (with `label_key`; named after `key`)
        `verdict`, a summary in sentences, which the log has too; and tables.
        `query`, a row per batch and label: `n_cells`, `n_novel`, the squared `difference` of all these cells from the
        label (as a multiple of the largest of any reference batch; NaN with fewer than three of these) and whether they
        seem to hold a `new` type.
        `labels`, a row per label of the reference: its cells and batches, and what would happen to its cells if the
        reference lacked the label: what they would be `called`, the `auroc` of telling them from others, the share
        `found` with a p-value below 0.05 in batches like the query's, and the share of batches in which they would be
        `noticed` as a group.
        `calibration`, a row per reference batch: the confidence that the other batches state for it, and the share of
        labels that are `right`. `expected`: the range for the share of right labels in a new batch, in nine of ten
        cases (for cells of types that the reference has), estimated from how much the reference batches differ.
    `uns["vae"]`
        The record of the reference's model, with the new batches, for :func:`sc_vaenb.tl.embed` and others; and
        `query`: `n_reference` (cells), `n_genes` (of the reference's model), `missing_genes`, `new_batches`.

    Raises
    ------
    KeyError, TypeError, ValueError
        There is no such model, `adata` has fewer than half of its genes, the counts or batches are not valid, a batch
        is new to a model that was fitted with `controls` or `time_key`, or there are no labels. `adata` is unchanged.

    See Also
    --------
    sc_vaenb.tl.embed : For cells of the batches of the reference.
    sc_vaenb.tl.import_model : Reads a reference from a file.

    References
    ----------
    .. [1] Lotfollahi et al. (2022), Mapping single-cell data to reference atlases by transfer learning, Nature
       Biotechnology 40:121-130.
    .. [2] Kang et al. (2021), Efficient and precise single-cell reference atlas mapping with Symphony, Nature
       Communications 12:5890.
    .. [3] Bates et al. (2023), Testing for outliers with conformal p-values, Annals of Statistics 51:149-178.
    .. [4] Benjamini and Hochberg (1995), Controlling the false discovery rate, Journal of the Royal Statistical Society
       B 57:289-300.

    Examples
    --------
    >>> import sc_vaenb
    >>> adata = sc_vaenb.datasets.simulate(n_batches=3)
    >>> new = adata.obs["batch"] == "batch_2"
    >>> query, reference = adata[new].copy(), adata[~new].copy()
    >>> sc_vaenb.pp.prepare(reference, batch_key="batch")
    >>> sc_vaenb.tl.cvae(reference, "batch")
    >>> sc_vaenb.tl.map_query(query, reference, label_key="cell_type")
    """
    rng = seed_of(rng)
    torch_device = resolve_device(device)
    with errors_name_the_reference():
        check_adata(reference)
        _adata.check_can_be_subset(reference)
        record, fitted = read_record(reference, key), FittedModel.from_uns(reference, key)
        labels = None if label_key is None else reference_labels(reference, label_key)
    if reference.n_obs < 2:
        msg = "reference has one cell: novelty is relative to the distances between its cells, which needs two."
        raise ValueError(msg)
    has_gene = genes_present(adata, fitted, key)
    params = _params(adata, record["params"], fitted, batch_key, layer)
    new_batches = _new_batches(adata, params, fitted)
    if new_batches and fitted.model.config.batch_offsets:
        given = "controls" if "controls" in record["params"] else "time_key"
        msg = (
            f"reference: the model in uns[{key!r}] was fitted with {given}=: it has no offsets for "
            f"batches that it does not know ({', '.join(new_batches)}). Fit it without {given} to map new batches."
        )
        raise ValueError(msg)
    with errors_name_the_reference():
        embedding, batch_index = reference_space(reference, key, fitted, torch_device)
        reduced = fitted if has_gene.all() else without_missing_genes(fitted, has_gene, reference, key)
    mapped = replace(
        reduced,
        model=with_batches(reduced.model, len(new_batches)) if new_batches else reduced.model,
        batches=fitted.batches + new_batches,
        params=params,
    )
    counts = read_counts(adata, key, mapped, params=params, peaks_suffice=True)
    has_genes, has_peaks = _measured(counts, adata)

    start = logg.info(
        f"mapping {adata.n_obs:,} cells on {reference.n_obs:,} with {has_gene.sum():,} of the {len(has_gene):,} genes "
        f"of uns[{key!r}]" + (f"; new batches: {', '.join(new_batches)}" if new_batches else "")
    )
    adata = adata.copy() if copy else adata
    query_embedding, search_embedding = embed_query(
        mapped.model,
        counts,
        len(new_batches),
        embedding,
        batch_index,
        n_steps,
        int(params["batch_size"]),
        float(params["beta"]),
        torch_device,
        rng,
        progress=settings.verbosity.value > 0,
    )
    columns = {"novelty": novelty(search_embedding, embedding, n_neighbors)}
    tables: dict[str, Any] = {}
    if label_key is not None and labels is not None:
        before_alignment = bool(new_batches)  # as `search_embedding`
        labelled = labelled_reference(
            reference,
            key,
            reduced,
            embedding,
            batch_index,
            labels,
            before_alignment,
            has_genes,
            has_peaks,
            torch_device,
            rng,
        )
        matrix = None if labelled.counts is None else counts.matrix
        batches = counts.batch_index, mapped.batches or ["the query"]
        result = transfer_labels(
            labelled, label_key, fitted.batches, search_embedding, matrix, *batches, n_neighbors, rng
        )
        columns |= result.columns
        name = f"{label_key}_predicted"
        columns[name] = pd.Categorical.from_codes(columns[name], dtype=labels.dtype)
        tables = result.tables
    query = {
        "n_reference": reference.n_obs,
        "n_genes": len(has_gene),
        "missing_genes": np.array(fitted.genes, dtype=object)[~has_gene],
        "new_batches": np.array(new_batches, dtype=object),
    } | ({} if label_key is None else {"label_key": label_key})
    record = _query_record(record, query, mapped, counts, search_embedding, embedding, batch_index)
    loadings = _adata.read_loadings(reference, key, mapped.genes, mapped.model.config.n_latent)
    added = _write(adata, key, mapped.model, query_embedding, record, columns, tables)
    _adata.write_loadings(adata, key, mapped.genes, loadings)
    if tables:
        logg.info(tables["verdict"])
    logg.info("    finished", time=start, deep="\n    ".join(["added", *added]))
    return adata if copy else None


def _params(
    adata: AnnData,
    params_of_fit: Mapping[str, Any],
    fitted: FittedModel,
    batch_key: str | Sequence[str] | None,
    layer: str | None,
) -> dict[str, Any]:
    """The parameters of the fit, with the layer and the batch column of the new cells."""
    params = {name: value for name, value in params_of_fit.items() if name not in {"layer", "batch_key"}}
    if layer == "auto":
        layer = params_of_fit.get("layer") if params_of_fit.get("layer") in _adata.keys(adata.layers) else None
    if layer is not None:
        params["layer"] = layer
    if fitted.batches:
        params["batch_key"] = params_of_fit["batch_key"] if batch_key is None else batch_key
        columns, columns_of_fit = (_obs.columns_of(key) for key in (params["batch_key"], params_of_fit["batch_key"]))
        if len(columns) not in {1, len(columns_of_fit)}:
            msg = (
                f"batch_key={columns} names {len(columns)} columns, but the model was fitted on {columns_of_fit}. Name "
                "as many."
            )
            raise ValueError(msg)
    return params


def _measured(counts: Counts, adata: AnnData) -> tuple[bool, bool]:
    """Whether the cells have counts in genes, and in peaks; an error if some have them in genes, and others do not."""
    without_genes = np.diff(counts.matrix.indptr) == 0
    if without_genes.any() and not without_genes.all():
        first = str(adata.obs_names[int(without_genes.argmax())])
        msg = (
            f"{without_genes.sum()} of {adata.n_obs} cells have no counts in the genes of the model (first: "
            f"{first!r}). Cells with peaks alone are compared with the reference in another way: map them in a call of "
            "their own."
        )
        raise ValueError(msg)
    return not without_genes.all(), counts.peaks is not None and counts.peaks.nnz > 0


def _new_batches(adata: AnnData, params: Mapping[str, Any], fitted: FittedModel) -> list[str]:
    """Batches of `adata` that the model does not know."""
    if not fitted.batches:
        return []
    return [str(name) for name in _obs.batch_labels(adata, params["batch_key"])[1] if name not in fitted.batches]


def _query_record(
    record: Mapping[str, Any],
    query: Mapping[str, Any],
    mapped: FittedModel,
    counts: Counts,
    search_embedding: NDArray[np.float32],
    embedding: NDArray[np.float32],
    batch_index: NDArray[np.int64],
) -> dict[str, Any]:
    """The record of the model for `adata`: the record of the reference, with the new batches and `query`."""
    if mapped.proteins:
        protein, n_batches = counts.side_inputs["protein"], max(len(mapped.batches), 1)
        mapped = replace(
            mapped, proteins=proteins_with_batches(mapped.proteins, protein, counts.batch_index, n_batches)
        )
    of_the_reference = {"model", "query", "components", "fingerprint"}
    result = deepcopy({name: part for name, part in record.items() if name not in of_the_reference})
    new_batches = list(query["new_batches"])
    if new_batches and "overlap" in result:
        nearest_cell = nearest(search_embedding, embedding, 1)[1][:, 0]
        result["overlap"] = overlap_with_batches(
            result["overlap"], new_batches, counts.batch_index, batch_index[nearest_cell]
        )
    return {**result, "params": to_uns(mapped.params), "model": mapped.to_uns(), "query": query}


def _write(
    adata: AnnData,
    key: str,
    model: CountVAE,
    embedding: NDArray[np.float32],
    record: dict[str, Any],
    columns: Mapping[str, Any],
    tables: Mapping[str, Any],
) -> list[str]:
    """Write all results; return a line for the log on each."""
    if key in adata.uns or f"X_{key}" in adata.obsm:
        logg.warning(f"replacing uns[{key!r}] and obsm['X_{key}'] of the new cells")
    _adata.remove_extras(adata, key)
    _adata.write_result(adata, key, embedding, record)
    label_lines = write_labels(adata, key, model, embedding)
    for name, values in columns.items():
        adata.obs[name] = values
    if adata.uns.pop(f"{key}_transfer", None) is not None:  # an earlier call wrote labels and novelty
        stale = [name for name in ("novelty_p", "novel") if name in adata.obs and name not in columns]
        adata.obs = adata.obs.drop(columns=stale)
    added = [
        f"'X_{key}', the embedding (adata.obsm)",
        f"{key!r}, the model with its new batches (adata.uns)",
        f"{', '.join(map(repr, columns))} (adata.obs)",
    ]
    if tables:
        adata.uns[f"{key}_transfer"] = tables
        added.append(f"'{key}_transfer', how far labels and novelty can be trusted (adata.uns)")
    return [*added, *label_lines]
