"""Inputs that were changed at random, by their structure: never a traceback, never a crash.

`python -m benchmarks.faults.fuzz --minutes N` makes one input after the other, each by its target
and its number alone: bytes of archives, images and pickles to import; fields of JSON, sealed again;
options of the command line; files of checkpoints and of prepared data sets, cut, flipped and
swapped. An input passes where it is read, or refused by an error of one line, within two seconds
and a gigabyte, and leaves nothing half written. They run in a process of their own, so that one
that dies is found, too. What fails is added to `seeds.json` beside this file, which the tests run
again; the counts are kept in `benchmarks/results/fuzz-cpu.json`.
"""

import argparse
import collections
import gzip
import io
import json
import pathlib
import pickle
import resource
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import PIL.Image

SEEDS = pathlib.Path(__file__).with_name("seeds.json")
_SECONDS, _MEMORY = 2.0, 2**30
_BATCH = 200  # inputs of one process
Reader = Callable[[np.random.Generator, pathlib.Path], Any]


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """Bytes with something flipped, cut, doubled, swapped or overwritten by a telling number."""
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        if not out:
            break
        at, length = int(rng.integers(len(out))), int(rng.integers(1, 40))
        kind = rng.integers(7)
        if kind == 0:
            out[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            out[at : at + length] = rng.bytes(length)
        elif kind == 2:
            del out[at:]
        elif kind == 3:
            del out[at : at + length]
        elif kind == 4:
            out[at:at] = out[at : at + length] * int(rng.integers(1, 50))
        elif kind == 5:
            number = int(rng.choice([0, 1, 0x7F, 0xFF, 0xFFFF, 2**31 - 1, 2**32 - 1, 2**63]))
            size = int(rng.choice([1, 2, 4, 8]))
            order: Any = rng.choice(["little", "big"])
            out[at : at + size] = (number % 256**size).to_bytes(size, order)
        else:
            other = int(rng.integers(len(out)))
            part = out[other : other + length]
            out[at : at + len(part)] = part
    return bytes(out)


def change_json(value: Any, rng: np.random.Generator) -> Any:
    """JSON with one place somewhere in it missing, doubled or of another kind."""
    places = list(_places(value))
    holder, key = places[int(rng.integers(len(places)))]
    odd = [None, True, -1, 0, 1e308, 10**30, float("nan"), "", "x" * 300, "\ud800", [], {}, [[]]]
    kind = rng.integers(4)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, list):
        holder.insert(key, holder[key])
    elif kind == 2:
        other, name = places[int(rng.integers(len(places)))]
        holder[key] = json.loads(json.dumps(other[name])) if other is not holder else None
    else:
        holder[key] = odd[int(rng.integers(len(odd)))]
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in list(items):
        yield value, key
        if isinstance(inner, dict | list):
            yield from _places(inner)


def _pixels(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (6, 6), np.uint8)


def _encoded(rng: np.random.Generator, kind: str) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(_pixels(rng)).save(file, kind)
    return file.getvalue()


def _tree(rng: np.random.Generator) -> dict[str, bytes]:
    """The files of a small data set of one of the kinds that are imported."""
    kind = rng.integers(4)
    if kind == 0:
        from benchmarks.faults.folders import mnist_files

        return mnist_files(rng, train=20, test=10, side=6, classes=3)
    if kind == 1:
        rows = {b"data": rng.integers(0, 256, (4, 3072), np.uint8), b"labels": [0, 1, 2, 3]}
        names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
        meta = {b"label_names": [b"a", b"b", b"c", b"d"]}
        files = {f"cifar-10-batches-py/{name}": pickle.dumps(rows, 2) for name in names}
        return files | {"cifar-10-batches-py/batches.meta": pickle.dumps(meta, 2)}
    if kind == 2:
        names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
        return {f"cifar-10-batches-bin/{name}": b"\1" + rng.bytes(3072) for name in names}
    formats = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
    return {
        f"{split}/{label}/{i}.{kind.lower()}": _encoded(rng, kind)
        for split in ("train", "test")
        for label in "ab"
        for i, kind in enumerate(rng.choice(formats, 2))
    }


