"""The state of a fit on disk, so that a killed fit can go on and give the same result.

A state is a safetensors file (arrays and text; reading it executes nothing). Its name holds the number of steps and a
checksum of all its bytes. It is written to a temporary folder, flushed and renamed, so the file is complete or absent.
The checksum detects later damage on the disk; in that case the fit goes on from the previous state.
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
from typing import Any

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
from .state import FitConfig, State, parameter_groups

FORMAT = "sc_vaenb checkpoint 3"
NAME = re.compile(r"step_(\d{9})_([0-9a-f]{8})\.safetensors")
MAX_SHARE_OF_TIME = 0.02  # of the time of a fit, to write its states
SECONDS_PER_WRITE = 0.05  # assumed until the first write is measured
MAX_RANDOM_STATE = 10_000  # bytes
MOMENTS = "step", "exp_avg", "exp_avg_sq"  # that AdamW keeps for each parameter
MAX_VALUE = 1e12  # of a weight or moment; gradients are clipped far below


def _real(value: Any, where: str) -> float:
    """A number; it may be NaN or infinite, because the loss of a failing fit is."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise schema.unexpected(where, value, "a number")
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
        "step": schema.integer(1),
        "status": schema.text("", "stopped_early"),
        "best": schema.fields({"step": schema.integer(), "loss": _real, "n_since_best": schema.integer()}),
        "adapt": schema.fields(
            {
                "beta": schema.number(0, 1e300),
                "lr_divisor": schema.number(1),
                "setbacks": schema.integer(0, MAX_SETBACKS),
                "looks": schema.sequence(schema.sequence(_real, 2)),
            }
        ),
        "rows": schema.sequence(schema.fields(ROW | {"step": schema.integer(1)}, others=_real), most=1_000),
        "batch_size": schema.integer(),
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
        Cells per step of that state, if memory was too little for the requested number; else 0.
    writes
        Whether this process writes states: if several processes share a fit, only the first does.
    """

    writes = True

    def __init__(self, folder: Path, about: dict[str, Any], warn: Callable[[str], None]) -> None:
        """Find the newest undamaged state; `about` distinguishes this fit from others (see `identity`)."""
        self.folder, self.about, self.warn = folder, json.loads(json.dumps(about)), warn
        self.newest: Path | None = None
        self.to_restore: tuple[dict[str, torch.Tensor], dict[str, Any]] | None = None  # arrays and the rest of a state
        self.step, self.batch_size, self.seconds_per_write, self.write_failed = 0, 0, SECONDS_PER_WRITE, False
        folder.mkdir(parents=True, exist_ok=True)
        damaged = []
        for path in sorted(self._states(), reverse=True):
            try:
                stored_about, state = read_text(path)
                self._refuse_other_fit(stored_about)
                arrays = read(path)[0]
                check_state(arrays, state, stored_about, int(path.name.split("_")[1]))
            except (OSError, Damaged, SafetensorError) as error:
                damaged.append(f"{path.name} is damaged ({error})")
                continue
            self.newest, self.to_restore, self.step = path, (arrays, state), state["step"]
            self.batch_size = state.get("batch_size", 0)
            break
        if damaged:
            start = f"goes on from step {self.step:,}" if self.newest else "starts again"
            warn(f"checkpoint={str(folder)!r}: {', '.join(damaged)}. The fit {start}.")
        self.last_write = time.perf_counter()

    def restore(self, state: State) -> None:
        """Restore the state that was found, if any, into a fit that has not begun."""
        if self.to_restore is not None:
            state.unpack(*self.to_restore)
            self.to_restore = None

    def begin_again(self, batch_size: int) -> None:
        """Start again with fewer cells per step; the next write removes the states in the folder."""
        self.newest, self.to_restore, self.step, self.batch_size = None, None, 0, batch_size

    def offer(self, state: State, last: bool) -> None:
        """Write the state if it is the last, or if a write takes a small share of the time since the last write."""
        now = time.perf_counter()
        if not self.writes or (not last and self.seconds_per_write > MAX_SHARE_OF_TIME * (now - self.last_write)):
            return
        try:
            self._write(state)
            self.write_failed = False
        except OSError as error:
            if not self.write_failed:  # warn only once
                self.warn(
                    f"checkpoint={str(self.folder)!r}: the state after {state.step:,} steps could not be written "
                    f"({error.strerror or error}). The fit goes on; if it is killed now, it can go on only from an "
                    "earlier state."
                )
            self.write_failed = True
        self.last_write = time.perf_counter()
        self.seconds_per_write = self.last_write - now

    def _write(self, state: State) -> None:
        arrays, facts = state.pack()
        facts["batch_size"] = self.batch_size
        content = save(arrays, {"about": json.dumps(self.about), "state": json.dumps(facts)})
        path = self.folder / f"step_{state.step:09d}_{zlib.crc32(content):08x}.safetensors"
        with work_folder(self.folder) as work:
            (work / path.name).write_bytes(content)
            move(work / path.name, path)
        for old in self._states():  # also damaged ones, which may be of later steps
            if old not in {path, self.newest}:
                old.unlink(missing_ok=True)
        self.newest = path

    def _states(self) -> list[Path]:
        return [path for path in self.folder.iterdir() if NAME.fullmatch(path.name)]

    def _refuse_other_fit(self, stored: dict[str, Any]) -> None:
        """Refuse to go on from the state of another fit, and list all that differs."""
        current, shown_types = self.about, int | float | str | None
        differing = [name for name in {**stored, **current} if stored.get(name) != current.get(name)]
        differences = [
            f"{name} ({stored.get(name)!r} there, {current.get(name)!r} here)"
            if isinstance(stored.get(name), shown_types) and isinstance(current.get(name), shown_types)
            else name
            for name in differing
        ]
        if differences:
            listed = ", ".join(differences)
            msg = (
                f"checkpoint={str(self.folder)!r} holds the state of another fit. What differs: {listed}. "
                "Pass another folder, or remove this one to start again."
            )
            raise ValueError(msg)


@contextmanager
def only_fit(folder: Path) -> Iterator[None]:
    """Make the folder of a checkpoint and lock it for this fit, because two fits would remove each other's states."""
    folder.mkdir(parents=True, exist_ok=True)
    busy = f"checkpoint={str(folder)!r}: another fit is writing to it. Wait until it has ended, or pass another folder."
    with only_user(folder, busy):
        yield


