"""Commands that are killed, interrupted, crowded and starved of space: does anything that was there get lost?

    python benchmarks/attack/commands.py kills --runs 40
    python benchmarks/attack/commands.py signals --runs 20
    python benchmarks/attack/commands.py together
    python benchmarks/attack/commands.py full --folder /a/small/file/system

`kills`: SIGKILL at a random moment of whole `compare` and `cvae` commands into one folder. After each, every file that
was there before, and every results folder, can be read; at the end the same command works, and nothing is left over.
`signals`: SIGINT and SIGTERM at moments from the first import to the end: exit codes 130 and 143, and one line.
`together`: four commands into one folder at once. `full`: `compare` and `simulate` with room for fewer and fewer bytes,
by a limit on the size of files or, with --folder, by filling a small file system: exit code 1, one line, nothing lost.

The fits are tiny. In `kills`, runs are forks of one process, and a UMAP is replaced by the first two dimensions.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

STEPS = "20"
WORDS = {signal.SIGINT: (130, "sc-vaenb: interrupted"), signal.SIGTERM: (143, "sc-vaenb: terminated")}
FIT = ["--hidden", "16", "--n-latent", "4", "--n-steps", STEPS]


def data_in(folder: Path) -> Path:
    """A small file, and the same cells with another seed of the fit each time it is compared."""
    import sc_vaenb

    adata = sc_vaenb.datasets.simulate(200, 60, n_types=3, n_batches=2, mean_depth=300, rng=0)
    adata.write_h5ad(folder / "data.h5ad")
    return folder / "data.h5ad"


def tell(what: object, value: object) -> None:
    print(f"{what!s:60} {value}", flush=True)


def run(*typed: object, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-m", "sc_vaenb", *map(str, typed)]
    return subprocess.run(command, capture_output=True, text=True, **options)  # type: ignore[call-overload,no-any-return]


def check(out: Path) -> list[str]:
    """What is wrong in a results folder."""
    import anndata

    wrong, run_file = [], out / "run.json"
    for path in sorted(out.glob("*/*.h5ad")) + sorted(out.glob("*.h5ad")):
        try:
            anndata.read_h5ad(path)
        except Exception as error:
            wrong.append(f"{path.name}: {error}")
    for folder in sorted(path for path in out.glob("[A-Z]*") if path.is_dir()):
        try:
            json.loads((folder / "params.json").read_text())
            np.load(folder / "latents.npy")
        except Exception as error:
            wrong.append(f"{folder.name}: {error}")
    if run_file.exists():
        named = json.loads(run_file.read_text())["folders"].values()
        wrong += [f"{name} is gone" for name in named if not (out / name).is_dir()]
        wrong += ["comparison.h5ad is gone"] * (not (out / "comparison.h5ad").exists())
        if not (out / "report.html").read_text().rstrip().endswith("</html>"):
            wrong.append("report.html is cut")
    return wrong


def fork(typed: list[str]) -> int:
    """Start a command in a fork of this process; returns its number."""
    process = os.fork()
    if process:
        return process
    code = 1
    with contextlib.suppress(BaseException):
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        from sc_vaenb import cli

        code = cli.main(typed)
    os._exit(code)


def code_of(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def kills(folder: Path, runs: int) -> None:
    import igraph  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import torch

    from sc_vaenb import pl, report  # noqa: F401
    from sc_vaenb.tl import _counts, _graph

    def plane(adata: object, *, neighbors_key: str, key_added: str, **_: object) -> None:
        key = neighbors_key.removeprefix("neighbors_")
        adata.obsm[key_added] = np.asarray(adata.obsm[f"X_{key}"])[:, :2].copy()  # type: ignore[attr-defined]

    torch.set_num_threads(1)
    _graph.sc.tl.umap = plane
    _counts.default_steps = lambda *_: int(STEPS)
    process = os.fork()
    if not process:
        data_in(folder)
        os._exit(0)
    os.waitpid(process, 0)
    out, rng = folder / "out", np.random.default_rng(0)
    commands = {"compare": ["--force"], "cvae": FIT}
    wrong: list[str] = []
    for name, options in commands.items():
        seconds = []
        for _ in range(2):  # the first compiles
            began = time.perf_counter()
            assert code_of(fork([name, str(folder / "data.h5ad"), "--out", str(out), *options])) == 0
            seconds.append(time.perf_counter() - began)
        killed = halves = 0
        seed = 0
        while killed < runs // 2:
            seed += 1
            typed = [name, str(folder / "data.h5ad"), "--out", str(out), *options, "--rng", str(seed)]
            child = fork(typed)
            time.sleep(rng.uniform(0.1, 1.05) * seconds[-1])
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            killed += code_of(child) == -signal.SIGKILL
            halves += bool(list(out.glob(".sc_vaenb-*")))
            checker = os.fork()
            if not checker:
                found = check(out)
                (folder / "wrong").write_text(json.dumps(found))
                os._exit(0)
            os.waitpid(checker, 0)
            wrong += json.loads((folder / "wrong").read_text())
        last = code_of(fork([name, str(folder / "data.h5ad"), "--out", str(out), *options]))
        tell(f"{name}: killed", killed)
        tell(f"{name}: killed while files were written", halves)
        tell(f"{name}: exit code of the same command afterwards", last)
    tell("left over", len(list(out.rglob(".sc_vaenb-*"))))
    tell("lost or unreadable", wrong or 0)


def listen() -> None:
    """Undo what nohup, or a shell for a job in the background, has told its children: to ignore signals."""
    for number in WORDS:
        signal.signal(number, signal.SIG_DFL)


def signals(folder: Path, runs: int) -> None:
    data = data_in(folder)
    typed = ["cvae", data, "--out", folder / "out", *FIT]
    run(*typed)  # compiles
    began = time.perf_counter()
    assert run(*typed).returncode == 0
    seconds = time.perf_counter() - began
    for number, (code, word) in WORDS.items():
        good, done, bad = 0, 0, []
        for at in np.linspace(0.05, 1, runs):
            command = [sys.executable, "-W", "ignore", "-m", "sc_vaenb", *map(str, typed), "--quiet"]
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=listen
            )
            time.sleep(at * seconds)
            process.send_signal(number)
            out, error = process.communicate()
            if process.returncode == 0 and out.startswith("written to"):
                done += 1
            elif process.returncode == code and error == f"{word}\n":
                good += 1
            else:
                bad.append(f"at {at:.2f}: {process.returncode}, {error[-300:]!r}")
        tell(f"{number.name}: exit code {code} and one line", good)
        tell(f"{number.name}: had ended before", done)
        tell(f"{number.name}: other", bad or 0)
    tell("left over", len(list((folder / "out").glob(".*"))))
    tell("unreadable", check(folder / "out") or 0)


def together(folder: Path) -> None:
    data, out = data_in(folder), folder / "out"
    for names in (["compare"] * 4, ["cvae"] * 4, ["compare", "compare", "cvae", "vae"]):
        start = [sys.executable, "-W", "ignore", "-m", "sc_vaenb"]
        processes = [
            subprocess.Popen(
                [*start, name, str(data), "--out", str(out), "--quiet", *(["--force"] if name == "compare" else FIT)],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            for name in names
        ]  # fmt: skip
        said = [process.communicate()[1].strip() for process in processes]
        codes = [process.returncode for process in processes]
        refused = sum("another sc-vaenb compare is writing to" in text for text in said)
        tell(f"{', '.join(names)}: done", codes.count(0))
        tell("    refused, as another run is at work", refused)
        others = [
            text for text, code in zip(said, codes, strict=True) if code and "another sc-vaenb compare" not in text
        ]
        tell("    other", others or 0)
        tell("    lost or unreadable", check(out) or 0)
    tell("folders of cvae and vae", len(list(out.glob("*/*.h5ad"))))
    tell("left over", len(list(out.glob(".*"))))


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0}))
sys.argv = ["sc-vaenb", *{1!r}]
from sc_vaenb.cli import main
sys.exit(main())
"""


