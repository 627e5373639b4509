"""The command line: `sc-vaenb`, also `python -m sc_vaenb`. Built on the public functions alone."""

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
from pathlib import Path
from typing import Any, NoReturn

from .. import __version__
from .._caches import ensure_caches
from .._command import ignore_signals, running, said
from ._options import add_options
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
  sc-vaenb compare --help

Files: .h5ad, .zarr, 10x .h5, or a folder with matrix.mtx.
Exit codes: 0 done, 1 refused or failed, 2 not understood, 130 interrupted (Ctrl-C),
143 terminated, 129 terminal closed."""
FIT_EXAMPLES = """\
examples:
  sc-vaenb {0} data.h5ad --batch-key sample --label-key celltype
  sc-vaenb --adata processed.h5ad --counts raw_counts.h5ad {0} --recon nb --n-latent 20

The raw counts are looked for in layers and X, or are those of --counts, whose cells and genes are matched by name.
Results go to a folder of their own, results_comparison/{1}_NB_<timestamp>/: latents.npy, latents_z.npy
(standardised), UMAPs and training losses as .svg, metrics.csv, params.json, and the .h5ad with all of it."""
COMPARE_EXAMPLES = """\
examples:
  sc-vaenb compare data.h5ad --batch-key sample --label-key celltype --n-seeds 3
  sc-vaenb compare --save-only

Writes to --out: report.html, report.csv, figures, comparison.h5ad (everything in one AnnData), and a folder for each
method. Interrupted, the same command goes on where it was."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0 done, 1 refused or failed, 130, 143 or 129 ended by a signal."""
    if arguments is not None:
        return _main(list(arguments))
    outcome: list[int] = []
    atexit.register(_leave, outcome)  # first, so that it is the last to be called
    outcome.append(_main(sys.argv[1:]))
    ignore_signals()
    return outcome[0]


def _leave(outcome: list[int]) -> None:
    """End a failed command without the clean-up of C libraries: HDF5 crashes there after a write that failed."""
    if any(outcome):
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(outcome[0])


def _main(typed: list[str]) -> int:
    with running():
        try:
            ensure_caches()
            return _run(typed)
        except KeyboardInterrupt:
            code, word = said()
            with suppress(OSError):  # the terminal is gone
                print(f"sc-vaenb: {word}", file=sys.stderr, flush=True)
            return code


def _run(typed: list[str]) -> int:
    options, unknown = _parser(typed).parse_known_args(typed)
    if unknown:
        options.parser.unknown(unknown)
    if options.run_with_source is False and (options.adata or options.counts):
        options.parser.error("--adata and --counts go with vae, cvae and compare. Give FILE instead.")
    options.command = shlex.join(["sc-vaenb", *typed])
    try:
        with warnings.catch_warnings():
            # of libraries among themselves, which a user of the command can do nothing about
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            _place(options)
            _quiet(options.quiet)
            options.run(options)
            sys.stdout.flush()
    except BrokenPipeError:  # as in `sc-vaenb info FILE | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if options.debug:
            raise
        # a KeyError's own text is the repr of its message
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"sc-vaenb: {one_line(text) or type(error).__name__}", file=sys.stderr)
        return 1
    return 0


def _place(options: argparse.Namespace) -> None:
    """Which of several processes that torchrun has started this is: all but the first are silent."""
    options.rank = 0
    if "WORLD_SIZE" in os.environ:
        from ..tl._fit import rank_and_size

        options.rank, n_processes = rank_and_size()
        if n_processes > 1 and not hasattr(options, "method"):
            raise ValueError("several processes can share vae and cvae alone. Start this command without torchrun.")
        options.quiet |= options.rank > 0


def _quiet(quiet: bool) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import scanpy as sc

    sc.settings.verbosity = "error" if quiet else "info"


