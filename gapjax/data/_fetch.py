"""Getting a data set that is not there yet; without a network, saying so within seconds."""

import hashlib
import pathlib
import tempfile
import threading
import urllib.request
from typing import Any

from gapjax.data import _import, _tfds
from gapjax.data._fields import class_fields
from gapjax.data._known import FETCHABLE
from gapjax.data._workplace import leaving_on_sigterm

_PATIENCE = 10.0  # seconds to wait for an answer, name look-up included


def prepare(name: str, builder: Any, folder: pathlib.Path) -> None:
    """Download and prepare a data set, or raise a ValueError with the command to use instead."""
    base = _tfds.parse_name(name).base
    if base not in FETCHABLE:
        raise ValueError(f"{name} is not in {folder}, and {_why_not(name, builder)}")
    urls = dict(builder.url_infos)
    problem = _unreachable(next(iter(urls)))
    if problem:
        raise ValueError(_remedy(name, folder, problem))
    with (
        leaving_on_sigterm(),
        tempfile.TemporaryDirectory(prefix="gapjax-fetch-") as scratch,
    ):
        for url, info in urls.items():
            _download(name, url, info, pathlib.Path(scratch), folder)
        # without the version: of these sets TFDS has one, and `builder` was made for it
        _import.import_local(base, scratch, data_dir=folder)


def _why_not(name: str, builder: Any) -> str:
    """Why a data set cannot be prepared here, and what can be done instead."""
    try:
        class_fields(name, _tfds.info_of(builder))
    except ValueError as error:
        return f"could not be read if it were: {error}"
    manual = getattr(builder, "MANUAL_DOWNLOAD_INSTRUCTIONS", None)
    why = (
        "its files must be downloaded by hand, then prepared with TensorFlow"
        if manual
        else "to prepare it TensorFlow is needed"
    )
    build = f"tfds build {name} --file_format=array_record"
    return (
        f"{why}, once and on any machine: `{build}`, and the folder copied here. "
        f"Or import it from local files: {_command(name)}"
    )


def _command(name: str) -> str:
    """What imports a set; the version is that of TFDS, so it is left out."""
    return f"gapjax data import {name.partition(':')[0]} --from DIR"


def _remedy(name: str, folder: pathlib.Path, problem: str) -> str:
    return (
        f"{name} is not in {folder} and cannot be fetched ({problem}). Get its files another way "
        f"and import them: {_command(name)}"
    )


def _download(name: str, url: str, info: Any, scratch: pathlib.Path, folder: pathlib.Path) -> None:
    import rich.progress

    digest, target = hashlib.sha256(), scratch / info.filename
    try:
        with (
            urllib.request.urlopen(url, timeout=_PATIENCE) as answer,
            rich.progress.wrap_file(answer, total=info.size, description=info.filename) as stream,
            target.open("wb") as out,
        ):
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
                out.write(chunk)
                if info.size and out.tell() > info.size:
                    break  # its content is another
    except OSError as error:
        raise ValueError(_remedy(name, folder, f"{url}: {error}")) from error
    if info.checksum and digest.hexdigest() != info.checksum:
        raise ValueError(_remedy(name, folder, f"{url} gives a file of another content"))


def _unreachable(url: str) -> str | None:
    """Why an address does not answer, or None; a look-up that hangs is given up too."""
    found: list[str | None] = [f"{url} does not answer"]

    def ask() -> None:
        request = urllib.request.Request(url, headers={"Range": "bytes=0-0"})
        try:
            with urllib.request.urlopen(request, timeout=_PATIENCE / 2):
                found[0] = None
        except OSError as error:
            found[0] = f"{url}: {getattr(error, 'reason', error)}"

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_PATIENCE)
    return found[0]