def _packed(files: dict[str, bytes], how: str) -> bytes:
    out = io.BytesIO()
    if how == "zip":
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                if name:  # a zip file has no place for nothing
                    archive.writestr(name, content)
    else:
        with tarfile.open(fileobj=out, mode=f"w:{how}") as tar:
            for name, content in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def _import_files(rng: np.random.Generator, place: pathlib.Path) -> None:
    """A folder of which some files were changed."""
    from gapjax import data

    files = _tree(rng)
    for name in rng.choice(sorted(files), int(rng.integers(1, 3))):
        files[name] = mutate(files[name], rng)
        if rng.random() < 0.2:
            files[name] = gzip.compress(files[name])
    for name, content in files.items():
        path = place / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    _nothing_left(lambda: data.import_local("mine", place / "in", data_dir=place / "out"), place)


def _import_archive(rng: np.random.Generator, place: pathlib.Path) -> None:
    """An archive that was changed after it was packed, or whose names were."""
    from gapjax import data

    files = _tree(rng)
    if rng.random() < 0.3:
        name = str(rng.choice(sorted(files)))
        odd = rng.choice(["../x", "/etc/x", "a//b", "", ".", "a" * 300, "\u202ex", "con\n", "-r"])
        files[str(odd)] = files.pop(name)
    how = str(rng.choice(["zip", "gz", "xz", "bz2", ""]))
    content = _packed(files, how)
    if rng.random() < 0.8:
        content = mutate(content, rng)
    path = place / f"x.{'zip' if how == 'zip' else 'tar'}"
    path.write_bytes(content)
    _nothing_left(lambda: data.import_local("mine", path, data_dir=place / "out"), place)


def _nothing_left(action: Callable[[], Any], place: pathlib.Path) -> None:
    try:
        action()
    except Exception:
        left = [path for path in (place / "out").rglob("*") if path.is_file()]
        left += [path for path in place.glob(".gapjax-*") if not path.name.endswith(".lock")]
        assert not left, f"left behind: {left}"
        raise


def _options(rng: np.random.Generator, place: pathlib.Path) -> None:
    """Options of a study, with values that are odd, up to the study itself."""
    import dataclasses

    from gapjax import _commands, _options, study

    odd = [
        "",
        "x",
        "0",
        "-1",
        "1e39",
        "nan",
        "inf",
        "1.5",
        "3",
        "True",
        "SB",
        "LB+LR",
        "a b",
        "\ud800",
    ]
    names = [field.name.replace("_", "-") for field in dataclasses.fields(study.Study)]
    names += ["out", "wait", "repair", "landscape", "seed", "x" * 50, ""]
    arguments = []
    for _ in range(int(rng.integers(1, 6))):
        arguments.append(f"--{rng.choice(names)}")
        arguments += [str(v) for v in rng.choice(odd, int(rng.integers(0, 3)))]
    if {"--help", "-h"} & {*arguments}:
        return
    fields = _options.fields_of(study.preset("digits"), _commands._RUN, about="A study.")
    values = vars(_options.parse(fields, arguments, prog="gapjax study [PRESET]"))
    study.Study(**{name: values[name] for name in values if name not in _commands._RUN})


def _record(rng: np.random.Generator, place: pathlib.Path) -> None:
    """A study's folder of which the JSON was changed and sealed again."""
    from gapjax import study
    from gapjax._seal import seal

    folder = place / "study"
    shutil.copytree(_made() / "study", folder)
    path = folder / str(rng.choice(["config.json", "regimes/LB.json", "convex.json"]))
    if rng.random() < 0.3:
        path.write_bytes(mutate(path.read_bytes(), rng))
    else:
        value = json.loads(path.read_text())
        value.pop("seal")
        path.write_text(json.dumps(seal(change_json(value, rng))))
    study.load_result(folder)


