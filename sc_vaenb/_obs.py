"""Columns of obs: batches, labels and other categories of the cells, as codes and text.

Every error says what is wrong, where, what was found and what to do, before any work is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ._names import JOIN, means_no_label, names_of, not_names_error, texts

if TYPE_CHECKING:
    from anndata import AnnData


def columns_of(batch_key: str | Sequence[str]) -> list[str]:
    """The columns of obs that a `batch_key` names: one, or several, whose combinations are the batches."""
    return [batch_key] if isinstance(batch_key, str) else [str(key) for key in batch_key]


def title_of(batch_key: str | Sequence[str]) -> str:
    """The columns of a `batch_key` in a title or a table: "donor | technology"."""
    return JOIN.join(columns_of(batch_key))


def as_one_column(batch_key: str | Sequence[str] | None) -> str:
    """A `batch_key` in advice on another argument, which takes one column."""
    return repr(batch_key) if isinstance(batch_key, str | None) else f"<a column that joins {columns_of(batch_key)}>"


def check_obs_key(adata: AnnData, name: str, key: str) -> None:
    """Refuse a key that names no column of obs, or several."""
    check_column(adata, "obs", name, key)


def check_column(adata: AnnData, slot: str, name: str, key: str) -> None:
    """Refuse a key that names no column of `slot` (obs or var), or several; `name` is the argument."""
    columns = list(getattr(adata, slot).columns)
    n = columns.count(key)
    if n == 0:
        msg = f"{name}={key!r} is not in adata.{slot}. Its columns are {list(map(str, columns))}."
        raise KeyError(msg)
    if n > 1:
        msg = f"{slot} holds {n} columns named {key!r}. Rename one of them, or keep one."
        raise ValueError(msg)


def read_categories(adata: AnnData, name: str, key: str | Sequence[str]) -> pd.Series:
    """A column of obs as categories with text names. Categories without cells are dropped; missing values stay.

    Of several columns, the combinations that occur are the categories: "d1 | 10x".
    """
    if not isinstance(key, str):
        return _combinations(adata, [read_categories(adata, name, column) for column in key])
    check_obs_key(adata, name, key)
    column = adata.obs[key]
    try:
        column = column.astype("category").cat.remove_unused_categories()
    except (TypeError, ValueError) as error:
        raise not_names_error(column) from error
    names = names_of(column.cat.categories)
    if len(set(names)) < len(names):
        shared_name = next(text for text in names if names.count(text) > 1)
        msg = (
            f"obs[{key!r}] holds values of one name and different types (first: {shared_name!r}). Make all of them "
            f"strings: adata.obs[{key!r}] = adata.obs[{key!r}].astype(str)."
        )
        raise ValueError(msg)
    return column.cat.rename_categories(names)


def _combinations(adata: AnnData, columns: Sequence[pd.Series]) -> pd.Series:
    """The combination of values of each cell, in the order of the categories; missing if one value is missing.

    No value may hold "|", so that no two combinations have the same name.
    """
    for column in columns:
        if with_bar := [text for text in column.cat.categories if JOIN.strip() in text]:
            msg = (
                f"obs[{column.name!r}] holds {with_bar[0]!r}, but {JOIN.strip()!r} separates the columns in the names "
                f"of batches. Replace it: adata.obs[{column.name!r}] = "
                f"adata.obs[{column.name!r}].astype(str).str.replace('|', '/')."
            )
            raise ValueError(msg)
    codes = pd.MultiIndex.from_arrays([column.cat.codes for column in columns])
    combinations = codes.unique().sort_values()
    combinations = combinations[(np.array(combinations.to_list()) >= 0).all(axis=1)]
    names = [
        JOIN.join(column.cat.categories[code] for column, code in zip(columns, combination, strict=True))
        for combination in combinations
    ]
    joined = pd.Categorical.from_codes(combinations.get_indexer(codes), names)
    return pd.Series(joined, index=adata.obs_names, name=title_of([column.name for column in columns]))


def batch_labels(
    adata: AnnData, batch_key: str | Sequence[str], name: str = "batch_key"
) -> tuple[NDArray[np.int64], NDArray[np.str_]]:
    """The batch code of each cell, and the names of the batches. Categories without cells are dropped.

    `name` is the argument that names the column.
    """
    column = read_categories(adata, name, batch_key)
    missing = column.isna().to_numpy()
    if missing.any():
        msg = (
            f"obs[{batch_key!r}] is missing for {missing.sum()} cells (first: "
            f"{str(adata.obs_names[int(np.argmax(missing))])!r}). Label or remove them."
        )
        raise ValueError(msg)
    names = [str(category) for category in column.cat.categories]
    return column.cat.codes.to_numpy(dtype=np.int64), np.array(names)


def batch_columns(
    batch_key: str | Sequence[str], codes: NDArray[np.int64], names: Sequence[str]
) -> dict[str, pd.Categorical]:
    """The columns of obs from which :func:`batch_labels` reads these batch codes and names."""
    parts = [[name] if isinstance(batch_key, str) else name.split(JOIN) for name in names]
    columns = {}
    for key, values in zip(columns_of(batch_key), zip(*parts, strict=True), strict=True):
        columns[key] = pd.Categorical(np.array(values, dtype=object)[codes], list(dict.fromkeys(values)))
    return columns


def read_labels(adata: AnnData, name: str, key: str) -> NDArray[np.object_]:
    """The label of each cell as text, None where a cell has no label. `name` is the argument that names the column.

    Words such as "Unknown" or "NA" mean "no label"; :func:`warn_about_no_label_words` warns about them.
    """
    check_obs_key(adata, name, key)
    labels = texts(adata.obs[key])
    no_label_words = [label for label in set(labels.tolist()) - {None} if means_no_label(label)]
    labels[np.isin(labels.astype(str), no_label_words)] = None
    return labels


def warn_about_no_label_words(adata: AnnData, key: str, instead: str, *, known: str | None = None) -> None:
    """Warn about labels that mean "no label" (except the `known` one); `instead` says what is done with their cells."""
    from scanpy import logging as logg

    counts = pd.Series(texts(adata.obs[key]), dtype=object).value_counts()
    n_cells_of = {word: n for word, n in counts.items() if means_no_label(str(word)) and word != known}
    if n_cells_of:
        listed = ", ".join(f"{word!r} ({n:,} cells)" for word, n in n_cells_of.items())
        logg.warning(f"obs[{key!r}] holds {listed}: {instead}")


NOT_A_LABEL = "taken as no label, like NaN. If it is a cell type, give it another name."


def read_batches(adata: AnnData, batch_key: str | Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.str_]]:
    """Batch codes and names for a fit, which needs two or more batches of two or more cells each."""
    codes, names = batch_labels(adata, batch_key)
    if len(names) < 2:
        msg = (
            f"obs[{batch_key!r}] holds only one batch ({str(names[0])!r}): there is nothing to integrate. "
            "Use sc_vaenb.tl.vae(adata), or another batch_key."
        )
        raise ValueError(msg)
    sizes = np.bincount(codes)
    if sizes.min() < 2:
        msg = (
            f"obs[{batch_key!r}]: batch {str(names[int(np.argmin(sizes))])!r} has one cell, from which no batch effect "
            "can be learned. Remove the cell, or merge the batch with another."
        )
        raise ValueError(msg)
    return codes, names


def batch_codes(adata: AnnData, batch_key: str | Sequence[str], known: list[str]) -> NDArray[np.int64]:
    """The code of each cell's batch in a model that knows the batches `known`; refuse other batches."""
    codes, names = batch_labels(adata, batch_key)
    code_of = {name: code for code, name in enumerate(known)}
    new = [str(name) for name in names if name not in code_of]
    if new:
        msg = f"obs[{batch_key!r}] holds batches that the model was not fitted on: {new}. It knows {known}."
        raise ValueError(msg)
    return np.array([code_of[name] for name in names], np.int64)[codes]


