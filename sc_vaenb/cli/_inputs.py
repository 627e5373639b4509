"""What a command reads, checked before the libraries load: that takes seconds, and a wrong name is told at once."""

from __future__ import annotations

import argparse
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

FORMATS = ".h5ad, .zarr, 10x .h5, or a folder with matrix.mtx"
BACKED = (".h5ad", ".zarr")
SAMPLE = "sample"  # the column of obs with the input that a cell came from
RUN = "run.json"  # the file that `compare` writes last


class Input(NamedTuple):
    """A file to read, and what is the same for all of its cells: the name of the sample and columns of obs."""

    path: Path
    sample: str | None = None  # None: the only input
    columns: Mapping[str, Any] = {}


def check_fit(options: argparse.Namespace) -> None:
    if options.mog and getattr(options, "prior", "mog") != "mog":
        raise ValueError(f"--mog and --prior {options.prior} are two priors. Give one.")
    if options.resume and getattr(options, "checkpoint", None) is not None:
        raise ValueError("--resume and --checkpoint both name a folder for the state of the fit. Give one.")
    check_folder(options.out)
    options.inputs = _inputs(options)


def check_compare(options: argparse.Namespace) -> None:
    if not options.save_only:
        check_replaced(options.out, options.force)
        if options.backed:
            raise ValueError("compare computes PCA, which needs all counts in memory. --backed goes with vae and cvae.")
        check_folder(options.out)
        options.inputs = _inputs(options)


def check_file(options: argparse.Namespace) -> None:
    check_format(options.file)


def check_nothing(options: argparse.Namespace) -> None:
    """The command has no input, or its own check is quick."""


def check_folder(out: Path) -> None:
    """Refuse a folder for results whose name is that of a file."""
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out} is a file, not a folder. Pass another --out.")


def check_replaced(out: Path, force: bool) -> None:
    """A comparison is replaced only with --force."""
    if (out / RUN).exists() and not force:
        raise FileExistsError(
            f"{out} holds a comparison. Pass --force to replace it (what is unchanged is not computed again), "
            "--save-only to draw it again, or another --out."
        )


def check_format(path: Path, *, backed: bool = False) -> list[Path]:
    """Refuse what is absent or of no known format; return the files called matrix.mtx of a folder of 10x."""
    try:
        is_folder = stat.S_ISDIR(path.stat().st_mode)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist.") from None
    except OSError as error:  # such as a path that is too long
        raise OSError(f"{path} cannot be opened: {error.strerror}.") from error
    mtx = sorted(path.glob("*matrix.mtx*")) if is_folder else []
    if path.suffix not in {".h5ad", ".zarr", ".h5"} and not mtx:
        what = "is a folder without matrix.mtx" if is_folder else f"has the ending {path.suffix!r}"
        raise ValueError(f"{path} {what}. Give {FORMATS}.")
    if is_folder and path.suffix in {".h5ad", ".h5"}:
        raise IsADirectoryError(f"{path} is a folder, not a file. Give {FORMATS}.")
    if backed and path.suffix not in BACKED:
        raise ValueError(
            f"--backed takes {' or '.join(BACKED)}, and {path} is neither. Convert it, or leave out --backed."
        )
    return mtx


def _inputs(options: argparse.Namespace) -> list[Input]:
    """The files of the command: FILE or several, --adata, or those in the sheet of --samples."""
    texts = {"": options.files, "--adata ": [options.adata], "--samples ": [options.samples]}
    given = [option + " ".join(map(str, paths)) for option, paths in texts.items() if any(paths)]
    if not given:
        raise ValueError("there is no input: give a FILE, or --adata FILE.")
    if len(given) > 1:
        raise ValueError(f"there are two inputs: {' and '.join(given)}. Give one.")
    if options.backed and options.counts is not None:
        raise ValueError("--backed leaves counts in their place, and --counts puts them in another order. Give one.")
    for table in (options.samples, options.obs):
        if table is not None and not table.is_file():
            raise FileNotFoundError(f"{table} does not exist, or is a folder. Give a table, .csv or .tsv.")
    if options.samples is not None:
        inputs = read_samples(options.samples)
    elif options.adata is not None or len(options.files) == 1:
        inputs = [Input(options.adata or options.files[0])]
    else:
        inputs = [Input(path, name) for path, name in zip(options.files, sample_names(options.files), strict=True)]
    if len(inputs) > 1 and (options.backed or options.counts is not None):
        option = "--backed" if options.backed else "--counts"
        raise ValueError(f"{option} goes with one input, and there are {len(inputs)}. Join them in one .h5ad first.")
    for path in (*(entry.path for entry in inputs), *([options.counts] if options.counts is not None else [])):
        check_format(path, backed=options.backed)
    return inputs


def sample_names(paths: Sequence[Path]) -> list[str]:
    """A name for each file: its own without the ending or, where these are the same, the name of a folder above."""
    absolute = [path.resolve() for path in paths]
    stems = [path.name if path.is_dir() else path.stem for path in absolute]
    folders = [path.parent.parts[::-1] for path in absolute]
    for names in (stems, *map(list, zip(*folders, strict=False))):
        if len(set(names)) == len(paths):
            return names
    raise ValueError(
        f"no name tells the inputs apart ({', '.join(map(str, paths))}). Give each once, or name them in the column "
        "'sample' of a sheet (--samples)."
    )


def read_samples(path: Path) -> list[Input]:
    """The inputs in a sheet: their paths, from its folder, and further columns. Its column `sample` names them."""
    from ._tables import read_table

    sheet = read_table(path)
    if "path" not in sheet or sheet["path"].isna().any() or sheet.empty:
        raise ValueError(f"{path} needs a column 'path' with a file in each row. Its columns are {list(sheet)}.")
    paths = [path.parent / str(text) for text in sheet["path"]]
    names = sheet[SAMPLE].astype(str).tolist() if SAMPLE in sheet else sample_names(paths)
    if len(set(names)) < len(names):
        raise ValueError(f"{path}: the column 'sample' names two files alike. Give each a name of its own.")
    rows = sheet.drop(columns=["path", SAMPLE], errors="ignore").to_dict("records")
    return [Input(*entry) for entry in zip(paths, names, map(_text_keys, rows), strict=True)]


def _text_keys(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(name): value for name, value in row.items()}
