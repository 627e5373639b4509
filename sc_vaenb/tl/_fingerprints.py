"""Keys and fingerprints of the embeddings of a comparison: an embedding with the same fingerprint is used again."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from itertools import chain, count
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from .._obs import columns_of, read_mask
from ..data.counts import checksum

if TYPE_CHECKING:
    from anndata import AnnData

SUFFIX = "_compare"  # put behind the name of a method if something else has that name
# Not among the parameters of a fingerprint: what changes no result, and what has a checksum.
NOT_IN_FINGERPRINT = {"batch_key", "layer", "mask_var", "device", "checkpoint", "key_added", "copy", "controls"}


def fingerprint(adata: AnnData, method: str, seed: int, params: Mapping[str, Any], data_checksum: int) -> str:
    """Changes with the parameters, the package version, the side inputs, and the counts and batches."""
    used_params = {name: value for name, value in params.items() if name not in NOT_IN_FINGERPRINT}
    parts = [method, seed, used_params, version("sc_vaenb"), side_input_checksums(adata, params)]
    text = json.dumps(parts, sort_keys=True, default=str)
    return f"{zlib.crc32(text.encode()):08x}{data_checksum:08x}"


def side_input_checksums(adata: AnnData, params: Mapping[str, Any]) -> list[int]:
    """Checksums of all that a fit with these parameters reads, besides counts and batches."""
    one_column = (params.get(name) for name in ("size_factor", "labels_key", "time_key"))
    keys = (*one_column, *(params.get("covariate_keys") or ()))
    columns = [name for name in keys if name in adata.obs]  # a missing column is reported by the fit
    checksums = [checksum(pd.util.hash_pandas_object(adata.obs[name], index=False).to_numpy()) for name in columns]
    if (controls := params.get("controls")) is not None:
        checksums.append(checksum(read_mask(adata, "obs", "controls", controls)))
    for kind, key in (("protein", params.get("protein_key")), ("peak", params.get("peaks_key"))):
        if key in adata.obsm:
            table = adata.obsm[key]
            names = adata.uns.get(f"{kind}_names", getattr(table, "columns", []))
            arrays = (table.indptr, table.indices, table.data) if sparse.issparse(table) else (np.asarray(table),)
            values = checksum(*(array.astype(np.float64) for array in arrays))
            checksums += [values, zlib.crc32(repr(list(names)).encode())]
    return checksums


def free_key(adata: AnnData, name: str, own_keys: set[str]) -> str:
    """The first of `name`, name_compare, name_compare2, ... that is not in use, or that this comparison wrote."""

    def is_free(key: str) -> bool:
        return not (key in adata.uns or f"X_{key}" in adata.obsm or has_graph(adata, key))

    candidates = chain((name, name + SUFFIX), (f"{name}{SUFFIX}{n}" for n in count(2)))
    return next(key for key in candidates if key in own_keys or is_free(key))


def has_graph(adata: AnnData, key: str) -> bool:
    """Whether neighbours, clusters or a UMAP exist under this key."""
    return f"neighbors_{key}" in adata.uns or f"leiden_{key}" in adata.obs or f"X_umap_{key}" in adata.obsm


def check_keys(keys: list[str], key_added: str, batch_key: str | Sequence[str], label_key: str | None) -> None:
    """Refuse keys that two results would have, and columns of obs that the comparison would overwrite."""
    for key in keys:
        if keys.count(key) > 1 or key == key_added:
            msg = f"two results would have the name {key!r}. Rename the variant, or choose another key_added."
            raise ValueError(msg)
        for name, columns in (("batch_key", columns_of(batch_key)), ("label_key", [label_key])):
            if (column := f"leiden_{key}") in columns:
                msg = f"{name}={column!r} is a column that the comparison writes. Copy it to another name first."
                raise ValueError(msg)


def computed_before(adata: AnnData, key_added: str) -> pd.DataFrame:
    """The embeddings of earlier comparisons that have not changed since, a row per key.

    `found`: it is a fit of the user, which the comparison took as it was.
    """
    made = adata.uns.get(key_added, {}).get("made", pd.DataFrame(columns=["made_from", "checksum", "seconds"]))
    if "found" not in made:  # earlier versions
        made = made.assign(found=False)
    made = made.astype({"made_from": object, "checksum": np.int64, "seconds": np.float64, "found": bool})
    for key in list(made.index):
        if f"X_{key}" not in adata.obsm and not made.loc[key, "found"]:
            made.loc[key, "made_from"] = ""  # its graph and clusters may still exist
        elif f"X_{key}" not in adata.obsm or checksum(np.asarray(adata.obsm[f"X_{key}"])) != made.loc[key, "checksum"]:
            made = made.drop(index=key)
    return made
