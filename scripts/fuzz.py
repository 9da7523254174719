"""Damage files at random, and see how our readers take it.

    python scripts/fuzz.py --seconds 120              # every reader, as CI does
    python scripts/fuzz.py --seconds 36000 --nice 15  # a night
    python scripts/fuzz.py --only zarr models --seconds 600
    python scripts/fuzz.py --again FOLDER --only zarr # one input that was kept

Sound files, made by our own writers (``tests/fuzzing/targets.py``), are damaged as Hypothesis
draws it (``tests/fuzzing/edits.py``), and read in a process of their own, which may take 4 GiB more
than it began with. A find is: the process dies; an input takes more than 10 s; it takes more than
twice the memory that the file declares; or anything is raised that is not one of our refusals,
which say what is wrong and what to do. Finds are kept in ``--keep``, each once; the exit status is
1 if there are any. An input that a reader answers as no other before joins those that are damaged
further. Needs Linux: processes are forked, and tell their memory under /proc.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import faulthandler
import hashlib
import itertools
import json
import logging
import mmap
import multiprocessing
import os
import random
import re
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

# Before torch: its threads would wait for each other, and for a fork.
os.environ.update({"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"})

import torch._dynamo  # noqa: F401 - with all that it takes, for all who are forked
from hypothesis import HealthCheck, given, settings

from fuzzing.edits import Edit, Seed, apply_edits, edits
from fuzzing.targets import TARGETS, Target, files_of, seeds_of

#: Inputs that were finds once; the tests read them too.
KEPT = ROOT / "tests/fuzzing/finds"
_MEMORY = 4 * 2**30
# What reading anything may take beside what the file declares: imports, pages of libraries.
_SLACK = 64 * 2**20
# Of what is refused half-way nobody knows what it declared: any file may say 256 MiB.
_REFUSED = 512 * 2**20
_MOST_SEEDS = 400
_COUNTS = struct.Struct("<QQQQd")
_SLICE = 40.0
# Damaged inputs of a turn, however slow the machine is.
_LEAST = 3


@dataclasses.dataclass
class Counts:
    """What a process did so far: inputs, of which refused and read; finds; its processor time."""

    inputs: int = 0
    refused: int = 0
    read: int = 0
    finds: int = 0
    seconds: float = 0.0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(a + b for a, b in zip(self.values, other.values, strict=True)))

    @property
    def values(self) -> tuple[Any, ...]:
        return dataclasses.astuple(self)


# -- in the process that reads


class Reader:
    """Reads damaged inputs of one target, and keeps those that it should not have met.

    Parameters
    ----------
    target : Target
        What reads.
    box : pathlib.Path
        Where the input lies, and what is told to whoever began this process.
    """

    def __init__(self, target: Target, box: Path) -> None:
        self.target, self.box, self.counts = target, box, Counts()
        self._seen: set[str] = set()
        self._trace = ""
        self._told = mmap.mmap(os.open(box / "counts", os.O_RDWR), _COUNTS.size)

    def execute(self, files: Mapping[str, bytes]) -> tuple[str, str]:
        """Read an input; return its answer, and what is wrong with that, if anything."""
        place = self.box / "input"
        shutil.rmtree(place, ignore_errors=True)
        _write(files, place)
        self.counts.inputs += 1
        self.counts.seconds = time.process_time()
        self.tell()
        before, began = _memory()[0], time.process_time()
        try:
            declared = self.target.read(place)
            answer, wrong = "read", ""
            self.counts.read += 1
        except self.target.refusals as error:
            declared, wrong = _REFUSED // 2, _unsaid(error)
            answer = f"{type(error).__name__}: {error}"
            self.counts.refused += 1
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what is looked for
            declared, answer = _REFUSED, f"{type(error).__name__}: {error}"
            self._trace = traceback.format_exc()
            wrong = f"{type(error).__name__} in {_place(error)}"
        taken, seconds = _memory()[1] - before, time.process_time() - began
        if not wrong and taken > 2 * declared + _SLACK:
            wrong = "memory"
            answer = f"{taken / 2**20:.0f} MiB for {declared / 2**20:.0f} declared; {answer}"
        if not wrong and seconds > self.target.seconds:
            wrong, answer = "time", f"{seconds:.0f} s; {answer}"
        return answer, wrong

    def is_new(self, answer: str) -> bool:
        """Whether no input was answered like this before, but for numbers and names."""
        shape = re.sub(r"'[^']*'|\d+(\.\d+)?|\([^)]*\)", "#", answer)[:120]
        new = shape not in self._seen
        self._seen.add(shape)
        return new

    def keep(self, files: Mapping[str, bytes], answer: str, wrong: str) -> None:
        """Keep a find, once of each kind."""
        self.counts.finds += 1
        self.tell()
        keep_find(self.box / "finds", files, wrong, f"{answer}\n\n{self._trace}")

    def tell(self) -> None:
        """Say how far this is, so that it is known whatever happens."""
        self._told[:] = _COUNTS.pack(*self.counts.values)


def _unsaid(error: Exception) -> str:
    """Return what a refusal lacks."""
    text = str(error).strip()
    return "" if len(text) > 15 else f"{type(error).__name__} says nothing in {_place(error)}"


def _place(error: BaseException) -> str:
    """Return the last line of ours that an error came through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "napari_sparseattn" in f.filename] or frames
    return f"{Path(ours[-1].filename).name}:{ours[-1].name}"


