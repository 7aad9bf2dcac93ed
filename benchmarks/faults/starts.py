"""Commands that are started twice on one folder, and killed at any moment: the same numbers.

`python -m benchmarks.faults.starts [STARTS] [KILLS]` runs a small study undisturbed; then starts it
twice on one folder, 0 to 2 s apart, STARTS times (50 by default): one has to train it, the other to
end with exit code 2 and one line that says who holds the folder, or to find it done. Then it kills
the study with SIGKILL, SIGTERM or SIGINT at random moments, KILLS times (100 by default), and goes
on; whenever it ends, it begins anew. All ends have to hold the numbers of the undisturbed run, and
no regime that was finished may be trained again. Kept in `benchmarks/results/starts-cpu.json`.
"""

import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

ROOT = pathlib.Path(__file__).parent.parent.parent
_STUDY = ("--seeds", "1", "--epochs", "0.5", "--evaluations", "2", "--no-controls")
_SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
_LONGEST = 600.0  # seconds of one run


def _start(out: pathlib.Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "gapjax", "study", *_STUDY, "--regimes", "SB", "LB"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    return subprocess.Popen(
        [*command, "--out", str(out), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def _numbers(out: pathlib.Path) -> Any:
    """All that a study found, but how long it took."""
    found = json.loads((out / "results.json").read_text())
    for regime in found["regimes"].values():
        regime.pop("seconds")
    return {name: found[name] for name in ("finding", "gap", "comparisons", "regimes")}


def _told(process: subprocess.Popen[str]) -> str:
    _, errors = process.communicate(timeout=_LONGEST)
    assert "Traceback" not in errors, errors
    return errors


def double_starts(folder: pathlib.Path, count: int, rng: random.Random) -> Iterator[str]:
    """Start twice at once; what became of the second.

    Raises:
        AssertionError: neither trained it, or one ended in another way than said.
    """
    for number in range(count):
        out = folder / str(number)
        first = _start(out)
        time.sleep(rng.uniform(0, 2))
        both = (first, _start(out))
        said = [_told(process) for process in both]
        codes = sorted(process.returncode for process in both)
        assert codes in ([0, 0], [0, 2]), (codes, said)
        for process, errors in zip(both, said, strict=True):
            if process.returncode == 2:
                (line,) = [x for x in errors.splitlines() if x.startswith("gapjax: ")]
                assert "is written to by process" in line, line
                assert " since " in line, line
        yield "refused" if codes == [0, 2] else "found it done"


def kills(folder: pathlib.Path, count: int, rng: random.Random) -> Iterator[dict[str, Any]]:
    """Kill a study at random moments and go on; what each run had before it died.

    Raises:
        AssertionError: a regime that was finished is gone or trained again, or a signal was
            answered in another way than said.
    """
    out, whole = folder / "killed", 20.0
    for _ in range(count):
        done = {path: path.read_bytes() for path in (out / "regimes").glob("*.json")}
        begun, how = time.monotonic(), rng.choice(_SIGNALS)
        process = _start(out)
        try:
            process.wait(timeout=rng.uniform(0.2, whole))
        except subprocess.TimeoutExpired:
            process.send_signal(how)
        errors = _told(process)
        for path, content in done.items():
            assert path.read_bytes() == content, f"{path} changed"
            assert f"train {path.stem}:" not in errors, errors
        ended = process.returncode == 0
        if ended:
            whole = time.monotonic() - begun
        elif how != signal.SIGKILL:
            assert process.returncode in (128 + how, -how), (process.returncode, errors)
        yield {"signal": how.name, "ended": ended, "finished before": len(done)}
        if ended:
            yield {"numbers": _numbers(out)}
            shutil.rmtree(out)


def main(starts: int, dead: int) -> dict[str, Any]:
    """Start twice and kill, so many times each."""
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        undisturbed = _start(folder / "whole")
        errors = _told(undisturbed)
        assert undisturbed.returncode == 0, errors
        wanted = _numbers(folder / "whole")
        twice = list(double_starts(folder, starts, rng))
        for number in range(starts):
            assert _numbers(folder / str(number)) == wanted, "other numbers"
        killed = list(kills(folder, dead, rng))
    ends = [one["numbers"] for one in killed if "numbers" in one]
    assert all(end == wanted for end in ends), "other numbers after kills"
    moments = [one for one in killed if "signal" in one]
    return {
        "double starts": {what: twice.count(what) for what in sorted({*twice})},
        "kills": len(moments),
        "ended": len(ends),
        "moments": moments,
    }


if __name__ == "__main__":
    from benchmarks.speed.timing import keep

    given = [int(text) for text in sys.argv[1:3]]
    figures = main(*(given + [50, 100][len(given) :]))
    print({name: value for name, value in figures.items() if name != "moments"})
    print(f"kept in {keep('starts', figures)}")
