"""Commands that are started twice on one folder, and killed at any moment: the same results.

`python -m benchmarks.faults.starts [STARTS] [KILLS]` runs each of four jobs undisturbed: a study,
one that measures the minima it found, one of two processes, and an import of images. Then it kills
jobs with SIGKILL, SIGTERM or SIGINT at random moments, KILLS times (100 by default), and goes on;
whenever one ends, it begins anew. And it starts studies and imports twice on one folder, 0 to 2 s
apart, STARTS times (50 by default): one has to make it, the other to end with exit code 2 and one
line that says who holds the folder, or to find it done. All ends have to hold what the undisturbed
runs hold, nothing that was finished may be lost or made again, and nothing of those that died may
be left. Kept in `benchmarks/results/starts-cpu.json`.
"""

import collections
import concurrent.futures
import hashlib
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any, NamedTuple

import numpy as np

from benchmarks.faults.folders import mnist_files
from benchmarks.faults.kill import ROOT, free_port
from gapjax import data

_SHORT = ("--epochs", "0.5", "--evaluations", "2", "--no-controls")
_STUDY = ("study", *_SHORT, "--regimes", "SB", "LB")
_SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
_LONGEST = 600.0  # seconds of one run
_KILLED = 40.0  # seconds after which a job that is killed has been killed: some take minutes
_IMAGES = 5000  # of an import: some seconds of work


class Job(NamedTuple):
    """A command that makes a folder.

    Attributes:
        command: its arguments, without the folder.
        option: by which it is told the folder.
        processes: how many make it together.
        finished: files, as patterns, whose content stays once it is there.
    """

    command: tuple[str, ...]
    option: str = "--out"
    processes: int = 1
    finished: tuple[str, ...] = ("regimes/*.json",)


def _jobs(source: pathlib.Path) -> dict[str, Job]:
    one, two = ((*_STUDY, "--seeds", seeds) for seeds in "12")
    return {
        "study": Job(one),
        "landscape": Job((*one, "--landscape"), finished=("regimes/*.json", "landscape/*")),
        "two processes": Job((*two, "--distributed"), processes=2),
        "import": Job(
            ("data", "import", "mine", "--from", str(source)), "--data-dir", finished=("*/*/*",)
        ),
    }


