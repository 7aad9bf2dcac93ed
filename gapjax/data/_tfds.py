"""What the loader and the importer need of TFDS, which is never asked for TensorFlow."""

import contextlib
import functools
import io
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from gapjax import _checks, _outside
from gapjax._seal import check_files

NAMES = (".txt",)  # files with the names of classes
SEAL = "gapjax.checksums"  # of those
EMBEDDED = ("digits", "pydoc")
_NAME = re.compile(r"([a-z][a-z0-9_]*)(?:/([\w.+-]+))?(?::([\w.*]+))?")


class Name(NamedTuple):
    """A name as TFDS takes them: ``name``, ``name/config``, ``name:version``."""

    base: str
    config: str | None
    version: str | None


def known_names() -> list[str]:
    """The data sets that TFDS has a builder for."""
    import tensorflow_datasets as tfds

    return tfds.list_builders(with_community_datasets=False)


def parse_name(name: Any) -> Name:
    """The parts of a name; the nearest names are suggested for what is none."""
    found = _NAME.fullmatch(name) if isinstance(name, str) else None
    if found is None:
        near = _checks.near_matches(str(name)[:100].lower(), [*EMBEDDED, *known_names()])
        raise ValueError(
            f"{name!r} is not the name of a data set; names are lower-case words joined by "
            f"underscores, such as 'fashion_mnist'.{near}"
        )
    return Name(*found.groups())


def prepared_names(folder: pathlib.Path) -> list[str]:
    """The data sets that lie prepared in a folder."""
    with contextlib.suppress(OSError):
        return sorted(path.name for path in folder.iterdir() if _prepared_in(path))
    return []


def find_prepared(name: Name, folder: pathlib.Path) -> pathlib.Path | None:
    """Where a data set lies prepared: its newest version, unless one is named.

    Raises:
        ValueError: several configurations lie there, and none is named.
    """
    place = folder / name.base
    if name.config is not None:
        return _newest(place / name.config, name.version)
    if (here := _newest(place, name.version)) is not None:
        return here
    inner = {path.name: found for path in _folders(place) if (found := _newest(path, name.version))}
    if len(inner) > 1:
        raise ValueError(
            f"{name.base} lies in {folder} in several configurations; name one, such as "
            f"{f'{name.base}/{min(inner)}'!r}. There are {', '.join(sorted(inner))}."
        )
    return next(iter(inner.values()), None)


def _prepared_in(place: pathlib.Path) -> bool:
    return any(_newest(path) is not None for path in (place, *_folders(place)))


def _folders(place: pathlib.Path) -> list[pathlib.Path]:
    with contextlib.suppress(OSError):
        return sorted(path for path in place.iterdir() if path.is_dir())
    return []


def _newest(place: pathlib.Path, version: str | None = None) -> pathlib.Path | None:
    """The folder of the newest version in a place, or of one that fits such as ``3.*.*``."""
    pattern = re.escape(version).replace(r"\*", r"\d+") if version else r"\d+\.\d+\.\d+"
    fits = [
        path
        for path in _folders(place)
        if re.fullmatch(pattern, path.name) and (path / "dataset_info.json").exists()
    ]
    numbers = {path: [int(part) for part in re.findall(r"\d+", path.name)] for path in fits}
    return max(fits, key=numbers.__getitem__, default=None)


def open_prepared(place: pathlib.Path) -> Any:
    """A TFDS builder that reads what lies prepared in a folder.

    Raises:
        ValueError: what describes it is damaged, or asks for a feature that TFDS has not.
    """
    import tensorflow_datasets as tfds

    for file in sorted(place.glob("*")):
        if file.suffix in (".json", ".txt"):
            _check_description(file)
    if (place / SEAL).exists():  # by our own import: TFDS itself keeps no checksum of names
        try:
            check_files(place, name=SEAL, suffixes=NAMES)
        except ValueError as error:
            raise ValueError(f"{error} Remove {place} and import it again.") from None
    with _in_one_line(f"{place} cannot be read"):
        builder = tfds.builder_from_directory(str(place))
        splits = builder.info.splits
        if not splits:
            raise ValueError("dataset_info.json names no splits")
        return builder


