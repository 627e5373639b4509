"""The state of a fit on the disk, so that a fit that is killed can go on as if nothing had been.

A state is a safetensors file (arrays and text; reading it executes nothing) whose name holds the steps taken and a
checksum of all its bytes. It is written beside its place, flushed and renamed, so that it is there whole or not at
all; the checksum finds what a disk did to it later, and the state before it is there for that case.
"""

from __future__ import annotations

import json
import re
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from .. import _schema as schema
from .._files import move, only_user, work_folder
from .._schema import Damaged
from ..data.counts import Counts
from ..model.config import ModelConfig
from ..model.vae import CountVAE
from .stability import MAX_SETBACKS
from .state import State

if TYPE_CHECKING:
    from .state import FitConfig

FORMAT = "sc_vaenb checkpoint 3"
NAME = re.compile(r"step_(\d{9})_([0-9a-f]{8})\.safetensors")
MAX_SHARE_OF_TIME = 0.02  # of its time that a fit may spend on writing its state
USUAL = 0.05  # seconds that this takes, until the first time is measured
LONGEST_RANDOM_STATE = 10_000  # bytes
MOMENTS = "step", "exp_avg", "exp_avg_sq"  # that AdamW keeps of a parameter
LARGEST = 1e12  # weight or moment; gradients are clipped far below


def _real(value: Any, where: str) -> float:
    """A number, which in a fit that goes wrong may be infinite or none."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise schema.refuse(where, value, "a number")
    return value


ROW = dict.fromkeys(
    (
        *("step", "epoch", "train_loss", "train_reconstruction", "train_kl"),
        *("beta", "active_units", "neighbors_explained", "learning_rate", "seconds"),
    ),
    _real,
)
STATE = schema.fields(
    {
        "step": schema.whole(1),
        "status": schema.text("", "stopped_early"),
        "best": schema.fields({"step": schema.whole(), "loss": _real, "n_since_best": schema.whole()}),
        "adapt": schema.fields(
            {
                "beta": schema.number(0, 1e300),
                "lr_divisor": schema.number(1),
                "setbacks": schema.whole(0, MAX_SETBACKS),
                "looks": schema.sequence(schema.sequence(_real, 2)),
            }
        ),
        "rows": schema.sequence(schema.fields(ROW | {"step": schema.whole(1)}, others=_real), most=1_000),
        "batch_size": schema.whole(),
    },
    optional={"batch_size"},
)


class Checkpoint:
    """A folder with the last two states of a fit, opened before the fit begins.

    Attributes
    ----------
    step
        Steps taken in the state from which the fit goes on; 0 if there is none.
    batch_size
        Cells per step of that state, where they are fewer than asked for, as memory was too little; else 0.
    writes
        Whether what is offered is written: where several processes share a fit, by the first of them.
    """

    writes = True

    def __init__(self, folder: Path, about: dict[str, Any], warn: Callable[[str], None]) -> None:
        """Find the newest state that is whole; `about` tells this fit from others (see `identity`)."""
        self.folder, self.about, self.warn = folder, json.loads(json.dumps(about)), warn
        self.newest: Path | None = None
        self.found: tuple[dict[str, torch.Tensor], dict[str, Any]] | None = None
        self.step, self.batch_size, self.cost, self.failed = 0, 0, USUAL, False
        folder.mkdir(parents=True, exist_ok=True)
        damaged = []
        for path in sorted(self._states(), reverse=True):
            try:
                about, state = read_text(path)
                self._refuse_another(about)
                arrays = read(path)[0]
                check_state(arrays, state, about, int(path.name.split("_")[1]))
            except (OSError, Damaged, SafetensorError) as error:
                damaged.append(f"{path.name} is damaged ({error})")
                continue
            self.newest, self.found, self.step = path, (arrays, state), state["step"]
            self.batch_size = state.get("batch_size", 0)
            break
        if damaged:
            then = f"goes on from step {self.step:,}" if self.newest else "starts again"
            warn(f"checkpoint={str(folder)!r}: {', '.join(damaged)}. The fit {then}.")
        self.since = time.perf_counter()

    def restore(self, state: State) -> None:
        """Bring a fit that has not begun to the state that was found, if any."""
        if self.found is not None:
            state.unpack(*self.found)
            self.found = None

    def begin_again(self, batch_size: int) -> None:
        """Forget the states there, which go when the next is written: the fit has fewer cells per step from here on."""
        self.newest, self.found, self.step, self.batch_size = None, None, 0, batch_size

    def offer(self, state: State, last: bool) -> None:
        """Write the state if that costs little beside the time since the last was written, or if it is the last."""
        begun = time.perf_counter()
        if not self.writes or (not last and self.cost > MAX_SHARE_OF_TIME * (begun - self.since)):
            return
        try:
            self._write(state)
            self.failed = False
        except OSError as error:
            if not self.failed:  # say it once
                self.warn(
                    f"checkpoint={str(self.folder)!r}: the state after {state.step:,} steps could not be written "
                    f"({error.strerror or error}). The fit goes on; killed now, it would have to go on from what was "
                    "written before."
                )
            self.failed = True
        self.since = time.perf_counter()
        self.cost = self.since - begun

    def _write(self, state: State) -> None:
        arrays, facts = state.pack()
        facts["batch_size"] = self.batch_size
        content = save(arrays, {"about": json.dumps(self.about), "state": json.dumps(facts)})
        path = self.folder / f"step_{state.step:09d}_{zlib.crc32(content):08x}.safetensors"
        with work_folder(self.folder) as work:
            (work / path.name).write_bytes(content)
            move(work / path.name, path)
        for old in self._states():  # damaged ones too, which may be of later steps
            if old not in {path, self.newest}:
                old.unlink(missing_ok=True)
        self.newest = path

    def _states(self) -> list[Path]:
        return [path for path in self.folder.iterdir() if NAME.fullmatch(path.name)]

    def _refuse_another(self, there: dict[str, Any]) -> None:
        """Refuse to go on from another fit's state, whatever of it differs."""
        here, plain = self.about, int | float | str | None
        differing = [name for name in {**there, **here} if there.get(name) != here.get(name)]
        told = [
            f"{name} ({there.get(name)!r} there, {here.get(name)!r} here)"
            if isinstance(there.get(name), plain) and isinstance(here.get(name), plain)
            else name
            for name in differing
        ]
        if told:
            msg = (
                f"checkpoint={str(self.folder)!r} holds the state of another fit. What differs: {', '.join(told)}. "
                "Pass another folder, or remove this one to start again."
            )
            raise ValueError(msg)


