"""A fit that breaks off goes on to the same bits; what is kept of it is whole, its own, and never in the way."""

import errno
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import sparse

from sc_vaenb.data import counts as batches
from sc_vaenb.data.counts import Counts
from sc_vaenb.data.on_device import DeviceCounts
from sc_vaenb.fit import checkpoint
from sc_vaenb.fit.checkpoint import Checkpoint, check_folder, identity, read
from sc_vaenb.fit.loop import Step, fit
from sc_vaenb.fit.state import FitConfig
from sc_vaenb.model.config import ModelConfig
from sc_vaenb.model.vae import CountVAE

CPU = torch.device("cpu")
CONFIG = ModelConfig(n_genes=40, n_latent=3, hidden=(16,), decoder_hidden=(16,))
OPTIONS = FitConfig(n_steps=60, weight_decay=0.1, batch_size=32)  # with a look every third step
EARLY = replace(OPTIONS, learning_rate=2e-2, beta=0.01, warmup=0.01, patience=2)
CASES = {
    "plain": (CONFIG, OPTIONS),
    "batch norm, dropout, batches": (
        replace(CONFIG, norm="batch", dropout=0.3, n_batches=2, batch_width=2, encode_batch=True, likelihood="zinb"),
        OPTIONS,
    ),
    "nothing held out": (CONFIG, replace(OPTIONS, validation_fraction=0.0)),
    "stopped early": (CONFIG, EARLY),
}


class Killed(Exception):
    """In the place of a signal, which would take the tests along."""


def dying(after, error=Killed):
    """Steps of which the fit survives so many."""

    class Dying(Step):
        left = after

        def __call__(self, *cells_rate_beta):
            if not self.left:
                raise error
            self.left -= 1
            return super().__call__(*cells_rate_beta)

    return Dying


@pytest.fixture(scope="module")
def counts():
    rng = np.random.default_rng(0)
    rate = np.kron(np.eye(2), np.full((50, 20), 4.0)) + 0.1
    dense = rng.poisson(rate).astype(np.float32)
    size = dense.sum(1)
    return Counts(sparse.csr_matrix(dense), (size / size.mean()).astype(np.float32), np.arange(100) % 2)


@pytest.fixture(scope="module")
def whole(counts):
    """What comes out without a break, by case."""
    return {name: fit(config, counts, options, CPU, 0) for name, (config, options) in CASES.items()}


@pytest.fixture(autouse=True)
def _always(monkeypatch):
    """Write at every look, whatever it costs."""
    monkeypatch.setattr(checkpoint, "MAX_SHARE_OF_TIME", float("inf"))


@pytest.fixture
def run(counts, tmp_path):
    """Fit with a checkpoint in `tmp_path`; `run.warnings` is what was said."""
    warnings = []

    def run(case="plain", step=Step, *, counts=counts, seed=0, **changes):
        config, options = CASES[case]
        options = replace(options, **{k: v for k, v in changes.items() if hasattr(options, k)})
        config = replace(config, **{k: v for k, v in changes.items() if hasattr(config, k)})
        kept = Checkpoint(tmp_path, identity(config, counts, options, seed), warnings.append)
        return fit(config, counts, options, CPU, seed, make_step=step, checkpoint=kept)

    run.warnings = warnings
    return run


def break_off(run, after, case="plain"):
    with pytest.raises(Killed):
        run(case, dying(after))


def states(folder):
    return sorted(path.name for path in folder.iterdir())


def steps(folder):
    return [int(name.split("_")[1]) for name in states(folder)]


def assert_same(found, expected):
    (model, history, verdict), (other, other_history, other_verdict) = found, expected
    weights, others = model.state_dict(), other.state_dict()
    assert weights.keys() == others.keys()
    for name in weights:
        assert torch.equal(weights[name], others[name]), name
    columns, other_columns = history.columns(), other_history.columns()
    assert columns.keys() == other_columns.keys()
    for name in columns.keys() - {"seconds"}:
        np.testing.assert_array_equal(columns[name], other_columns[name], name, strict=True)
    assert verdict == other_verdict


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_fit_that_breaks_off_ends_as_if_it_had_not(run, whole, case, tmp_path):
    for after in (2, 13, 4, 0):
        break_off(run, after, case)
    assert_same(run(case), whole[case])
    assert_same(run(case, dying(0)), whole[case])  # once it has ended, no step is taken any more
    assert steps(tmp_path)[-1] == whole[case][1].rows[-1]["step"]
    assert run.warnings == []