def full(folder: Path, runs: int, small: Path | None) -> None:
    data = data_in(folder)
    out = (small or folder) / "out"
    compare = ["compare", str(data), "--out", str(out), "--quiet"]
    assert run(*compare).returncode == 0, "not even one comparison fits"
    sizes = sorted({path.stat().st_size for path in out.rglob("*") if path.is_file()})
    largest = sum(sizes) if small else sizes[-1]
    codes: dict[str, int] = {}
    wrong: list[str] = []
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", "PYTHONDONTWRITEBYTECODE": "1"}
    # as many bytes as each file of a comparison, and some between
    limits = sorted({*(size - 1 for size in sizes), *np.linspace(0, largest, runs).astype(int).tolist()})
    for limit in limits:
        for typed in ([*compare, "--force"], ["simulate", "--out", str(out / "simulated.h5ad"), "--force"]):
            if small is None:
                code = LIMITED.format(limit, typed)
                done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
            else:
                free = os.statvfs(small)
                with contextlib.suppress(OSError):
                    (small / "fill").write_bytes(bytes(max(free.f_bavail * free.f_bsize - limit, 0)))
                done = run(*typed, env=environment)
                (small / "fill").unlink(missing_ok=True)
            codes[f"{typed[0]}: exit code {done.returncode}"] = (
                codes.get(f"{typed[0]}: exit code {done.returncode}", 0) + 1
            )
            if done.returncode not in {0, 1}:
                wrong.append(f"{typed[0]} with {limit}: exit code {done.returncode}")
            if done.returncode == 1 and done.stderr.count("\n") != 1:
                wrong.append(f"{typed[0]} with {limit}: {done.stderr.count(chr(10))} lines, {done.stderr[:200]!r}")
            wrong += [f"{typed[0]} with {limit}: {text}" for text in check(out)]
            if list(out.rglob(".sc_vaenb-*")):
                wrong.append(f"{typed[0]} with {limit}: something is left over")
    tell("limits", len(limits))
    for what, number in sorted(codes.items()):
        tell(what, number)
    tell("wrong", wrong or 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("attack", choices=["kills", "signals", "together", "full"])
    parser.add_argument("--runs", type=int, default=20, help="kills in all, moments of each signal, or limits")
    parser.add_argument("--folder", type=Path, help="a small file system of a few MB, for `full`")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.attack == "kills":
            kills(folder, options.runs)
        elif options.attack == "signals":
            signals(folder, options.runs)
        elif options.attack == "together":
            together(folder)
        else:
            full(folder, options.runs, options.folder)


if __name__ == "__main__":
    main()
