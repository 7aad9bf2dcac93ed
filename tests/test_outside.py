import bz2
import gzip
import lzma
import os
import socket
import zlib

import numpy as np
import pytest

from gapjax import _outside


def _fifo(path):
    os.mkfifo(path)


def _socket(path):
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(path))
    made.close()


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (_fifo, "a FIFO"),
        (_socket, "a socket"),
        (lambda path: path.mkdir(), "a folder"),
        (lambda path: path.symlink_to("/dev/zero"), "a device"),
        (lambda path: (_fifo(path.with_name("f")), path.symlink_to("f")), "a FIFO"),
    ],
)
def test_only_regular_files_are_opened(tmp_path, monkeypatch, make, kind):
    monkeypatch.chdir(tmp_path)  # the address of a socket is short
    path = tmp_path / "x"
    make(path.relative_to(tmp_path) if make is _socket else path)
    for read in (_outside.open_regular, _outside.read_file, _outside.read_json):
        with pytest.raises(ValueError, match=f"x is {kind}, not a regular file"):
            read(path)


def test_links_to_regular_files_are_followed(tmp_path):
    (tmp_path / "a").write_bytes(b"content")
    (tmp_path / "b").symlink_to("a")
    assert _outside.read_file(tmp_path / "b") == b"content"


def test_a_file_is_read_up_to_a_limit(tmp_path):
    path = tmp_path / "x"
    with path.open("wb") as stream:
        stream.truncate(1 << 40)  # it holds nothing and is a TiB long
    with pytest.raises(ValueError, match=r"x holds 1.0 TiB; at most 640.0 MiB"):
        _outside.read_file(path)
    with pytest.raises(ValueError, match=r"x holds 1.0 TiB; at most 16.0 MiB"):
        _outside.read_json(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested too deep"),
        ('{"a": NaN}', "NaN is no number of JSON"),
        ("[-Infinity]", "-Infinity is no number"),
        ('{"a": ', "is no JSON"),
        ("", "is no JSON"),
        (b"\xff\xfe\xfa", "is no JSON"),
        ("1" * 10_000, "is no JSON"),
    ],
)
def test_what_is_no_json_is_named(tmp_path, text, message):
    path = tmp_path / "x.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message) as caught:
        _outside.read_json(path)
    assert "x.json" in str(caught.value)


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_compressed_files_are_unpacked_as_they_are_read(tmp_path, pack):
    content = np.random.default_rng(0).bytes(3_000_000)
    path = tmp_path / "x"
    path.write_bytes(pack(content))
    with _outside.open_unpacked(path) as stream:
        assert _outside.read_at_most(stream, 10) == content[:10]
        assert _outside.read_at_most(stream, 1 << 60) == content[10:]
    if pack is bytes:
        return
    path.write_bytes(pack(content[:1000]) + pack(content[1000:]))
    with _outside.open_unpacked(path) as stream:
        assert _outside.read_at_most(stream, 1 << 60) == content
    path.write_bytes(pack(content)[:-500])
    with pytest.raises((EOFError, ValueError)), _outside.open_unpacked(path) as stream:
        _outside.read_at_most(stream, 1 << 60)


def test_unpacking_xz_takes_bounded_memory(tmp_path):
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 1, "dict_size": 1 << 29}]
    path = tmp_path / "x"
    head = lzma.compress(b"content", filters=[filters[0] | {"dict_size": 1 << 20}])
    path.write_bytes(head)
    with _outside.open_unpacked(path) as stream:
        assert stream.read() == b"content"
    with lzma.open(path, "wb", filters=[filters[0] | {"dict_size": 1 << 20}]) as out:
        out.write(b"content")
    # a header that asks for a dictionary of 512 MiB: its size is one byte, with a checksum behind
    content = bytearray(path.read_bytes())
    block = content[12 : 12 + 4 * (content[12] + 1)]
    place = bytes(block).index(b"\x21\x01") + 2
    block[place] = 34
    block[-4:] = zlib.crc32(bytes(block[:-4])).to_bytes(4, "little")
    content[12 : 12 + len(block)] = block
    path.write_bytes(content)
    with (
        pytest.raises(ValueError, match="Memory usage limit"),
        _outside.open_unpacked(path) as stream,
    ):
        stream.read()