def identity(config: ModelConfig, counts: Counts, options: FitConfig, seed: int) -> dict[str, Any]:
    """All that determines the result of a fit, except the machine."""
    about = {"format": FORMAT, "version": version("sc_vaenb"), **counts.fingerprint()}
    return about | asdict(config) | asdict(options) | {"rng": seed}


def read_text(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The `identity` of the fit, and its state without the arrays; the checksum of the file must match its name."""
    name, checksum = NAME.fullmatch(path.name), 0
    with path.open("rb") as opened:
        while part := opened.read(2**20):
            checksum = zlib.crc32(part, checksum)
    if name is None or checksum != int(name[2], 16):
        raise Damaged("its checksum does not match")
    with safe_open(path, "pt") as file:
        texts = schema.fields({"about": schema.parse_json, "state": schema.parse_json})(file.metadata(), "the header")
    about: dict[str, Any] = schema.fields({}, others=schema.anything)(texts["about"], "about")
    return about, STATE(texts["state"], "state")


def read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The arrays and the text of a state, after a check of the checksum."""
    about, state = read_text(path)
    with safe_open(path, "pt") as file:
        # Copies have the memory layout of torch and do not keep the file open.
        arrays = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (it is no dict)
    return arrays, {"about": about, "state": state}


def check_state(arrays: dict[str, torch.Tensor], state: dict[str, Any], about: dict[str, Any], step: int) -> None:
    """Refuse a state that the fit with the identity `about` could not have written.

    The checksum detects only damage by a disk; a file that someone made on purpose has a correct checksum, too.
    """
    if state["step"] != step or step > about["n_steps"]:
        raise Damaged(f"its step is {state['step']}")
    config = {field.name: about[field.name] for field in fields(ModelConfig)}
    with torch.device("meta"):
        model = CountVAE(ModelConfig.from_json(config))
    weights = model.state_dict()
    parameters = [parameter for group in parameter_groups(model, 0.0) for parameter in group["params"]]
    required = {f"{part}/{name}" for part in ("model", "calm") for name in weights} | {"history/kl_per_dim"}
    if any(path.startswith("best/") for path in arrays):
        required |= {f"best/{name}" for name in weights}
    elif state["best"]["step"]:
        raise Damaged("it lacks the best weights")
    for path, value in arrays.items():
        part, _, name = path.partition("/")
        if part in {"model", "calm", "best"} and name in weights:
            valid = value.shape == weights[name].shape and value.dtype == weights[name].dtype
        elif part == "optimizer":
            valid = _is_moment(name, value, parameters)
        elif part == "noise":
            valid = _is_random_state(name, value)
        else:
            n_rows = len(state["rows"])
            valid = path == "history/kl_per_dim" and value.shape == ((n_rows, config["n_latent"]) if n_rows else (0,))
        if not valid or (part != "history" and not bool((value.abs() <= MAX_VALUE).all())):  # this refuses NaN, too
            raise Damaged(f"its array {ascii(path)[:80]} is not what a fit writes")
    if missing := required - set(arrays):
        raise Damaged(f"it lacks the array {min(missing)!r}")
    if any(row.keys() != state["rows"][0].keys() for row in state["rows"]):
        raise Damaged("the rows of its history have different columns")
    if any(row["step"] > step for row in state["rows"]):
        raise Damaged("its history has later steps than its own")
    n_moments = Counter(path.split("/")[1] for path in arrays if path.startswith("optimizer/"))
    if any(n != len(MOMENTS) for n in n_moments.values()):
        raise Damaged("its optimizer state is incomplete")


def _is_moment(name: str, value: torch.Tensor, parameters: list[torch.nn.Parameter]) -> bool:
    """Whether this is an array that the optimizer keeps for one of the parameters."""
    index, _, moment = name.partition("/")
    if not index.isdecimal() or len(index) > 6 or int(index) >= len(parameters):
        return False
    parameter = parameters[int(index)]
    if moment == "step":
        return value.dtype == torch.float32 and value.numel() == 1
    return moment in MOMENTS and value.dtype == parameter.dtype and value.shape == parameter.shape


def _is_random_state(device: str, value: torch.Tensor) -> bool:
    if value.dtype != torch.uint8 or value.ndim != 1 or device not in {"cpu", "cuda", "mps"}:
        return False
    if device == "cpu":
        try:
            torch.Generator().set_state(value)
        except RuntimeError:
            return False
    return len(value) <= MAX_RANDOM_STATE


def check_folder(folder: Path) -> None:
    """Refuse a folder that cannot be written to. A missing folder is not made here, only when the fit begins."""
    try:
        is_file = folder.exists() and not folder.is_dir()
        if not is_file:
            parent = next(path for path in (folder, *folder.absolute().parents) if path.exists())
            with TemporaryFile(dir=parent):
                pass
    except OSError as error:
        msg = f"checkpoint={str(folder)!r} cannot be written to ({error.strerror}). Pass another folder."
        raise OSError(msg) from error
    if is_file:
        msg = f"checkpoint={str(folder)!r} is a file, not a folder. Pass another name."
        raise FileExistsError(msg)


def remove_states(folder: Path) -> None:
    """Remove the states of a fit from a folder, after its result is written; other files stay."""
    for path in list(folder.iterdir()):
        if NAME.fullmatch(path.name):
            path.unlink(missing_ok=True)
