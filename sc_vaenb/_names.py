"""Names: how values become text, which texts mean "no label", and which names files can hold.

All functions use the same rules: a batch or label that is 1 in one AnnData and 1.0 in another is the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

LONGEST = 200  # bytes of a name: zarr uses it as a file name, which has at most 255 bytes
JOIN = " | "  # between the values of several columns, in the name of a batch
RESERVED = {"", ".", "..", "_index", "zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata"}

# Words for "no type is known" in scANVI, CellTypist, Azimuth, SingleR, scmap, Garnett, CELLxGENE and tables of R and
# pandas, in lower case and without separators. "Doublet", "low quality", "ambiguous" and "other" are not
# among them: these describe the cells, and cells with the same word are alike.
NO_LABEL = {"", "unknown", "unassigned", "notassigned", "unlabeled", "unlabelled", "notlabeled", "unannotated"}
NO_LABEL |= {
    "notannotated",
    "unclassified",
    "notclassified",
    "undefined",
    "undetermined",
    "unspecified",
    "unidentified",
}
NO_LABEL |= {"none", "null", "na", "nan", "nolabel", "heterogeneous", "tobedetermined", "tbd"}
SEPARATORS = re.compile(r"[\s_\-./?<>()]+")


def name_of(value: Any) -> str:
    """The text of a batch, label or category. It is the same for 1, 1.0 and NumPy numbers."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)


def names_of(values: Iterable[Any]) -> list[str]:
    """The text of each value."""
    return [name_of(value) for value in values]


def texts(column: pd.Series) -> NDArray[np.object_]:
    """The text of each cell's value in a column of obs; None where it is missing."""
    codes, values = codes_of(column)
    return np.array([*names_of(values), None], dtype=object)[codes]


def codes_of(column: pd.Series, *, sort: bool = False) -> tuple[NDArray[np.intp], Any]:
    """The code of each cell's value in a column of obs (-1 where it is missing), and the values."""
    try:
        return pd.factorize(column, sort=sort)
    except TypeError as error:  # values are lists, such as the clones of a cell
        raise not_names_error(column) from error


def not_names_error(column: pd.Series) -> ValueError:
    """The error for a column of obs whose values cannot be names of batches or labels, such as lists."""
    name = column.name
    return ValueError(
        f"obs[{name!r}] holds values that are no names ({short(column.iloc[0])}). Make them strings: "
        f"adata.obs[{name!r}] = adata.obs[{name!r}].astype(str)."
    )


def n_values(column: pd.Series) -> int:
    """The number of different values in a column; 0 if the values are not names or numbers but, for instance, lists."""
    try:
        return int(column.nunique())
    except TypeError:
        return 0


def means_no_label(name: str) -> bool:
    """Whether a label means "no label"."""
    return SEPARATORS.sub("", name.casefold()) in NO_LABEL


def column_names(names: Iterable[str]) -> list[str]:
    """Make names of table columns unique and valid in h5ad and zarr files; the order stays.

    "|" replaces a slash, a control character and the end of a name that is too long, and is put before a reserved name.
    If two names become equal, the later one gets "|2". Names that a file can hold do not change.
    """
    originals = list(names)
    safe = [_made_writable(name) for name in originals]
    taken = {name for name, original in zip(safe, originals, strict=True) if name == original}
    for i, name in enumerate(originals):
        if safe[i] != name:
            stem, number = safe[i], 2
            while safe[i] in taken:
                safe[i], number = f"{stem}|{number}", number + 1
            taken.add(safe[i])
    return safe


def is_writable(name: str) -> bool:
    """Whether h5ad and zarr files can hold a column or an entry of a slot with this name."""
    return _made_writable(name) == name


def _made_writable(name: str) -> str:
    name = re.sub(r"[/\\\x00-\x1f\x7f\ud800-\udfff]", "|", name)
    if len(name.encode()) > LONGEST:
        name = name.encode()[: LONGEST - 1].decode(errors="ignore") + "|"
    return "|" + name if name in RESERVED else name


def short(value: object) -> str:
    """A value as a message shows it: on one line, and cut if it is long."""
    if getattr(value, "shape", ()) != ():
        return f"<{type(value).__name__} of shape {value.shape}>"  # type: ignore[attr-defined]
    try:
        text = " ".join(repr(value).split())
    except Exception:  # the repr of a user's class may raise anything
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 100 else f"{text[:80]}..."