def _start(job: Job, out: pathlib.Path) -> list[subprocess.Popen[str]]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    # Most of a small job is compilation, and what was compiled once may be kept.
    environment["JAX_COMPILATION_CACHE_DIR"] = str(out.parents[1] / "compiled")
    environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    if job.processes > 1:
        environment["JAX_COORDINATOR_ADDRESS"] = f"127.0.0.1:{free_port()}"
        environment["JAX_NUM_PROCESSES"] = str(job.processes)
    return [
        subprocess.Popen(
            [sys.executable, "-m", "gapjax", *job.command, job.option, str(out)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment | {"JAX_PROCESS_ID": str(number)},
        )
        for number in range(job.processes)
    ]


def _told(processes: list[subprocess.Popen[str]]) -> list[str]:
    """The errors of processes that end, read side by side."""
    with concurrent.futures.ThreadPoolExecutor(len(processes)) as pool:
        said = pool.map(lambda process: process.communicate(timeout=_LONGEST)[1], processes)
        errors = list(said)
    for text in errors:
        assert "Traceback" not in text, text
    return errors


def _timeless(value: Any) -> Any:
    """Without what says how long it took."""
    if isinstance(value, dict):
        return {k: _timeless(v) for k, v in value.items() if "seconds" not in k}
    return [_timeless(one) for one in value] if isinstance(value, list) else value


def _result(out: pathlib.Path) -> Any:
    """All that a study found, but how long it took; the examples of a data set that was made."""
    if (out / "results.json").exists():
        return _timeless(json.loads((out / "results.json").read_text()))
    made = data.load("mine", data_dir=out)  # whose files hold an example's fields in any order
    return [
        hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()
        for split in (made.train, made.test)
        for values in (split.images, split.labels)
    ]


def _content(path: pathlib.Path) -> dict[str, Any]:
    """What a file holds: of JSON the fields, to which others may be added as work goes on."""
    if path.suffix != ".json":
        return {"bytes": path.read_bytes()}
    return {name: value for name, value in json.loads(path.read_text()).items() if name != "seal"}


def _leftovers(out: pathlib.Path) -> list[str]:
    """What is beside the folder and hidden: of those who died."""
    return sorted(path.name for path in out.parent.glob(".*"))


def start_twice(job: Job, out: pathlib.Path, apart: float) -> str:
    """Start a job twice on one folder; what became of the second.

    Raises:
        AssertionError: none has made it, or one ended in another way than said.
    """
    first = _start(job, out)
    time.sleep(apart)
    both = [*first, *_start(job, out)]
    said = _told(both)
    codes = sorted(process.returncode for process in both)
    assert codes in ([0, 0], [0, 2]), (codes, said)
    if codes == [0, 0]:
        return "found it done"
    (errors,) = [e for process, e in zip(both, said, strict=True) if process.returncode == 2]
    (line,) = re.findall("gapjax: .*", errors)
    if re.search("is written to by process .* since ", line):
        return "told who holds it"
    assert "is there already" in line, line
    return "told that it is there"


def kill(job: Job, out: pathlib.Path, after: float, how: signal.Signals) -> tuple[bool, int]:
    """Start a job and kill it after so many seconds; whether it had ended, and what was finished.

    Raises:
        AssertionError: what was finished before is gone or made again, or a signal was answered in
            another way than said.
    """
    done = {path: _content(path) for glob in job.finished for path in out.glob(glob)}
    processes, end = _start(job, out), time.monotonic() + after
    try:
        for process in processes:
            process.wait(timeout=max(0.0, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        for process in processes:  # all of them, as a scheduler does
            process.send_signal(how)
    for process, errors in zip(processes, _told(processes), strict=True):
        for path in done:
            assert f"train {path.stem}:" not in errors, errors
        if process.returncode and how != signal.SIGKILL:
            assert process.returncode in (128 + how, -how), (process.returncode, errors)
    for path, content in done.items():
        now = _content(path)
        assert {name: now.get(name) for name in content} == content, f"{path} changed"
    return not any(process.returncode for process in processes), len(done)


def kill_until(
    job: Job, out: pathlib.Path, wanted: Any, longest: float, count: int, rng: random.Random
) -> list[dict[str, Any]]:
    """Kill a job so often, going on each time; at each end hold it against what is wanted."""
    moments: list[dict[str, Any]] = []
    while len(moments) < count:
        how, after = rng.choice(_SIGNALS), rng.uniform(0.2, min(longest, _KILLED))
        ended, before = kill(job, out, after, how)
        if not ended:
            moments.append({"signal": how.name, "seconds": round(after, 2), "finished": before})
        if ended or len(moments) == count:
            while not ended:
                ended, _ = kill(job, out, _LONGEST, how)
            assert _result(out) == wanted, f"{out}: another result after kills"
            assert not _leftovers(out), _leftovers(out)
            shutil.rmtree(out)
    return moments


def main(starts: int, kills: int) -> dict[str, Any]:
    """Start twice and kill, so many times over all jobs."""
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        (folder / "images").mkdir()
        noise = mnist_files(np.random.default_rng(0), _IMAGES, _IMAGES // 10, side=28, classes=10)
        for file, content in noise.items():
            (folder / "images" / file).write_bytes(content)
        jobs, wanted, seconds = _jobs(folder / "images"), {}, {}
        for name, job in jobs.items():
            out = folder / f"whole {name}" / "out"
            out.parent.mkdir()
            begun = time.monotonic()
            ended, _ = kill(job, out, _LONGEST, signal.SIGKILL)
            assert ended, f"{name} fails undisturbed"
            wanted[name], seconds[name] = _result(out), time.monotonic() - begun
            print(f"{name}: {seconds[name]:.1f} s undisturbed", flush=True)
        killed = {}
        for number, (name, job) in enumerate(jobs.items()):
            share = (kills + number) // len(jobs)  # so that they add up to all
            out = folder / f"killed {name}" / "out"
            out.parent.mkdir()
            killed[name] = kill_until(job, out, wanted[name], seconds[name], share, rng)
            print(f"{name}: killed {share} times", flush=True)
        twice: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        for number in range(starts):
            name = "import" if number % 5 == 4 else "study"
            out = folder / f"twice {number}" / "out"
            out.parent.mkdir()
            twice[name][start_twice(jobs[name], out, rng.uniform(0, 2))] += 1
            assert _result(out) == wanted[name], f"{name}: another result after two starts"
            assert not _leftovers(out), _leftovers(out)
            shutil.rmtree(out)
        print({name: dict(told) for name, told in twice.items()}, flush=True)
    return {
        "seconds undisturbed, compilation and all": {
            name: round(value, 1) for name, value in seconds.items()
        },
        "double starts": {name: dict(told) for name, told in twice.items()},
        "kills": {name: len(moments) for name, moments in killed.items()},
        "moments": killed,
    }


if __name__ == "__main__":
    from benchmarks.speed.timing import keep

    given = [int(text) for text in sys.argv[1:3]]
    figures = main(*(given + [50, 100][len(given) :]))
    print({name: value for name, value in figures.items() if name != "moments"})
    print(f"kept in {keep('starts', figures)}")
