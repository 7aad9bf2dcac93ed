"""Text as tokens: windows of bytes, or of what a tokenizer makes of it."""

import functools
import hashlib
import os
import pathlib
import platform
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from gapjax import _checks
from gapjax._paths import local_path
from gapjax.data import _import, _tfds
from gapjax.data._dataset import Dataset
from gapjax.data._fields import TOKENS, VOCABULARY
from gapjax.data._texts import SHARE, Text, read_texts
from gapjax.data._write import make_builder, write_prepared

_BYTES = 256  # the vocabulary of bytes


def windows(tokens: np.ndarray, length: int) -> np.ndarray:
    """A row of tokens as windows that overlap by one, so that each but the first is predicted once.

    Args:
        tokens: ``[n]``.
        length: how many tokens a window predicts, T.

    Returns:
        ``[(n - 1) // T, T + 1]``, a view. What does not fill a window at the end is left out.
    """
    count = max(0, (len(tokens) - 1) // length)
    if not count:
        return np.empty((0, length + 1), tokens.dtype)
    return np.lib.stride_tricks.sliding_window_view(tokens, length + 1)[: count * length : length]


def load_pydoc(sequence_length: int | None = None) -> Dataset:
    """The language reference that comes with every CPython, as bytes.

    The topics of ``pydoc_data.topics`` (what ``help("for")`` shows) are cut into train and test
    whole, by a hash of their names, and joined in the order of their names. An example is a window
    ``tokens [T + 1]``; windows overlap by one byte, so that every byte is predicted once. The text
    differs from version to version of Python, and the name says which it is; ``class_names`` are
    the 256 bytes.
    """
    length = _checks.positive_int(
        "sequence_length", 128 if sequence_length is None else sequence_length
    )
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise ValueError(
            "This Python comes without pydoc_data.topics, the text of pydoc; some distributions "
            "leave it out. Install the documentation package of your distribution, or import text "
            "of your own: gapjax data import text NAME --from DIR."
        ) from error
    parts: dict[str, list[bytes]] = {"train": [], "test": []}
    for name in sorted(topics):
        parts["test" if _is_for_testing(name) else "train"].append(topics[name].encode())
    splits = {}
    for split, texts in parts.items():
        tokens = np.frombuffer(b"".join(texts), np.uint8).astype(np.int32)
        splits[split] = {TOKENS: np.ascontiguousarray(windows(tokens, length))}
        if not len(splits[split][TOKENS]):
            raise ValueError(
                f"sequence_length={length} is longer than the {split} text of {len(tokens)} bytes."
            )
    name = f"pydoc-{platform.python_version()}"
    return Dataset(splits["train"], splits["test"], _byte_names(), name=name, normalize=None)


def _is_for_testing(name: str) -> bool:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") % SHARE == 0


def _byte_names() -> tuple[str, ...]:
    return tuple(map(str, range(_BYTES)))


def import_text(
    name: str,
    source: str | os.PathLike[str],
    *,
    tokenizer: Any = None,
    sequence_length: int = 128,
    data_dir: str | os.PathLike[str] | None = None,
) -> pathlib.Path:
    """Write a standard TFDS folder of text as windows of tokens, for :func:`load`.

    An example is ``{"tokens": [T + 1]}``; windows overlap by one token, so that every token of a
    split is predicted once. Texts of a split are joined in the order of their names. A folder with
    ``train`` and ``test`` (or ``val``) in it is split by them, and one whose files say so in their
    names (``wiki.train.raw`` and ``wiki.test.raw``; a part between ``.``, ``_`` and ``-`` counts)
    by those; what belongs to neither is left out with a warning. Of any other folder one file in
    ten is for testing, by a hash of its name, and of a single file the last tenth.

    Args:
        name: of the data set; one that TFDS does not know.
        source: a text file (also gzip, bzip2 or xz), or a folder or an archive (tar, zip) of them;
            hidden ones are left out.
        tokenizer: None for bytes, of which there are 256. Or a function from text to whole numbers,
            or an object whose ``encode`` is one (what it returns may have them as ``ids``); texts
            are then read as UTF-8. Its ``vocab_size`` or ``get_vocab_size()`` is the vocabulary;
            without either, the largest token and 1.
        sequence_length: how many tokens a window predicts, T.
        data_dir: where prepared data sets lie; the folder of TFDS by default.

    Returns:
        The folder written. ``load(name)`` reads it as int32 tokens, and its ``num_classes`` is the
        vocabulary.

    Raises:
        ValueError: no text, too little of it for one window in each split, a file that is damaged,
            packed otherwise, or no UTF-8 where a tokenizer needs text, tokens that are no whole
            numbers, a name that is taken, or what the disk says.
    """
    place = local_path("source", source)
    folder, parsed = _import.check_target(name, data_dir)
    length = _checks.positive_int("sequence_length", sequence_length)
    if parsed.config is not None or parsed.base in _tfds.known_names():
        raise ValueError(f"{name!r} is a data set of TFDS; import text under a name of your own.")
    tokenize = _tokenizer(tokenizer)
    texts, remarks = read_texts(place)
    tokens = {split: _tokens(files, tokenize) for split, files in texts.items()}
    for split, row in tokens.items():
        if len(row) <= length:
            raise ValueError(
                f"The {split} text of {place} has {len(row)} tokens; sequence_length={length} "
                f"needs at least {length + 1}. Pass a shorter sequence_length, or give more text."
            )
    vocabulary = _vocabulary(tokenizer, tokens.values())

    def make(scratch: pathlib.Path) -> Any:
        import tensorflow_datasets as tfds

        features = {TOKENS: tfds.features.Tensor(shape=(length + 1,), dtype=np.int32)}
        splits = {split: functools.partial(_examples, row, length) for split, row in tokens.items()}
        about = {VOCABULARY: vocabulary}
        return make_builder(parsed.base, None, features, splits, scratch / "prepared", about)

    written = write_prepared(parsed.base, folder, make)
    for remark in remarks:
        warnings.warn(remark)
    return written


def _examples(tokens: np.ndarray, length: int, features: Any) -> Iterator[tuple[int, Any]]:
    del features
    for number, window in enumerate(windows(tokens, length)):
        yield number, {TOKENS: window.astype(np.int32)}


def _tokenizer(tokenizer: Any) -> Callable[[Text], Any] | None:
    """From a text to its tokens; None where they are the same."""
    if tokenizer is None:
        return None
    encode = getattr(tokenizer, "encode", tokenizer)
    if not callable(encode):
        raise ValueError(
            f"tokenizer must be a function from text to whole numbers, or have encode, not "
            f"{tokenizer!r}."
        )

    def tokenize(text: Text) -> Any:
        try:
            content = text.content.decode()
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{text.file} is no UTF-8 (at byte {error.start}), which the tokenizer needs; "
                "convert it, or leave the tokenizer out and take bytes."
            ) from error
        made = encode(content)
        return getattr(made, "ids", made)

    return tokenize


def _tokens(texts: Sequence[Text], tokenize: Callable[[Text], Any] | None) -> np.ndarray:
    if tokenize is None:
        return np.frombuffer(b"".join(text.content for text in texts), np.uint8)
    rows = [np.asarray(tokenize(text)) for text in texts]
    for row in rows:
        if row.size and (row.ndim != 1 or row.dtype.kind not in "iu" or row.min() < 0):
            raise ValueError(
                f"The tokenizer gave {row.dtype} of shape {row.shape}; it must give a list of "
                "whole numbers from 0 on."
            )
        if row.size and row.max() >= 2**31:
            raise ValueError(f"The tokenizer gave {row.max()}, beyond what int32 holds.")
    return np.concatenate([row.astype(np.int32) for row in rows])


def _vocabulary(tokenizer: Any, rows: Any) -> int:
    if tokenizer is None:
        return _BYTES
    largest = max(int(row.max()) for row in rows)
    told = getattr(tokenizer, "vocab_size", None) or getattr(tokenizer, "get_vocab_size", None)
    told = told() if callable(told) else told
    return max(largest + 1, int(told or 0))
