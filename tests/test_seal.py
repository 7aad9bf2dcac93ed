import json

import pytest

from gapjax._seal import check_files, checksum_of, is_sealed, seal, seal_files


def test_json_that_is_whole():
    about = seal({"a": 1, "b": [1, 2]})
    assert is_sealed(json.loads(json.dumps(about))) and not is_sealed({**about, "a": 2})
    assert not is_sealed({"a": 1}) and not is_sealed([1]) and not is_sealed(None)


def _folder(tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "below" / "b").write_bytes(b"two")
    seal_files(tmp_path)
    check_files(tmp_path)
    return tmp_path


def test_any_bit_of_any_file_is_noticed(tmp_path):
    folder = _folder(tmp_path)
    for path in (folder / "a", folder / "below" / "b", folder / "checksums.json"):
        data = path.read_bytes()
        for bit in range(0, 8 * len(data), 5):
            byte, place = bit // 8, bit % 8
            path.write_bytes(data[:byte] + bytes([data[byte] ^ 1 << place]) + data[byte + 1 :])
            with pytest.raises(ValueError, match=rf"{path.name}: (checksum differs|these are)"):
                check_files(folder)
        path.write_bytes(data)
    check_files(folder)


def test_files_that_are_missing_or_too_many_are_named(tmp_path):
    folder = _folder(tmp_path)
    (folder / "c").touch()
    with pytest.raises(ValueError, match=r"/c: was not there before"):
        check_files(folder)
    (folder / "c").unlink()
    (folder / "below" / "b").unlink()
    with pytest.raises(ValueError, match=r"below/b: is missing"):
        check_files(folder)
    (folder / "checksums.json").unlink()
    with pytest.raises(ValueError, match=r"checksums.json: these are no checksums"):
        check_files(folder)


def test_the_checksum_of_a_file(tmp_path):
    (tmp_path / "a").write_bytes(b"one")
    first = checksum_of(tmp_path / "a")
    (tmp_path / "a").write_bytes(b"onf")
    assert len(first) == 32 and checksum_of(tmp_path / "a") != first
