"""All names that TFDS knows: each works, or one line says why not."""

import collections
import re

import pytest

from data import files
from gapjax.data import _fetch, _tfds, import_local, load

# What may be said, as patterns over all names; every name must be one of these.
KINDS = {
    "fetched": "cannot be fetched .no network.*gapjax data import",
    "by hand": "downloaded by hand, then prepared with TensorFlow.*tfds build",
    "with TensorFlow": "to prepare it TensorFlow is needed.*tfds build",
    "not installed": r"TFDS cannot (open|describe).*it needs [\w.]+, which is not installed here",
    "another kind": "could not be read if it were: .*does not consist of examples with class lab",
    "no images": "TFDS keeps .* with the fields .*, not as images with labels",
    "other classes": "has no class 'a'; its classes are",
    "more fields": "needs the field",
    "other sizes": "has 4 x 4 pixels, the data set has",
    "other pixels": "TFDS keeps the images of",
    "a fault of its own": "TFDS cannot (open|describe) ",
}


def _kind(call):
    try:
        call()
    except ValueError as error:
        said = str(error)
    else:
        return "works"
    assert "\n" not in said
    assert len(said) < 800, said
    found = [kind for kind, pattern in KINDS.items() if re.search(pattern, said)]
    assert found, said
    return found[0]


def test_every_name_works_or_says_why_not(tmp_path, monkeypatch):
    monkeypatch.setattr(_fetch, "_unreachable", lambda url: "no network")
    files.write_folders(tmp_path / "in", "ab", shape=(4, 4, 3))
    out = tmp_path / "out"
    names = _tfds.known_names()
    assert len(names) > 200
    kinds = collections.Counter()
    for name in names:
        kinds["load", _kind(lambda name=name: load(name, data_dir=out))] += 1
        imported = _kind(lambda name=name: import_local(name, tmp_path / "in", data_dir=out))
        kinds["import", imported] += 1
    assert not out.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]
    for kind in ("fetched", "by hand", "with TensorFlow", "another kind"):
        assert kinds["load", kind], kinds
    for kind in ("no images", "other classes"):
        assert kinds["import", kind], kinds
    assert kinds["load", "fetched"] == len(_fetch.FETCHABLE)


def test_the_names_of_what_lies_there_are_near_matches(tmp_path):
    files.write_idx(tmp_path / "in", side=4)
    import_local("my_shapes", tmp_path / "in", data_dir=tmp_path / "out")
    with pytest.raises(ValueError, match=r"no data set named.* Did you mean 'my_shapes'"):
        load("my_shape", data_dir=tmp_path / "out")
    with pytest.raises(ValueError, match="Did you mean 'pydoc'"):
        load("pydocs", data_dir=tmp_path / "out")


def test_the_newest_version_is_read_unless_one_is_named(tmp_path):
    out = tmp_path / "out"
    for count, version in ((20, "1.0.0"), (21, "1.0.10"), (22, "1.0.9")):
        files.write_idx(tmp_path / version, train=count, side=4)
        written = import_local("shapes", tmp_path / version, data_dir=out)
        about = written / "dataset_info.json"
        about.write_text(about.read_text().replace('"1.0.0"', f'"{version}"'))
        written.rename(out / "shapes" / ("kept" + version))
    for version in ("1.0.0", "1.0.10", "1.0.9"):
        (out / "shapes" / ("kept" + version)).rename(out / "shapes" / version)
    assert len(load("shapes", data_dir=out).train) == 21
    assert len(load("shapes:1.0.9", data_dir=out).train) == 22
    assert len(load("shapes:1.0.*", data_dir=out).train) == 21
    with pytest.raises(ValueError, match="no data set named 'shapes'"):
        load("shapes:2.0.0", data_dir=out)


def test_a_configuration_is_named_where_there_are_several(tmp_path):
    out = tmp_path / "out"
    for config in ("small", "large"):
        files.write_idx(tmp_path / config, side=4)
        written = import_local("shapes", tmp_path / config, data_dir=out)
        (out / "kept" / config).mkdir(parents=True)
        written.rename(out / "kept" / config / "1.0.0")
        (out / "shapes").rmdir()
    (out / "kept").rename(out / "shapes")
    assert len(load("shapes/small", data_dir=out).train) == 20
    with pytest.raises(ValueError, match="in several configurations; name one, such as 'shapes/la"):
        load("shapes", data_dir=out)