def _damaged(kind: str) -> Reader:
    """A folder of a kind (`folders.py`) of which files were changed, swapped or taken away."""

    def read(rng: np.random.Generator, place: pathlib.Path) -> None:
        from benchmarks.faults import folders

        made = folders.reopen(kind, _made(), place)
        files = sorted(p for p in made.folder.rglob("*") if p.is_file())
        path = files[int(rng.integers(len(files)))]
        action = rng.integers(5)
        if action == 0:
            path.unlink()
        elif action == 1:
            shutil.copy(files[int(rng.integers(len(files)))], place / "other")
            shutil.move(place / "other", path)
        else:
            path.write_bytes(mutate(path.read_bytes(), rng))
        with folders.quiet():
            made.read()

    return read


TARGETS: dict[str, Reader] = {
    "files": _import_files,
    "archive": _import_archive,
    "options": _options,
    "record": _record,
    "checkpoints": _damaged("checkpoints"),
    "tree": _damaged("tree"),
    "tfrecord": _damaged("tfrecord"),
    "array_record": _damaged("array_record"),
}

_MADE: list[pathlib.Path] = []


def _made() -> pathlib.Path:
    """The folders that are copied and changed; written once by the process that starts all."""
    return _MADE[0]


def run(target: str, number: int) -> str | None:
    """Make one input and have it read; what is wrong with what came of it, or None."""
    rng = np.random.default_rng([list(TARGETS).index(target), number])
    with tempfile.TemporaryDirectory() as folder:
        start, said = time.process_time(), None
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            TARGETS[target](rng, pathlib.Path(folder))
        except (ValueError, OSError) as error:
            if "\n" in str(error):
                said = f"several lines: {str(error)[:200]!r}"
        except Exception as error:
            said = f"{type(error).__name__}: {str(error)[:200]}"
        if time.process_time() - start > _SECONDS:
            said = said or f"took {time.process_time() - start:.1f} s"
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        if grown * 1024 > _MEMORY:
            said = said or f"took {grown // 1024} MiB"
    return said


def _worker(made: str, target: str, first: int, count: int) -> None:
    """Run inputs of a target, and say of each what came of it, before the next begins."""
    _MADE.append(pathlib.Path(made))
    out = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stdout = sys.stderr
    run(target, first)  # once for what is imported, and its time
    for number in range(first, first + count):
        print(json.dumps([number, run(target, number)]), file=out, flush=True)


def _batch(made: pathlib.Path, target: str, first: int, count: int) -> Iterator[tuple[int, Any]]:
    """What came of inputs that ran in a process of their own; one that kills it is found."""
    command = [sys.executable, "-m", "benchmarks.faults.fuzz", "--worker"]
    done = subprocess.run(
        [*command, str(made), target, str(first), str(count)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        timeout=60 + 5 * count,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    yield from lines
    if done.returncode:
        yield first + len(lines), f"the process died ({done.returncode})"


def main(minutes: float) -> dict[str, Any]:
    """Fuzz for so many minutes; the counts, and what was found."""
    from benchmarks.faults import folders

    counts: collections.Counter[str] = collections.Counter()
    found: list[list[Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        made = pathlib.Path(scratch) / "made"
        folders.make(made)
        end, first = time.monotonic() + 60 * minutes, 0
        while time.monotonic() < end:
            for target in TARGETS:
                for number, said in _batch(made, target, first, _BATCH):
                    counts[target] += 1
                    if said is not None:
                        found.append([target, number, said])
                        print(target, number, said)
                if time.monotonic() > end:
                    break
            first += _BATCH
    if found:
        kept = json.loads(SEEDS.read_text()) if SEEDS.exists() else []
        new = [[target, number] for target, number, _ in found]
        SEEDS.write_text(json.dumps([*kept, *(n for n in new if n not in kept)]) + "\n")
    return {"inputs": sum(counts.values()), "by_target": dict(counts), "found": found}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        _worker(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
    else:
        parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
        parser.add_argument("--minutes", type=float, default=10.0)
        from benchmarks.speed.timing import keep

        figures = main(parser.parse_args().minutes)
        print(figures["inputs"], "inputs,", len(figures["found"]), "failed")
        print(f"kept in {keep('fuzz', figures)}")