def test_stopped_early_is_what_the_case_says(whole):
    assert whole["stopped early"][2].status == "stopped_early"
    assert whole["stopped early"][2].kept_step < whole["stopped early"][1].rows[-1]["step"]


def test_time_goes_on_too(run):
    break_off(run, 40)
    seconds = run()[1].column("seconds")
    assert (np.diff(seconds) > 0).all()


def test_ctrl_c_keeps_the_best_weights_and_the_fit_can_go_on(run, whole):
    model, history, verdict = run(step=dying(31, KeyboardInterrupt))
    assert (verdict.status, history.rows[-1]["step"]) == ("interrupted", 30)
    assert not any(torch.equal(a, b) for a, b in zip(model.parameters(), whole["plain"][0].parameters(), strict=True))
    assert_same(run(), whole["plain"])


def test_the_last_two_states_are_kept_and_nothing_else_is_touched(run, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    break_off(run, 31)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    (tmp_path / "notes.txt").unlink()
    assert steps(tmp_path) == [27, 30]
    for path in tmp_path.iterdir():
        arrays, text = read(path)
        assert text["state"]["step"] == int(path.name.split("_")[1])
        assert {"model/depth", "best/depth", "noise/cpu", "optimizer/0/exp_avg", "history/kl_per_dim"} <= set(arrays)


# What a disk does


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_off(path):
    os.truncate(path, path.stat().st_size // 2)


def emptied(path):
    os.truncate(path, 0)


@pytest.mark.slow
@pytest.mark.parametrize("damage", [flipped, cut_off, emptied])
def test_a_damaged_state_falls_back_to_the_one_before(run, whole, damage, tmp_path):
    break_off(run, 31)
    name = states(tmp_path)[-1]
    damage(tmp_path / name)
    break_off(run, 4)  # long enough for one more state
    text = (
        f"checkpoint={str(tmp_path)!r}: {name} is damaged (its checksum does not match). The fit goes on from step 27."
    )
    assert run.warnings == [text]
    assert steps(tmp_path) == [27, 30]
    assert name not in states(tmp_path)
    for path in tmp_path.iterdir():
        read(path)
    assert_same(run(), whole["plain"])
    assert run.warnings == [text]


def test_without_any_good_state_the_fit_starts_again(run, whole, tmp_path):
    break_off(run, 31)
    for path in tmp_path.iterdir():
        cut_off(path)
    assert_same(run(), whole["plain"])
    (text,) = run.warnings
    assert text.count("is damaged (its checksum does not match)") == 2
    assert text.endswith(". The fit starts again.")
    assert steps(tmp_path) == [57, 60]


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["write", "fsync", "replace"])
def test_a_full_disk_costs_the_fit_nothing(run, whole, broken, tmp_path, monkeypatch):
    break_off(run, 31)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def half(path, content):
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])
        full()

    place, name, what = {
        "write": (checkpoint.Path, "write_bytes", half),
        "fsync": (os, "fsync", full),
        "replace": (checkpoint.Path, "replace", full),
    }[broken]
    with monkeypatch.context() as patched:
        patched.setattr(place, name, what)
        assert_same(run(), whole["plain"])
    (text,) = run.warnings  # once, though every look tried again
    assert text == (
        f"checkpoint={str(tmp_path)!r}: the state after 33 steps could not be written (No space left on device). The "
        "fit goes on; if it is killed now, it can go on only from an earlier state."
    )
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert_same(run(), whole["plain"])


@pytest.mark.parametrize(
    ("name", "text"),
    [("file", "is a file, not a folder"), ("file/below", "cannot be written"), ("x" * 300, "cannot be written")],
)
def test_a_folder_that_takes_no_files_is_refused(tmp_path, name, text):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=rf"^checkpoint='.*{name}' {text}.*\. Pass another (name|folder)\.$"):
        check_folder(tmp_path / name)
    check_folder(tmp_path / "new" / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# Whose state it is


def changed(counts, **changes):
    parts = {"matrix": counts.matrix, "size_factor": counts.size_factor, "batch_index": counts.batch_index, **changes}
    return Counts(**parts)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"seed": 1}, r"rng \(0 there, 1 here\)"),
        ({"n_steps": 61, "beta": 1}, r"n_steps \(60 there, 61 here\), beta \(0\.5 there, 1 here\)"),
        ({"patience": 3}, r"patience \(None there, 3 here\)"),
        ({"likelihood": "poisson"}, r"likelihood \('nb' there, 'poisson' here\)"),
        ({"hidden": (16, 16)}, "hidden"),
    ],
)
def test_the_state_of_another_fit_is_refused(run, tmp_path, changes, text):
    break_off(run, 10)
    before = states(tmp_path)
    start = r"^checkpoint='.*' holds the state of another fit\. What differs: "
    end = r"\. Pass another folder, or remove this one to start again\.$"
    with pytest.raises(ValueError, match=start + text + end):
        run(**changes)
    assert states(tmp_path) == before


