"""The reference that `tl.map_query` maps new cells on: its labels, its latent space, its model, its labelled cells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scanpy import logging as logg

from .. import _adata, _obs
from .._names import means_no_label
from .._record import FittedModel
from ..inference.embed import aligned, embed
from ..inference.map_query import of_genes
from ..inference.transfer import Reference, batches_or_halves, draw_sample
from ._counts import read_counts

if TYPE_CHECKING:
    import torch
    from anndata import AnnData

MIN_SHARE_OF_GENES = 0.5  # share of the model's genes that the new cells must have


@contextmanager
def errors_name_the_reference() -> Iterator[None]:
    """Put "reference: " before the message of an error: the new cells can cause an error with the same message."""
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        msg = f"reference: {error.args[0]}"
        raise type(error)(msg) from error


def reference_labels(reference: AnnData, label_key: str) -> pd.Series:
    """Labels of the reference as categories; NaN for a cell without a label."""
    labels = _obs.read_categories(reference, "label_key", label_key)
    _obs.warn_about_no_label_words(reference, label_key, _obs.NOT_A_LABEL)
    known = [label for label in labels.cat.categories if not means_no_label(label)]
    labels = labels.cat.set_categories(known).cat.remove_unused_categories()
    if labels.isna().all():
        msg = f"obs[{label_key!r}] holds no label. Choose another column."
        raise ValueError(msg)
    return labels


def reference_space(
    reference: AnnData, key: str, fitted: FittedModel, device: torch.device
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The embedding of the reference, computed if it is missing, and its batch codes."""
    model, name, params = fitted.model, f"X_{key}", fitted.params
    batch_index = np.zeros(reference.n_obs, np.int64)
    if fitted.batches:
        batch_index = _obs.batch_codes(reference, params["batch_key"], fitted.batches)
    if name not in reference.obsm:
        unaligned = embed(model, read_counts(reference, key, fitted), device)
        embedding = aligned(model, unaligned, batch_index, device)
        model.cpu()  # `of_genes` and `with_batches` build the new model's weights on the CPU
        return embedding, batch_index
    embedding = _adata.read_embedding(reference, name)
    if embedding.shape[1] != model.config.n_latent:
        msg = (
            f"obsm[{name!r}] has {embedding.shape[1]} dimensions, the model in uns[{key!r}] {model.config.n_latent}. "
            f"Run sc_vaenb.tl.embed(reference, {key!r}) first."
        )
        raise ValueError(msg)
    return embedding, batch_index


def without_missing_genes(
    fitted: FittedModel, has_gene: NDArray[np.bool_], reference: AnnData, key: str
) -> FittedModel:
    """The model for the genes that the new cells have; the counts of the reference say what the others contribute."""
    model, depth_share = of_genes(fitted.model, np.flatnonzero(has_gene), read_counts(reference, key, fitted))
    mean = fitted.size_factor_mean * (depth_share if fitted.params.get("size_factor") is None else 1.0)
    return replace(fitted, model=model, genes=list(np.array(fitted.genes)[has_gene]), size_factor_mean=mean)


def overlap_with_batches(
    overlap: Mapping[str, Any],
    new_batches: list[str],
    batch_index: NDArray[np.int64],
    nearest_batch: NDArray[np.int64],
) -> dict[str, Any]:
    """The groups of batches, with each new batch in the group that most of its cells are nearest to.

    `batch_index`: batch of each new cell. `nearest_batch`: batch of the reference cell nearest to it.
    """
    group, n_batches = np.asarray(overlap["group"]), len(overlap["group"])
    new_groups = [
        np.bincount(group[nearest_batch[batch_index == n_batches + i]]).argmax() for i in range(len(new_batches))
    ]
    return {
        "batches": np.array([*overlap["batches"], *new_batches], dtype=object),
        "group": np.array([*group, *new_groups]),
        # version 0.1.0 compared all batches
        "compared": np.asarray(overlap.get("compared", np.arange(n_batches))),
        "share": np.asarray(overlap["share"], float),
    }


def labelled_reference(
    reference: AnnData,
    key: str,
    reduced: FittedModel,
    embedding: NDArray[np.float32],
    batch_index: NDArray[np.int64],
    labels: pd.Series,
    before_alignment: bool,
    has_genes: bool,
    has_peaks: bool,
    device: torch.device,
    seed: int,
) -> Reference:
    """The labelled cells of the reference, with a sample of them embedded in the same way as the query.

    Parameters
    ----------
    reduced
        The model without the genes that the query lacks, and without its new batches.
    before_alignment
        Whether the sample is embedded without alignment, as cells of a new batch are; this needs the counts.
    has_genes, has_peaks
        Whether the query has counts in genes and in peaks. The sample is embedded by no others.
    """
    label_codes = labels.cat.codes.to_numpy(dtype=np.int64)
    cells = np.flatnonzero(label_codes >= 0)
    folds, across_batches = batches_or_halves(batch_index[cells], seed)
    sample = draw_sample(folds, seed)
    sample_embedding, matrix = embedding[cells[sample]], None
    try:
        counts = read_counts(reference[cells[sample]], key, reduced)
    except (KeyError, TypeError, ValueError) as error:
        logg.warning(
            f"the counts of the reference cannot be read ({error.args[0]}): novelty is judged in the latent space "
            "alone, where types that the reference lacks often lie on those that it has."
        )
    else:
        matrix = counts.matrix if has_genes else None
        has_less = not has_genes or (bool(reduced.peaks) and not has_peaks)
        if before_alignment or has_less:
            as_query = counts.without(genes=not has_genes, peaks=not has_peaks)
            sample_embedding = embed(reduced.model, as_query, device)
            if not before_alignment:
                sample_embedding = aligned(reduced.model, sample_embedding, counts.batch_index, device)
            reduced.model.cpu()  # it shares its weights with the model of the query
    names = [str(name) for name in labels.cat.categories]
    return Reference(
        embedding[cells], label_codes[cells], folds, across_batches, sample, sample_embedding, matrix, names
    )


def genes_present(adata: AnnData, fitted: FittedModel, key: str) -> NDArray[np.bool_]:
    """Whether `adata` has each gene of the model; an error if it has fewer than half of them."""
    has_gene = adata.var_names.get_indexer(fitted.genes) >= 0
    if has_gene.mean() < MIN_SHARE_OF_GENES:
        first_missing = fitted.genes[int(np.argmin(has_gene))]
        msg = (
            f"Only {has_gene.sum()} of the {len(has_gene)} genes of the model in uns[{key!r}] are in var_names (first "
            f"missing: {first_missing!r}); at least half are needed. Check that genes are named as in the reference "
            "(symbols or identifiers, case), and that adata was not subset to other genes before."
        )
        if fitted.peaks:
            msg += " Cells with peaks alone need the genes, too, without counts."
        raise ValueError(msg)
    return has_gene
