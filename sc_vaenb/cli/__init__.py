"""The command line: `sc-vaenb`, also `python -m sc_vaenb`. It uses the public functions of the package."""

from __future__ import annotations

import argparse
import atexit
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from .. import __version__
from .._caches import ensure_caches
from .._command import exit_code_and_word, ignore_signals, loading, running
from ._inputs import check_compare, check_file, check_fit, check_nothing
from ._options import GROUPS, Groups, add_options, check_options, without_import
from ._write import one_line

OUT = Path("results_comparison")
WITH_SOURCE = ("vae", "cvae", "compare")  # commands that take --adata and --counts
EXAMPLES = """\
examples:
  sc-vaenb demo
  sc-vaenb info data.h5ad
  sc-vaenb cvae data.h5ad --batch-key sample
  sc-vaenb --adata processed.h5ad --counts raw_counts.h5ad cvae --recon nb
  sc-vaenb compare data.h5ad --batch-key sample --label-key celltype
  sc-vaenb compare day0.h5 day3.h5 day7.h5
  sc-vaenb compare --help

Files: .h5ad, .zarr, 10x .h5, or a folder with matrix.mtx.
Exit codes: 0 done, 1 refused or failed, 2 not understood, 130 interrupted (Ctrl-C),
143 terminated, 129 terminal closed."""
FIT_EXAMPLES = """\
examples:
  sc-vaenb {0} data.h5ad --batch-key sample --label-key celltype
  sc-vaenb {0} folder_of_10x --obs metadata.csv --batch-key donor
  sc-vaenb --adata processed.h5ad --counts raw_counts.h5ad {0} --recon nb --n-latent 20

The raw counts are looked for in layers and X, or are those of --counts, whose cells and genes are matched by name.
Results go to a folder of their own, results_comparison/{1}_NB_<timestamp>/: latents.npy, latents_z.npy
(standardised), UMAPs and training losses as .svg, metrics.csv, params.json, and the .h5ad with all of it."""
COMPARE_EXAMPLES = """\
examples:
  sc-vaenb compare data.h5ad --batch-key sample --label-key celltype --n-seeds 3
  sc-vaenb compare day0.h5 day3.h5 day7.h5
  sc-vaenb compare --save-only

Writes to --out: report.html, report.csv, figures, comparison.h5ad (everything in one AnnData), and a folder for each
method. Interrupted, the same command goes on where it was."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code: 0 done, 1 refused or failed, 130, 143 or 129 ended by a signal."""
    if arguments is not None:
        return _main(list(arguments))
    exit_codes: list[int] = []
    atexit.register(_exit_if_failed, exit_codes)  # registered first, so that it is called last
    exit_codes.append(_main(sys.argv[1:]))
    ignore_signals()
    return exit_codes[0]


def _exit_if_failed(exit_codes: list[int]) -> None:
    """End a failed command without the clean-up of C libraries: HDF5 crashes there after a failed write."""
    if any(exit_codes):
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(exit_codes[0])


def _main(arguments: list[str]) -> int:
    with running():
        try:
            ensure_caches()
            return _run(arguments)
        except KeyboardInterrupt:
            code, word = exit_code_and_word()
            with suppress(OSError):  # the terminal is gone
                print(f"sc-vaenb: {word}", file=sys.stderr, flush=True)
            return code


def _run(arguments: list[str]) -> int:
    options, unknown = _parser(arguments).parse_known_args(arguments)
    if hasattr(options, "files") and not any(word.startswith("-") for word in unknown):
        options.files += map(Path, unknown)  # argparse takes only the first of several groups of files
    elif unknown:
        options.parser.unknown(unknown)
    if options.run_with_source is False and (options.adata or options.counts):
        options.parser.error("--adata and --counts go with vae, cvae and compare. Give FILE instead.")
    options.command = shlex.join(["sc-vaenb", *arguments])
    try:
        with warnings.catch_warnings():
            # these come from other libraries, and a user of the command cannot avoid them
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            options.check(options)
            _load(options)
            _set_rank(options)
            _set_verbosity(options.quiet)
            module, function = options.run
            getattr(import_module(module, __name__), function)(options)
            sys.stdout.flush()
    except BrokenPipeError:  # as in `sc-vaenb info FILE | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if options.debug:
            raise
        # str() of a KeyError is the repr of its message
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"sc-vaenb: {one_line(text) or type(error).__name__}", file=sys.stderr)
        return 1
    return 0


def _set_rank(options: argparse.Namespace) -> None:
    """Set the rank of this process if torchrun has started several: all except the first are quiet."""
    options.rank = 0
    if "WORLD_SIZE" in os.environ:
        from ..tl._fit import rank_and_size

        options.rank, n_processes = rank_and_size()
        if n_processes > 1 and not hasattr(options, "method"):
            raise ValueError("several processes can share vae and cvae alone. Start this command without torchrun.")
        options.quiet |= options.rank > 0