def test_other_data_are_refused(run, counts):
    break_off(run, 10)
    more, deeper = counts.matrix.copy(), counts.size_factor.copy()
    more.data[7] += 1
    deeper[3] *= 2
    for part, value, name in (
        ("matrix", more, "counts"),
        ("size_factor", deeper, "size factors"),
        ("batch_index", counts.batch_index[::-1].copy(), "batches"),
    ):
        with pytest.raises(ValueError, match=rf"What differs: {name}\. Pass another folder"):
            run(counts=changed(counts, **{part: value}))


def test_another_version_does_not_go_on(run, monkeypatch):
    break_off(run, 10)
    monkeypatch.setattr(checkpoint, "version", lambda _: "99")
    with pytest.raises(ValueError, match=r"What differs: version \('[^']*' there, '99' here\)\. Pass"):
        run()


def test_counts_are_told_apart_by_any_of_them_and_alike_wherever_they_lie(counts, monkeypatch):
    monkeypatch.setattr(batches, "N_CHECKSUM", 10)  # of some thousand
    own = counts.fingerprint()
    assert DeviceCounts(counts, CPU).fingerprint() == own
    wider = counts.matrix.copy()
    wider.indices, wider.indptr = wider.indices.astype(np.int64), wider.indptr.astype(np.int64)
    assert changed(counts, matrix=wider).fingerprint() == own
    rng = np.random.default_rng(0)
    for at in rng.integers(counts.matrix.nnz, size=50):
        other = counts.matrix.copy()
        other.data[at] += 1
        assert changed(counts, matrix=other).fingerprint() != own
        other = counts.matrix.copy()
        other.indices[at] += 1
        assert changed(counts, matrix=other).fingerprint() != own
    assert changed(counts, matrix=counts.matrix[::-1]).fingerprint() != own


# What it costs


def test_writing_takes_its_share_of_the_time_and_no_more(tmp_path, monkeypatch):
    """A clock that says when looks come and how long writing takes."""
    monkeypatch.setattr(checkpoint, "MAX_SHARE_OF_TIME", 0.02)
    now, written = [0.0], []
    monkeypatch.setattr(checkpoint.time, "perf_counter", lambda: now[0])

    def write(self, state):
        now[0] += 0.1
        written.append(round(now[0], 1))

    monkeypatch.setattr(Checkpoint, "_write", write)
    kept = Checkpoint(tmp_path, {}, print)
    for second in (1.0, 3.0, 4.0, 8.0, 8.5, 14.0):
        now[0] = second
        kept.offer(None, last=False)
    kept.offer(None, last=True)
    assert written == [3.1, 8.6, 14.1, 14.2]


def test_a_short_fit_writes_its_end_alone(run, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "MAX_SHARE_OF_TIME", 0.02)
    monkeypatch.setattr(checkpoint, "SECONDS_PER_WRITE", 60.0)  # for slow machines
    run()
    assert steps(tmp_path) == [60]


def test_a_fit_set_back_at_its_first_look_goes_on_too(run, counts, monkeypatch):
    """The history is still empty then."""
    loss = CountVAE.loss

    def broken(self, *args, **options):
        terms = loss(self, *args, **options)
        broken.steps += self.training
        return terms._replace(loss=terms.loss * float("nan")) if broken.steps == 1 and self.training else terms

    def fitted(*attempts):
        broken.steps = 0
        for attempt in attempts:
            found = attempt()
        return found

    monkeypatch.setattr(CountVAE, "loss", broken)
    expected = fitted(lambda: fit(CONFIG, counts, OPTIONS, CPU, 0))
    found = fitted(lambda: break_off(run, 4), run)
    assert expected[2].setbacks == found[2].setbacks == 1
    assert_same(found, expected)
