"""Join several inputs: each is a sample."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING

import pandas as pd

from ._inputs import SAMPLE, Input
from ._tables import add_columns, first_names

if TYPE_CHECKING:
    from anndata import AnnData

MIN_COMMON = 0.5  # share of the genes of the smallest file that all files must have, or they are of different genomes


def join(inputs: list[Input], adatas: list[AnnData]) -> tuple[AnnData, list[str]]:
    """One AnnData of several: the genes in common, `obs["sample"]`, and what is to be said about it."""
    import anndata

    for entry, adata in zip(inputs, adatas, strict=True):
        constant = pd.DataFrame(entry.columns, index=adata.obs_names, columns=list(entry.columns))
        add_columns(adata, constant, "the sheet of --samples")
    names = [str(entry.sample) for entry in inputs]
    messages = [_name_samples(names, adatas)]
    common = reduce(pd.Index.intersection, [adata.var_names for adata in adatas])
    smallest = min(adata.n_vars for adata in adatas)
    if len(common) < MIN_COMMON * smallest:
        genes = "; ".join(f"{entry.path}: {first_names(a.var_names)}" for entry, a in zip(inputs, adatas, strict=True))
        raise ValueError(
            f"the inputs have {len(common):,} genes in common, and the smallest has {smallest:,} ({genes}). They seem "
            "to be of different genomes, or to name genes in different ways. Give all the same names of genes."
        )
    all_genes = reduce(pd.Index.union, [adata.var_names for adata in adatas])
    messages.append(f"{len(common):,} genes are in all inputs; {len(all_genes) - len(common):,} others are dropped")
    lost = sorted({str(name) for a in adatas for name in a.obs} - set.intersection(*({*a.obs} for a in adatas)))
    if lost:
        messages.append(f"columns of obs that not all inputs have are dropped: {', '.join(lost)}")
    ending = None
    if not reduce(pd.Index.append, [adata.obs_names for adata in adatas]).is_unique:
        ending = "-"
        example = f"{adatas[0].obs_names[0]}-{names[0]}"
        messages.append(f"inputs share names of cells, which get the sample at their end ({example!r})")
    joined = anndata.concat(dict(zip(names, adatas, strict=True)), join="inner", merge="same", index_unique=ending)
    return joined, messages


def _name_samples(names: list[str], adatas: list[AnnData]) -> str:
    """Write `obs["sample"]`, unless all have it; say which."""
    n_with = sum(SAMPLE in adata.obs for adata in adatas)
    if n_with == len(adatas):
        return f"obs[{SAMPLE!r}]: as in the inputs, which all have this column"
    if n_with:
        raise ValueError(f"{n_with} of {len(adatas)} inputs have obs[{SAMPLE!r}]. Give this column to all, or to none.")
    for name, adata in zip(names, adatas, strict=True):
        adata.obs[SAMPLE] = name
    return f"obs[{SAMPLE!r}]: {', '.join(names)}"