def _load(options: argparse.Namespace) -> None:
    """Import what takes seconds: torch before scanpy, as in `sc_vaenb/__init__.py`."""
    if "scanpy" not in sys.modules and not options.quiet and os.environ.get("RANK", "0") == "0":
        print("loading libraries", file=sys.stderr, flush=True)
    with loading():
        import torch  # noqa: F401, I001
        import matplotlib as mpl

        mpl.use("Agg")
        import scanpy  # noqa: F401


def _set_verbosity(quiet: bool) -> None:
    import scanpy as sc

    sc.settings.verbosity = "error" if quiet else "info"


class Parser(argparse.ArgumentParser):
    """A parser whose errors have two lines: what was not understood, and similar options."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\nSee {self.prog} --help.\n")

    def unknown(self, arguments: list[str]) -> NoReturn:
        matches = [get_close_matches(word.split("=")[0], self._option_string_actions, 1) for word in arguments]
        suggestions = [
            f"{word} (did you mean {match[0]}?)" if match else word
            for word, match in zip(arguments, matches, strict=True)
        ]
        self.error(f"not understood: {', '.join(suggestions)}")


def _parser(arguments: Sequence[str]) -> Parser:
    parser = Parser(
        prog="sc-vaenb",
        description="Variational autoencoders for single-cell counts, beside PCA and Harmony.",
        epilog=EXAMPLES,
    )
    parser.add_argument("--version", action="version", version=__version__)
    _add_general(parser, False)
    _add_source(parser, None)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (add_arguments, summary, epilog) in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog=epilog,
        )
        command.set_defaults(parser=command, run_with_source=name in WITH_SOURCE, check=check_nothing)
        if name in arguments:
            groups = {group: command.add_argument_group(group) for group in GROUPS}
            add_arguments(command, groups)
        # General options may also follow the command; without them, those before the command are used.
        _add_general(command, argparse.SUPPRESS)
    return parser


def _add_general(parser: argparse._ActionsContainer, default: object) -> None:
    parser.add_argument("--debug", action="store_true", default=default, help="show the traceback of an error")
    parser.add_argument("--quiet", action="store_true", default=default, help="only results and errors")


def _add_source(parser: argparse._ActionsContainer, default: object) -> None:
    settings: dict[str, Any] = {"type": Path, "metavar": "FILE", "default": default}
    parser.add_argument("--adata", help="cells and genes, in the place of FILE (vae, cvae, compare)", **settings)
    parser.add_argument(
        "--counts", help="a second file with their raw counts, matched by name (vae, cvae, compare)", **settings
    )


def _add_inputs(parser: argparse.ArgumentParser, group: argparse._ActionsContainer) -> None:
    """The inputs of a fit: files, metadata of cells, a sheet of samples."""
    parser.usage = f"{parser.prog} FILE [FILE ...] [options]"  # the list of all options would fill a page
    text = "cells and genes; or --adata FILE. Several are joined: each is a sample, named in obs['sample']"
    group.add_argument("files", type=Path, nargs="*", metavar="FILE", help=text)
    _add_source(group, argparse.SUPPRESS)
    text = "metadata of the cells, .csv or .tsv: names of cells in its first column, columns of obs in the others"
    group.add_argument("--obs", type=Path, metavar="TABLE", help=text)
    text = "a sheet of inputs, .csv or .tsv, in the place of FILE: column path, and others that become columns of obs"
    group.add_argument("--samples", type=Path, metavar="SHEET", help=text)


def _add_out(group: argparse._ActionsContainer, default: Path | None, meaning: str, **settings: Any) -> None:
    text = f"{meaning}. Default: %(default)s." if default is not None else meaning
    group.add_argument("--out", type=Path, default=default, metavar="PATH", help=text, **settings)
    group.add_argument("--force", action="store_true", help="replace what is there")


def _add_keys(group: argparse._ActionsContainer) -> None:
    text = "column of obs with the batch of each cell; of several, the batches are the combinations"
    group.add_argument("--batch-key", metavar="COLUMN,...", help=text)
    group.add_argument("--label-key", metavar="COLUMN", help="column of obs with the cell types; none: no labels")


def _demo_options(parser: argparse.ArgumentParser, groups: Groups) -> None:
    _add_out(groups["output"], Path("sc_vaenb_demo"), "folder for results")
    parser.set_defaults(run=("._demo", "run_demo"))


def _fit_options(parser: argparse.ArgumentParser, groups: Groups, method: str) -> None:
    _add_inputs(parser, groups["input"])
    text = "leave X and layers in FILE (.h5ad or .zarr, CSR or dense), for files larger than memory"
    groups["input"].add_argument("--backed", action="store_true", help=text)
    _add_keys(groups["batches"])
    groups["output"].add_argument(
        "--out", type=Path, default=OUT, metavar="FOLDER", help="for results. Default: %(default)s."
    )
    text = f"keep the state of the fit in {method}_checkpoint in --out, and go on from there if it was killed"
    groups["run"].add_argument("--resume", action="store_true", help=text)
    text = "a mixture of Gaussians as prior: short for --prior mog"
    groups["model"].add_argument("--mog", action="store_true", help=text)
    prepare, function = without_import("pp.prepare"), without_import(f"tl.{method}")
    add_options(groups, prepare, ["log1p", "copy"])
    add_options(groups, function, ["layer", "allow_non_integer", "key_added", "copy"])
    parser.set_defaults(
        run=("._fit", "run_fit"), method=method, check=partial(_check_all, check_fit, [prepare, function])
    )


def _compare_options(parser: argparse.ArgumentParser, groups: Groups) -> None:
    _add_inputs(parser, groups["input"])
    groups["input"].add_argument("--backed", action="store_true", help=argparse.SUPPRESS)  # refused, with the reason
    _add_keys(groups["batches"])
    _add_out(groups["output"], OUT, "folder for results")
    groups["output"].add_argument("--save-only", action="store_true", help="only draw again from the results in --out")
    prepare, function = without_import("pp.prepare"), without_import("tl.compare")
    add_options(groups, prepare, ["log1p", "copy", "allow_non_integer"])
    add_options(groups, function, ["label_key", "layer", "variants", "key_added", "copy"])
    parser.set_defaults(run=("._compare", "run_compare"), check=partial(_check_all, check_compare, [prepare, function]))


def _score_options(parser: argparse.ArgumentParser, groups: Groups) -> None:
    groups["input"].add_argument("file", type=Path, metavar="FILE")
    text = "keys of obsm. Default: all that can be scored."
    groups["input"].add_argument("--embeddings", metavar="KEY,KEY,...", help=text)
    _add_keys(groups["batches"])
    _add_out(groups["output"], None, "CSV file to write the scores to as well")
    function = without_import("tl.score")
    add_options(groups, function, ["batch_key", "label_key", "key_added", "copy"])
    parser.set_defaults(run=("._files", "run_score"), check=partial(_check_all, check_file, [function]))


def _report_options(parser: argparse.ArgumentParser, groups: Groups) -> None:
    groups["input"].add_argument("file", type=Path, metavar="FILE")
    text = "where in uns the comparison is. Default: %(default)s."
    groups["input"].add_argument("--key", default="compare", help=text)
    _add_out(groups["output"], None, "HTML file. Default: the name of FILE with .html")
    parser.set_defaults(run=("._files", "run_report"), check=check_file)


def _simulate_options(parser: argparse.ArgumentParser, groups: Groups) -> None:
    _add_out(groups["output"], None, "file to write, .h5ad or .zarr", required=True)
    groups["model"].add_argument("--n-cells", type=int, default=1000, help="Number of cells. Default: %(default)s.")
    groups["model"].add_argument("--n-genes", type=int, default=500, help="Number of genes. Default: %(default)s.")
    add_options(groups, without_import("datasets.simulate"), ["composition"])
    parser.set_defaults(run=("._files", "run_simulate"))


def _info_options(parser: argparse.ArgumentParser, groups: Groups) -> None:
    groups["input"].add_argument("file", type=Path, metavar="FILE")
    parser.set_defaults(run=("._files", "run_info"), check=check_file)


def _check_all(
    check: Callable[[argparse.Namespace], None], functions: Sequence[Callable], options: argparse.Namespace
) -> None:
    check(options)
    for function in functions:
        check_options(options, function)


COMMANDS: dict[str, tuple[Callable[[argparse.ArgumentParser, Groups], None], str, str]] = {
    "demo": (_demo_options, "the main job on 700 real cells, without network", "example: sc-vaenb demo --out my_demo"),
    "vae": (
        partial(_fit_options, method="vae"),
        "embed cells; batch effects stay in",
        FIT_EXAMPLES.format("vae", "VAE"),
    ),
    "cvae": (
        partial(_fit_options, method="cvae"),
        "embed cells, leaving batch effects out",
        FIT_EXAMPLES.format("cvae", "CVAE"),
    ),
    "compare": (
        _compare_options,
        "PCA, Harmony, VAE, CVAE on the same cells: scores, verdict, report",
        COMPARE_EXAMPLES,
    ),
    "score": (
        _score_options,
        "score the embeddings in a file",
        "example: sc-vaenb score data.h5ad --embeddings X_pca,X_vae --batch-key sample --label-key celltype",
    ),
    "report": (
        _report_options,
        "the HTML report of a comparison in a file",
        "example: sc-vaenb report comparison.h5ad --out report.html",
    ),
    "simulate": (
        _simulate_options,
        "make counts of known cell types in known batches",
        "example: sc-vaenb simulate --out simulated.h5ad --n-cells 5000 --n-batches 3",
    ),
    "info": (_info_options, "say what is in a file", "example: sc-vaenb info data.h5ad"),
}