@contextmanager
def only_fit(folder: Path) -> Iterator[None]:
    """Hold the folder of a checkpoint, which is made, for this fit alone: two would remove each other's states."""
    folder.mkdir(parents=True, exist_ok=True)
    busy = f"checkpoint={str(folder)!r}: another fit is writing to it. Wait until it has ended, or pass another folder."
    with only_user(folder, busy):
        yield


def identity(config: ModelConfig, counts: Counts, options: FitConfig, seed: int) -> dict[str, Any]:
    """What a fit's result follows from, but for the machine."""
    about = {"format": FORMAT, "version": version("sc_vaenb"), **counts.fingerprint()}
    return about | asdict(config) | asdict(options) | {"rng": seed}


def read_text(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Whose state it is, and the state but for its arrays; the file must hold what was written."""
    name, found = NAME.fullmatch(path.name), 0
    with path.open("rb") as opened:
        while part := opened.read(2**20):
            found = zlib.crc32(part, found)
    if name is None or found != int(name[2], 16):
        raise Damaged("its checksum is another")
    with safe_open(path, "pt") as file:
        texts = schema.fields({"about": schema.parse_json, "state": schema.parse_json})(file.metadata(), "the header")
    about: dict[str, Any] = schema.fields({}, others=schema.anything)(texts["about"], "about")
    return about, STATE(texts["state"], "state")


def read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The arrays and the text of a state, which must be what was written."""
    about, state = read_text(path)
    with safe_open(path, "pt") as file:
        # Copies lie as torch lays out its own arrays, and do not hold on to the file.
        arrays = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (it is no dict)
    return arrays, {"about": about, "state": state}


def check_state(arrays: dict[str, torch.Tensor], state: dict[str, Any], about: dict[str, Any], step: int) -> None:
    """Refuse a state that is not one of the fit that `about` tells, whose own bytes may be in order.

    A checksum finds what a disk did; a file that someone made has one, too.
    """
    from .state import parameter_groups

    if state["step"] != step or step > about["n_steps"]:
        raise Damaged(f"its step is {state['step']}")
    config = {field.name: about[field.name] for field in fields(ModelConfig)}
    with torch.device("meta"):
        model = CountVAE(ModelConfig.from_json(config))
    weights = model.state_dict()
    moved = [parameter for group in parameter_groups(model, 0.0) for parameter in group["params"]]
    needed = {f"{part}/{name}" for part in ("model", "calm") for name in weights} | {"history/kl_per_dim"}
    if any(path.startswith("best/") for path in arrays):
        needed |= {f"best/{name}" for name in weights}
    elif state["best"]["step"]:
        raise Damaged("it lacks the best weights")
    for path, value in arrays.items():
        part, _, name = path.partition("/")
        if part in {"model", "calm", "best"} and name in weights:
            good = value.shape == weights[name].shape and value.dtype == weights[name].dtype
        elif part == "optimizer":
            good = _is_moment(name, value, moved)
        elif part == "noise":
            good = _is_random_state(name, value)
        else:
            rows = len(state["rows"])
            good = path == "history/kl_per_dim" and value.shape == ((rows, config["n_latent"]) if rows else (0,))
        if not good or (part != "history" and not bool((value.abs() <= LARGEST).all())):  # not of NaN either
            raise Damaged(f"its array {ascii(path)[:80]} is not what a fit writes")
    if lacking := needed - set(arrays):
        raise Damaged(f"it lacks the array {min(lacking)!r}")
    if any(row.keys() != state["rows"][0].keys() for row in state["rows"]):
        raise Damaged("the rows of its history are not alike")
    if any(row["step"] > step for row in state["rows"]):
        raise Damaged("its history has later steps than its own")
    moments = Counter(path.split("/")[1] for path in arrays if path.startswith("optimizer/"))
    if any(n != len(MOMENTS) for n in moments.values()):
        raise Damaged("what it keeps of the optimizer is not whole")


def _is_moment(name: str, value: torch.Tensor, parameters: list[torch.nn.Parameter]) -> bool:
    """Whether it is what the optimizer keeps of one of the parameters."""
    at, _, what = name.partition("/")
    if not at.isdecimal() or len(at) > 6 or int(at) >= len(parameters):
        return False
    like = parameters[int(at)]
    if what == "step":
        return value.dtype == torch.float32 and value.numel() == 1
    return what in MOMENTS and value.dtype == like.dtype and value.shape == like.shape


def _is_random_state(device: str, value: torch.Tensor) -> bool:
    if value.dtype != torch.uint8 or value.ndim != 1 or device not in {"cpu", "cuda", "mps"}:
        return False
    if device == "cpu":
        try:
            torch.Generator().set_state(value)
        except RuntimeError:
            return False
    return len(value) <= LONGEST_RANDOM_STATE


def check_folder(folder: Path) -> None:
    """Refuse a folder that takes no files; it is made when the fit begins, so that what is refused leaves none."""
    if folder.exists() and not folder.is_dir():
        msg = f"checkpoint={str(folder)!r} is a file, not a folder. Pass another name."
        raise FileExistsError(msg)
    try:
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        with TemporaryFile(dir=there):
            pass
    except OSError as error:
        msg = f"checkpoint={str(folder)!r} cannot be written to ({error.strerror}). Pass another folder."
        raise OSError(msg) from error


def remove_states(folder: Path) -> None:
    """Remove the states in a folder, of a fit whose result is written; whatever else is in it stays."""
    for path in list(folder.iterdir()):
        if NAME.fullmatch(path.name):
            path.unlink(missing_ok=True)
