"""Read the two tables of a GEO series: counts (genes x cells, as text) and metadata of the cells."""

from __future__ import annotations

import gzip
import io
import zlib
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
from scipy import sparse as sp
from tqdm import tqdm

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

CHUNK = 2**20  # bytes decompressed at once
TAB, ZERO = ord("\t"), ord("0")
NO_TABLE = "no table of genes x cells separated by tabs. Download it again."
MAX_DIGITS = 9  # of a count; any such number fits into an int32


def read_counts(path: Path, known: pd.Index, known_from: str) -> tuple[sp.csr_matrix, list[str], list[str]]:
    """Counts (cells x genes) and the names of cells and genes; all cells must be in `known`.

    The text has a line for each gene. Only non-zero counts are kept in memory: the peak is about twice the result.
    """
    from scanpy import settings

    genes: list[str] = []
    # arrays that grow in place: joining a list of parts would need twice the memory
    indices, values, indptr = array("i"), array("f"), [0]
    size, no_progress_bar = path.stat().st_size, settings.verbosity.value <= 0
    with (
        _opened(path) as (text, file),
        tqdm(
            total=size, desc="counts", unit="B", unit_scale=True, leave=False, mininterval=0.5, disable=no_progress_bar
        ) as bar,
    ):
        header = _names(text.readline())
        first_line = text.readline()
        if b"\t" not in first_line:
            raise ValueError(f"{path.name} holds no gene: it is cut off, or {NO_TABLE}")
        # R writes no header above the genes, other programs do
        cells = header[1:] if first_line.count(b"\t") == len(header) - 1 else header
        _check_cells(cells, path.name, known, known_from)
        for line in chain([first_line], text):
            gene, cell_codes, counts = _parse(line.rstrip(b"\r\n"), cells, path.name)
            genes.append(gene)
            indices.frombytes(cell_codes.astype(np.int32).tobytes())
            values.frombytes(counts.astype(np.float32).tobytes())
            indptr.append(len(indices))
            bar.update(file.tell() - bar.n)
    parts = np.frombuffer(values, np.float32), np.frombuffer(indices, np.int32), np.array(indptr)
    return sp.csc_matrix(parts, shape=(len(cells), len(genes))).tocsr(), cells, genes


def read_metadata(path: Path) -> pd.DataFrame:
    """Metadata as text, by cell."""
    import pandas as pd

    with _opened(path) as (text, _):
        try:
            table = pd.read_csv(text, sep="\t", dtype=str)
        except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
            raise ValueError(f"{path.name} is no table separated by tabs ({error}).") from error
    # if the header has one field less than the rows, pandas has taken the first column as index
    if isinstance(table.index, pd.RangeIndex):
        table = table.set_index("Cell" if "Cell" in table else table.columns[0])
    missing = [name for name in ("sample", "celltype") if name not in table]
    if missing:
        raise ValueError(f"{path.name} has no column {missing[0]!r}. Its columns are {list(table.columns)}.")
    if not table.index.is_unique:
        raise ValueError(f"{path.name} has more than one row for cell {table.index[table.index.duplicated()][0]!r}.")
    return table.rename_axis(None)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """The text in a file, gzip or plain, and the file itself, whose position shows the progress."""
    with path.open("rb") as file:
        first_bytes = file.read(512)
        file.seek(0)
        if first_bytes.lstrip().startswith(b"<"):
            raise ValueError(f"{path.name} is a web page, no table: {first_bytes[:60]!r}... Download the file again.")
        zipped = first_bytes.startswith(b"\x1f\x8b")
        text = io.BufferedReader(gzip.GzipFile(fileobj=file), CHUNK) if zipped else file
        try:
            yield text, file
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path.name} is cut off or damaged ({error}). Download the file again.") from error


def _names(line: bytes) -> list[str]:
    return [name.strip('"') for name in line.decode(errors="replace").rstrip("\r\n").split("\t")]


def _check_cells(cells: Sequence[str], name: str, known: pd.Index, known_from: str) -> None:
    import pandas as pd

    index = pd.Index(cells)
    if not index.is_unique:
        raise ValueError(f"{name} has more than one column for cell {index[index.duplicated()][0]!r}.")
    missing = index[~index.isin(known)]
    if len(missing):
        raise ValueError(
            f"{known_from} has no row for {len(missing)} of the {len(cells)} cells of {name} (first: {missing[0]!r}). "
            "Pass the metadata of the same cells."
        )


def _parse(line: bytes, cells: Sequence[str], name: str) -> tuple[str, NDArray[np.intp], NDArray[np.number]]:
    """A gene, the codes of the cells in which it has counts, and these counts."""
    gene = line[: max(line.find(b"\t"), 0)].decode(errors="replace").strip('"')
    n_fields = line.count(b"\t")
    if n_fields != len(cells):
        raise ValueError(
            f"{name} has {n_fields} counts for gene {gene!r} and {len(cells)} cells in its header: it is cut off, or "
            + NO_TABLE
        )
    cells_and_counts = _digits(line)
    if cells_and_counts is None:
        value = np.array(
            [_number(field, gene, cell, name) for field, cell in zip(line.split(b"\t")[1:], cells, strict=True)]
        )
        cells_and_counts = np.flatnonzero(value), value[value != 0]
    return gene, *cells_and_counts


def _digits(line: bytes) -> tuple[NDArray[np.intp], NDArray[np.number]] | None:
    """The positions and values of the fields after the first that are not 0; None if a field is not plain digits.

    Most fields are 0, so only the others are converted: about three times as fast as `numpy.fromstring` of all.
    """
    text = np.frombuffer(line, np.uint8)
    if text[-1] == TAB:
        return None
    tabs = np.flatnonzero(text == TAB)
    digits = text - ZERO  # characters below 0 wrap around to numbers far above 9
    nonzero = np.flatnonzero(digits[tabs + 1] != 0)
    starts = tabs[nonzero] + 1
    length = np.append(tabs[1:], text.size)[nonzero] - starts
    fields = text[tabs[0] :]
    only_digits = ((digits[tabs[0] :] <= 9) | (fields == TAB)).all()
    # every other field must be a tab and a single 0
    if not only_digits or fields.size != 2 * tabs.size - nonzero.size + length.sum():
        return None
    if nonzero.size and not 1 <= length.min() <= length.max() <= MAX_DIGITS:
        return None
    value = digits[starts].astype(np.int32)
    unfinished, offset = np.flatnonzero(length > 1), 1
    while unfinished.size:
        value[unfinished] = 10 * value[unfinished] + digits[starts[unfinished] + offset]
        offset += 1
        unfinished = unfinished[length[unfinished] > offset]
    return nonzero, value


def _number(field: bytes, gene: str, cell: str, name: str) -> float:
    try:
        value = float(field)
    except ValueError:
        value = -1
    if value < 0 or not value.is_integer():
        raise ValueError(
            f"{name} holds {field.decode(errors='replace')!r} for gene {gene!r} in cell {cell!r}, which is no count: "
            "whole numbers are expected. Pass the raw counts, not normalised values."
        )
    return value
