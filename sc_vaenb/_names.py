"""Names: how values become text, which texts mean "no label", and names that files can hold.

One rule for each, for every function: a batch or label that is 1 in one AnnData and 1.0 in another is the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

LONGEST = 200  # bytes of a name: zarr makes a file of it, and files have at most 255
RESERVED = {"", ".", "..", "_index", "zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata"}

# Words for "no type is known" in scANVI, CellTypist, Azimuth, SingleR, scmap, Garnett, CELLxGENE and tables of R and
# pandas, in small letters and without what is between words. "Doublet", "low quality", "ambiguous" and "other" are not
# among them: these say something of the cells, and cells of one such kind are alike.
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
BETWEEN = re.compile(r"[\s_\-./?<>()]+")


def name_of(value: Any) -> str:
    """The text of a batch, a label or a category, the same for 1, 1.0 and numpy's numbers."""
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
    except TypeError as error:  # lists, as of the clones or barcodes of a cell
        raise no_names(column) from error


def no_names(column: pd.Series) -> ValueError:
    """The error of a column of obs whose values cannot be names of batches or labels, such as lists."""
    name = column.name
    return ValueError(
        f"obs[{name!r}] holds values that are no names ({str(column.iloc[0])[:40]}). Make them strings: "
        f"adata.obs[{name!r}] = adata.obs[{name!r}].astype(str)."
    )


def n_values(column: pd.Series) -> int:
    """How many different values a column holds; 0 if they are no names or numbers, as lists."""
    try:
        return int(column.nunique())
    except TypeError:
        return 0


def means_no_label(name: str) -> bool:
    """Whether a label says that there is none."""
    return BETWEEN.sub("", name.casefold()) in NO_LABEL


def column_names(names: Iterable[str]) -> list[str]:
    """Names for the columns of a table, in the same order, that h5ad and zarr files can hold and that all differ.

    A slash, a control character and the end of a name that is too long become "|", and a reserved name gets one in
    front; where that makes two names equal, the later gets "|2". Names that a file can hold stay as they are.
    """
    wanted = list(names)
    safe = [_writable(name) for name in wanted]
    taken = {name for name, own in zip(safe, wanted, strict=True) if name == own}
    for i, name in enumerate(wanted):
        if safe[i] != name:
            stem, number = safe[i], 2
            while safe[i] in taken:
                safe[i], number = f"{stem}|{number}", number + 1
            taken.add(safe[i])
    return safe


def is_writable(name: str) -> bool:
    """Whether h5ad and zarr files can hold a column, or a part of a slot, of this name."""
    return _writable(name) == name


def _writable(name: str) -> str:
    name = re.sub(r"[/\\\x00-\x1f\x7f\ud800-\udfff]", "|", name)
    if len(name.encode()) > LONGEST:
        name = name.encode()[: LONGEST - 1].decode(errors="ignore") + "|"
    return "|" + name if name in RESERVED else name