class Parser(argparse.ArgumentParser):
    """Says in two lines what was not understood, and what may have been meant."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\nSee {self.prog} --help.\n")

    def unknown(self, words: list[str]) -> NoReturn:
        near = [get_close_matches(word.split("=")[0], self._option_string_actions, 1) for word in words]
        meant = [
            f"{word} (did you mean {found[0]}?)" if found else word for word, found in zip(words, near, strict=True)
        ]
        self.error(f"not understood: {', '.join(meant)}")


def _parser(typed: Sequence[str]) -> Parser:
    parser = Parser(
        prog="sc-vaenb",
        description="Variational autoencoders for single-cell counts, beside PCA and Harmony.",
        epilog=EXAMPLES,
    )
    parser.add_argument("--version", action="version", version=__version__)
    _general(parser, False)
    _source(parser, None)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (fill, what, epilog) in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=what,
            description=what[0].upper() + what[1:] + ".",
            epilog=epilog,
        )
        command.set_defaults(parser=command, run_with_source=name in WITH_SOURCE)
        # Taken behind the command too; what is not given there leaves what was given before it.
        _general(command, argparse.SUPPRESS)
        if name in typed:  # the options are read off functions whose import takes seconds
            fill(command)
    return parser


def _general(parser: argparse.ArgumentParser, default: object) -> None:
    parser.add_argument("--debug", action="store_true", default=default, help="show the traceback of an error")
    parser.add_argument("--quiet", action="store_true", default=default, help="only results and errors")


def _source(parser: argparse.ArgumentParser, default: object) -> None:
    known: dict[str, Any] = {"type": Path, "metavar": "FILE", "default": default}
    parser.add_argument("--adata", help="cells and genes, in the place of FILE (vae, cvae, compare)", **known)
    parser.add_argument(
        "--counts", help="a second file with their raw counts, matched by name (vae, cvae, compare)", **known
    )


def _out(parser: argparse.ArgumentParser, default: Path | None, what: str, **more: Any) -> None:
    text = f"{what}. Default: %(default)s." if default is not None else what
    parser.add_argument("--out", type=Path, default=default, metavar="PATH", help=text, **more)
    parser.add_argument("--force", action="store_true", help="replace what is there")


def _keys(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch-key", metavar="COLUMN", help="column of obs with the batch of each cell")
    parser.add_argument("--label-key", metavar="COLUMN", help="column of obs with the cell types; none: no labels")


def _demo_options(parser: argparse.ArgumentParser) -> None:
    from ._demo import run_demo

    _out(parser, Path("sc_vaenb_demo"), "folder for results")
    parser.set_defaults(run=run_demo)


def _fit_options(parser: argparse.ArgumentParser, method: str) -> None:
    from .. import pp, tl
    from ._fit import run_fit

    parser.add_argument("file", type=Path, nargs="?", metavar="FILE", help="cells and genes; or --adata FILE")
    _source(parser, argparse.SUPPRESS)
    _keys(parser)
    parser.add_argument("--out", type=Path, default=OUT, metavar="FOLDER", help="for results. Default: %(default)s.")
    about = "leave X and layers in FILE (.h5ad or .zarr, CSR or dense), for files larger than memory"
    parser.add_argument("--backed", action="store_true", help=about)
    about = f"keep the state of the fit in {method}_checkpoint in --out, and go on from there if it was killed"
    parser.add_argument("--resume", action="store_true", help=about)
    parser.add_argument("--mog", action="store_true", help="a mixture of Gaussians as prior: short for --prior mog")
    add_options(parser, pp.prepare, ["log1p", "copy"])
    here = ["layer", "allow_non_integer", "key_added", "copy"]
    add_options(parser, tl.cvae if method == "cvae" else tl.vae, here)
    parser.set_defaults(run=run_fit, method=method)


def _compare_options(parser: argparse.ArgumentParser) -> None:
    from .. import pp, tl
    from ._compare import run_compare

    parser.add_argument("file", type=Path, nargs="?", metavar="FILE", help="cells and genes; or --adata FILE")
    _source(parser, argparse.SUPPRESS)
    _keys(parser)
    _out(parser, OUT, "folder for results")
    parser.add_argument("--backed", action="store_true", help=argparse.SUPPRESS)  # refused, with the reason
    parser.add_argument("--save-only", action="store_true", help="only draw again from the results in --out")
    add_options(parser, pp.prepare, ["log1p", "copy", "allow_non_integer"])
    add_options(parser, tl.compare, ["label_key", "layer", "variants", "key_added", "copy"])
    parser.set_defaults(run=run_compare)


def _score_options(parser: argparse.ArgumentParser) -> None:
    from .. import tl
    from ._files import run_score

    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--embeddings", metavar="KEY,KEY,...", help="keys of obsm. Default: all that can be scored.")
    _keys(parser)
    _out(parser, None, "CSV file to write the scores to as well")
    add_options(parser, tl.score, ["batch_key", "label_key", "key_added", "copy"])
    parser.set_defaults(run=run_score)


def _report_options(parser: argparse.ArgumentParser) -> None:
    from ._files import run_report

    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--key", default="compare", help="where in uns the comparison is. Default: %(default)s.")
    _out(parser, None, "HTML file. Default: the name of FILE with .html")
    parser.set_defaults(run=run_report)


def _simulate_options(parser: argparse.ArgumentParser) -> None:
    from ..datasets import simulate
    from ._files import run_simulate

    _out(parser, None, "file to write, .h5ad or .zarr", required=True)
    parser.add_argument("--n-cells", type=int, default=1000, help="Number of cells. Default: %(default)s.")
    parser.add_argument("--n-genes", type=int, default=500, help="Number of genes. Default: %(default)s.")
    add_options(parser, simulate, ["composition"])
    parser.set_defaults(run=run_simulate)


def _info_options(parser: argparse.ArgumentParser) -> None:
    from ._files import run_info

    parser.add_argument("file", type=Path, metavar="FILE")
    parser.set_defaults(run=run_info)


COMMANDS: dict[str, tuple[Callable[[argparse.ArgumentParser], None], str, str]] = {
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