def read_mask(adata: AnnData, slot: str, name: str, value: Any) -> NDArray[np.bool_]:
    """A boolean column of `slot` (obs or var), or one boolean for each cell or gene; `name` is the argument."""
    index, each = (adata.obs_names, "cell") if slot == "obs" else (adata.var_names, "gene")
    if isinstance(value, str):
        check_column(adata, slot, name, value)
        column = getattr(adata, slot)[value]
        if column.isna().any() or not pd.api.types.is_bool_dtype(column):
            msg = f"{slot}[{value!r}] has dtype {column.dtype}, not bool without gaps. Give a column of True and False."
            raise ValueError(msg)
        return column.to_numpy(dtype=bool)
    # a default index counts the values, which then are in the order of the cells or genes
    is_named = isinstance(value, pd.Series) and not isinstance(value.index, pd.RangeIndex)
    if is_named and not value.index.equals(index):
        names = "obs_names" if slot == "obs" else "var_names"
        msg = f"{name} is a Series whose index is not {names}. Give {name}.reindex(adata.{names})."
        raise ValueError(msg)
    mask = np.array(value)
    if mask.dtype != bool or mask.shape != (len(index),):
        msg = f"{name} has dtype {mask.dtype} and shape {mask.shape}; give {len(index)} booleans, one per {each}."
        raise ValueError(msg)
    return mask


def read_controls(
    adata: AnnData, controls: str | NDArray[np.bool_], codes: NDArray[np.int64], batches: NDArray[np.str_]
) -> NDArray[np.bool_]:
    """Which cells are of control samples (see `read_mask`): not all, and of two batches or more."""
    control = read_mask(adata, "obs", "controls", controls)
    where = f"obs[{controls!r}]" if isinstance(controls, str) else "controls"
    if control.all() or not control.any():
        how_many = "all" if control.all() else "none"
        msg = f"{where}: {how_many} of the cells are of control samples. Mark the controls only, or leave controls out."
        raise ValueError(msg)
    if len(np.unique(codes[control])) < 2:
        name = str(batches[codes[control][0]])
        msg = (
            f"{where}: all control samples are in one batch ({name!r}), so they do not show how batches differ without "
            "the disease. Give controls of two batches or more."
        )
        raise ValueError(msg)
    return control


def read_times(adata: AnnData, time_key: str, codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """The time point of each cell, as a code; two time points or more, and one of them in two batches or more."""
    times, names = batch_labels(adata, time_key, "time_key")
    if len(names) < 2:
        msg = f"obs[{time_key!r}] holds only one time point ({str(names[0])!r}). Leave time_key out."
        raise ValueError(msg)
    if len(np.unique([times, codes], axis=1).T) == len(names):
        msg = (
            f"obs[{time_key!r}]: each of the {len(names)} time points is in one batch, so batch effects cannot be told "
            "from time. Nothing can be corrected: use sc_vaenb.tl.vae(adata)."
        )
        raise ValueError(msg)
    return times
