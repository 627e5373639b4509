"""The common part of `tl.normalized` and `tl.corrected`: choose the genes, decode them, and write the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scanpy import logging as logg
from scanpy import settings

from .. import _adata
from .._checks import seed_of
from .._names import column_names
from .._record import FittedModel
from ..data.counts import Counts
from ..fit.device import generator, resolve_device, threads_as_asked
from ..inference.normalized import TargetBatches, collect, drawn, expected
from ._counts import read_counts
from ._docstrings import fill

if TYPE_CHECKING:
    from anndata import AnnData

GENES = """\
genes
        The genes to write, as a table in `obsm`, which is small for a few genes. `None`: all genes of the model, as a
        layer. A layer has a column for every gene of `adata`; columns of genes that the model does not know hold
        NaN."""

THRESHOLD = """\
threshold
        Values below it become 0, and a layer becomes sparse (CSR), which needs less memory; 0 keeps all values. In a
        sparse layer a missing gene would look like a zero, so the model must know all genes of `adata`: subset them
        first."""

REST = """\
device
        `"auto"` takes CUDA, then MPS, then CPU; or torch's name of a device.
    rng
        Seed of the random draws; the global random state is neither read nor changed."""

RAISES = """\
KeyError, TypeError, ValueError
        There is no such model, it cannot be read, some of its genes are missing, the counts or batches are not valid,
        or an argument is not possible. `adata` is unchanged."""


def describe(function: Callable) -> Callable:
    """Insert the shared parts into a docstring."""
    return fill(function, {"genes": GENES, "threshold": THRESHOLD, "rest": REST, "raises": RAISES})


class GenesToWrite(NamedTuple):
    """Names of the genes, their indices in the model, their columns in the result, and the number of columns."""

    names: list[str]
    in_model: NDArray[np.int64]
    columns: NDArray[np.int64]
    n_columns: int


def express(
    adata: AnnData,
    key: str,
    *,
    what: str,
    key_added: str,
    decode_in: Callable[[FittedModel, Counts], TargetBatches],
    genes: Sequence[str] | None,
    target_sum: float,
    n_samples: int,
    threshold: float | None,
    device: str,
    rng: int | np.random.Generator | None,
    copy: bool,
    counts: bool = False,
) -> AnnData | None:
    """Validate, decode, write: the body of both functions. `decode_in` gives the batches to decode in."""
    rng = seed_of(rng)
    torch_device = resolve_device(device)
    fitted = FittedModel.from_uns(adata, key)
    as_csr = genes is None and (counts or threshold is not None)
    to_write = (
        _layer_genes(adata, key, fitted, key_added, as_csr) if genes is None else _table_genes(key, fitted, genes)
    )
    cells = read_counts(adata, key, fitted, peaks_suffice=True)
    targets = decode_in(fitted, cells)

    start = logg.info(f"computing {what} of {adata.n_obs:,} cells x {len(to_write.names):,} genes with uns[{key!r}]")
    n_unknown = to_write.n_columns - len(to_write.names)
    if n_unknown:
        logg.warning(
            f"{n_unknown:,} of {adata.n_vars:,} genes are not in the model and will hold NaN. "
            "To save their memory, subset adata to the genes of the model, or pass genes."
        )
    slot = "layers" if genes is None else "obsm"
    if key_added in getattr(adata, slot):
        logg.warning(f"replacing {slot}[{key_added!r}]; pass key_added to keep several results side by side")
    adata = adata.copy() if copy else adata
    with threads_as_asked(), torch.inference_mode():
        values = collect(
            (drawn if counts else expected)(
                fitted.model, cells, targets, n_samples, torch_device, generator(rng, torch_device)
            ),
            (adata.n_obs, to_write.n_columns),
            to_write.in_model,
            to_write.columns,
            scale=1.0 if counts else target_sum,
            threshold=threshold,
            as_csr=as_csr,
            progress=settings.verbosity.value > 0,
        )
    if genes is None:
        _adata.write_layer(adata, key_added, values)
    else:
        columns = column_names(to_write.names)
        if columns != to_write.names:
            renamed = {name: column for name, column in zip(to_write.names, columns, strict=True) if name != column}
            logg.info(f"    obsm[{key_added!r}] has columns with names that files can hold: {renamed}")
        _adata.write_table(adata, key_added, pd.DataFrame(values, index=adata.obs_names, columns=columns))
    logg.info("    finished", time=start, deep=f"added\n    {key_added!r}, {what} (adata.{slot})")
    return adata if copy else None


def _layer_genes(adata: AnnData, key: str, fitted: FittedModel, key_added: str, as_csr: bool) -> GenesToWrite:
    if key_added == fitted.params.get("layer"):
        msg = f"key_added={key_added!r} is the layer with the counts of the model in uns[{key!r}]. Give another name."
        raise ValueError(msg)
    columns = _adata.locate_genes(adata, fitted.genes, key)
    unknown = adata.var_names.difference(fitted.genes, sort=False)
    if as_csr and len(unknown):
        msg = (
            f"{len(unknown)} of {adata.n_vars} genes are not in the model in uns[{key!r}] (first: "
            f"{str(unknown[0])!r}), and a sparse layer would say that they are not expressed. Subset adata to the "
            f"genes of the model (adata[:, adata.uns[{key!r}]['model']['genes']].copy()), or pass genes for a table."
        )
        raise ValueError(msg)
    in_model = np.argsort(columns)
    return GenesToWrite([fitted.genes[i] for i in in_model], in_model, columns[in_model], adata.n_vars)


def _table_genes(key: str, fitted: FittedModel, genes: Sequence[str]) -> GenesToWrite:
    names = [genes] if isinstance(genes, str) else [str(gene) for gene in genes]
    unknown = [gene for gene in names if gene not in fitted.genes]
    if unknown:
        msg = (
            f"genes holds {len(unknown)} that are not in the model in uns[{key!r}] (first: {unknown[0]!r}). "
            f"It knows {len(fitted.genes)}, among them {fitted.genes[:3]}."
        )
        raise ValueError(msg)
    if not names or len(set(names)) < len(names):
        msg = f"genes={names} is empty or names a gene twice. Give each gene once, or None for all."
        raise ValueError(msg)
    in_model = pd.Index(fitted.genes).get_indexer(names)
    return GenesToWrite(names, in_model, np.arange(len(names)), len(names))