def _check_description(file: pathlib.Path) -> None:
    """A file that TFDS will read: no larger than any, naming no class but TFDS's own features.

    TFDS imports the module of whatever class is named.
    """
    if file.suffix == ".txt":
        _outside.read_file(file, limit=_outside.JSON)
        return
    content = _outside.read_json(file)
    if file.name == "features.json":
        for name in _class_names(content):
            if name not in _features():
                raise ValueError(
                    f"{file} asks for {str(name)[:100]!r}, which is no feature of TFDS; only those "
                    "are read."
                )


def _class_names(content: Any) -> Iterator[Any]:
    """The names of classes at any depth of what describes features."""
    todo = [content]
    while todo:
        at = todo.pop()
        if isinstance(at, list):
            todo += at
        elif isinstance(at, dict):
            todo += at.values()
            names = (at.get(key) for key in ("pythonClassName", "python_class_name", "type"))
            yield from (name for name in names if isinstance(name, str))


@functools.cache
def _features() -> frozenset[str]:
    """The features that TFDS has, under each name that its files know them by."""
    import tensorflow_datasets as tfds

    base = tfds.features.FeatureConnector
    kinds = [getattr(tfds.features, name) for name in tfds.features.__all__]
    return frozenset(
        name
        for kind in kinds
        if isinstance(kind, type) and issubclass(kind, base)
        for name in (f"{kind.__module__}.{kind.__name__}", *vars(kind).get("ALIASES", ()))
    )


def stock_builder(name: Name, folder: pathlib.Path) -> Any:
    """The builder that TFDS has for a name, whether its data are there or not.

    Raises:
        ValueError: there is none (the nearest names are suggested), or it needs what is not
            installed.
    """
    known = known_names()
    if name.base not in known:
        raise ValueError(
            f"There is no data set named {name.base!r}, neither in TFDS nor in {folder}; from "
            f"local files it is made by: gapjax data import {name.base} --from DIR."
            + _checks.near_matches(name.base, [*EMBEDDED, *prepared_names(folder), *known])
        )
    import tensorflow_datasets as tfds

    spelled = "".join(_spelled(name))
    with _in_one_line(f"TFDS cannot open {spelled!r}"), _naming_what_is_missing(name.base):
        cls = tfds.builder_cls(name.base)
        _check_config(name, cls)
        return cls(data_dir=os.fspath(folder), config=name.config, version=name.version)


def _check_config(name: Name, cls: Any) -> None:
    """A configuration must be one that TFDS lists, whose own message leaves them out."""
    configs = sorted({config.name for config in cls.builder_configs.values()})
    if name.config is None or name.config in configs:
        return
    if not configs:
        raise ValueError(f"it has no configurations; leave out '/{name.config}'")
    said = ", ".join(configs[:12]) + (", ..." if len(configs) > 12 else "")
    raise ValueError(
        f"it has no configuration {name.config!r}; there are {said}."
        f"{_checks.near_matches(name.config, configs)}"
    )


def info_of(builder: Any) -> Any:
    """What TFDS tells of a data set that is not there."""
    with (
        _in_one_line(f"TFDS cannot describe {builder.name!r}"),
        _naming_what_is_missing(builder.name),
    ):
        info = builder.info
        if info.features is None:
            raise ValueError("it does not say which fields it has")
        return info


def _spelled(name: Name) -> Iterator[str]:
    yield name.base
    if name.config is not None:
        yield f"/{name.config}"
    if name.version is not None:
        yield f":{name.version}"


@contextlib.contextmanager
def _naming_what_is_missing(name: str) -> Iterator[None]:
    """Many builders import what TFDS does not install: TensorFlow, pandas, h5py."""
    try:
        yield
    except ImportError as error:
        missing = getattr(error, "name", None) or str(error).splitlines()[-1]
        raise ValueError(
            f"it needs {missing}, which is not installed here. Prepare it where it is, with `tfds "
            f"build {name}`, and copy the folder here; or import it from local files under a name "
            "of your own"
        ) from error


@contextlib.contextmanager
def _in_one_line(what: str) -> Iterator[None]:
    """Whatever TFDS raises as a ValueError of one line; what it prints about TensorFlow is not."""
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            yield
    except Exception as error:  # builders are code of many hands
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ValueError(f"{what}: {(lines or [type(error).__name__])[0]}") from error