def _memory() -> tuple[int, int]:
    """Return the bytes that this process has, and the most that it had since it was last asked."""
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:  # only Linux tells
        return 0, 0
    most, now = (int(text.split(f"{name}:")[1].split()[0]) * 1024 for name in ("VmHWM", "VmRSS"))
    if most - now > _SLACK // 4:
        Path("/proc/self/clear_refs").write_text("5")
    return now, most


def _limit_memory() -> None:
    with contextlib.suppress(ImportError, OSError):
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + _MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def read_damaged(name: str, seed: int, seconds: float, box: Path, corpus: Path) -> None:
    """Damage and read for so long, in this process."""
    trace = (box / "trace").open("w")
    faulthandler.enable(trace)
    # The watcher asks where an input hangs before it kills.
    faulthandler.register(signal.SIGUSR1, trace)
    warnings.simplefilter("ignore")
    logging.disable()
    end = time.monotonic() + seconds
    reader, rng = Reader(TARGETS[name], box), random.Random(seed)
    pool = _load(name, corpus)
    sound = [each.files for each in pool if each.sound]
    for each in pool:
        answer, wrong = reader.execute(each.files)
        reader.is_new(answer)
        # What is imported for the first of a kind takes memory too.
        if wrong and wrong != "memory":
            reader.keep(each.files, answer, wrong)
    _limit_memory()

    @settings(database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(edits())
    def once(damage: list[Edit]) -> None:
        # Half of all begin with a sound file.
        found = pool[rng.randrange(len(sound) if rng.random() < 0.5 else len(pool))]
        files = apply_edits(found, damage, sound)
        answer, wrong = reader.execute(files)
        if wrong:
            files, answer = _simplify(reader, found, damage, sound, wrong, (files, answer))
            reader.keep(files, answer, wrong)
        elif reader.is_new(answer) and len(pool) < _MOST_SEEDS:
            pool.append(Seed(files, found.hot, sound=False))
            _store(pool[-1], corpus / f"{len(pool):04d}")

    done = itertools.count()
    while next(done) < _LEAST or time.monotonic() < end:
        once.hypothesis.fuzz_one_input(rng.randbytes(rng.choice((60, 120, 400))))
    reader.tell()


def _load(name: str, corpus: Path) -> list[Seed]:
    """Return the inputs to begin with: sound ones, then others that were met before."""
    if not corpus.exists():
        kept = [Seed(files_of(folder), {}, sound=False) for folder in _kept(name)]
        for number, seed in enumerate((*map(Seed.of, seeds_of(name)), *kept)):
            _store(seed, corpus / f"{number:04d}")
    return [
        Seed(files_of(folder / "files"), json.loads((folder / "hot").read_text()), "+" in told)
        for folder in sorted(corpus.iterdir())
        if (told := (folder / "kind").read_text())
    ]


def _store(seed: Seed, folder: Path) -> None:
    _write(seed.files, folder / "files")
    (folder / "hot").write_text(json.dumps({name: list(at) for name, at in seed.hot.items()}))
    # Last: whoever is killed meanwhile leaves no half input.
    (folder / "kind").write_text("+" if seed.sound else "-")


def _write(files: Mapping[str, bytes], folder: Path) -> None:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def _simplify(
    reader: Reader,
    found: Seed,
    damage: Sequence[Edit],
    sound: Sequence[Mapping[str, bytes]],
    wrong: str,
    best: tuple[dict[str, bytes], str],
) -> tuple[dict[str, bytes], str]:
    """Leave out damage without which the same is wrong."""
    left = list(damage)
    for edit in damage:
        fewer = [one for one in left if one is not edit]
        files = apply_edits(found, fewer, sound)
        answer, same = reader.execute(files)
        if same == wrong:
            left, best = fewer, (files, answer)
    return best


# -- in the process that watches


def _kept(name: str) -> list[Path]:
    """Return the inputs of a target that were finds once."""
    return sorted((KEPT / name.replace(" ", "-")).glob("*/"))


def keep_find(folder: Path, files: Mapping[str, bytes], wrong: str, about: str) -> bool:
    """Keep an input and what it did; tell whether it is the first of its kind."""
    own = folder / f"{re.sub('[^a-zA-Z0-9]+', '-', wrong)[:50]}-{_short(wrong)}"
    if own.exists():
        return False
    own.mkdir(parents=True)
    _write(files, own / "input")
    (own / "about.txt").write_text(f"{wrong}\n{about}", encoding="utf-8", errors="replace")
    return True


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def watch(name: str, seed: int, seconds: float, corpus: Path, keep: Path) -> Counts:
    """Let a process read for so long, or until it dies or hangs; return what it did."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as place:
        box = Path(place)
        (box / "counts").write_bytes(_COUNTS.pack(*Counts().values))
        # Forked, as torch takes longer to import than many a reader is given.
        process = multiprocessing.get_context("fork").Process(
            target=_begin, args=(name, seed, seconds, box, corpus)
        )
        process.start()
        wrong = _wait(process, TARGETS[name].seconds, box)
        counts = Counts(*_COUNTS.unpack((box / "counts").read_bytes()))
        if wrong:
            about = (box / "trace").read_text() or (box / "said").read_text()[-4000:]
            about = about or "nothing was said"
            found = files_of(box / "input")
            counts.finds += keep_find(box / "finds", found, f"{wrong} {_frame(about)}", about)
        for each in sorted((box / "finds").glob("*/")):
            target = keep / name.replace(" ", "-") / each.name
            if not target.exists():
                shutil.copytree(each, target)
                print(f"find: {name}: {(each / 'about.txt').read_text()[:300]!r}", flush=True)
    return counts


def _begin(name: str, seed: int, seconds: float, box: Path, corpus: Path) -> None:
    said = os.open(box / "said", os.O_WRONLY | os.O_CREAT)
    os.dup2(said, 1)
    os.dup2(said, 2)
    for what in ("CACHE", "MODELS", "ANNOTATIONS"):
        os.environ[f"NAPARI_SPARSEATTN_{what}"] = str(box / what.lower())
    read_damaged(name, seed, seconds, box, corpus)
    os._exit(0)


def _wait(process: Any, most: float, box: Path) -> str:
    """Wait for the end of a process; return what is wrong with it, if anything."""
    count, at, cpu = -1, time.monotonic(), 0.0
    while process.exitcode is None:
        process.join(0.2)
        now = Counts(*_COUNTS.unpack((box / "counts").read_bytes())).inputs
        if now != count:
            count, at, cpu = now, time.monotonic(), _processor_seconds(process.pid)
            continue
        # Where others need the processor too, seconds of the clock say little.
        busy, waited = _processor_seconds(process.pid) - cpu, time.monotonic() - at
        if count > 0 and (busy > most or waited > 8 * most):
            os.kill(process.pid, signal.SIGUSR1)
            process.join(1)
            process.kill()
            process.join()
            return f"hangs for over {most:.0f} s"
    code = process.exitcode
    return "" if code == 0 else f"dies of {-code}" if code < 0 else f"ends with {code}"


def _processor_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def _frame(about: str) -> str:
    found = re.search(r'File ".*?([^/"]+)", line \d+ in (\w+)', about)
    return "" if found is None else f"{found[1]}:{found[2]}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=120, help="of the clock, in all")
    parser.add_argument("--only", nargs="+", choices=list(TARGETS), default=list(TARGETS))
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--slice", type=float, default=_SLICE, help="of a turn")
    parser.add_argument("--nice", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=ROOT / ".cache/fuzz")
    parser.add_argument("--again", type=Path, help="read the input in this folder, and say so")
    arguments = parser.parse_args()
    if arguments.again:
        print(f"declared: {TARGETS[arguments.only[0]].read(arguments.again)} bytes")
        return 0
    os.nice(arguments.nice)
    return fuzz(arguments.only, arguments.seconds, arguments.slice, arguments.seed, arguments.keep)


def fuzz(names: Sequence[str], seconds: float, turn: float, seed: int, keep: Path) -> int:
    """Let all targets take turns; print what was done; return 1 if anything was found."""
    print(f"seed {seed}, Python {sys.version.split()[0]}, {os.cpu_count()} processors", flush=True)
    end, done = time.monotonic() + seconds, dict.fromkeys(names, Counts())
    number = 0
    with (
        tempfile.TemporaryDirectory(prefix="fuzz-") as place,
        contextlib.suppress(KeyboardInterrupt),
    ):
        while time.monotonic() < end:
            name, left = names[number % len(names)], end - time.monotonic()
            # Of the first round each gets its share of the time, so that none is left out.
            own = min(turn, left / max(1, len(names) - number))
            number += 1
            corpus = Path(place) / name.replace(" ", "-")
            done[name] += watch(name, seed + number, own, corpus, keep)
    print("| reader | inputs | refused | read | processor s | finds |\n|---|---|---|---|---|---|")
    for name, counts in done.items():
        row = (counts.inputs, counts.refused, counts.read, f"{counts.seconds:.0f}", counts.finds)
        print(f"| {name} | {' | '.join(map(str, row))} |")
    total = sum(done.values(), Counts())
    print(f"{total.inputs} inputs in {total.seconds / 3600:.2f} processor hours; "
          f"{total.finds} answers that are finds.", flush=True)  # fmt: skip
    return int(total.finds > 0)


if __name__ == "__main__":
    raise SystemExit(main())
