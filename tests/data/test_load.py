import functools
import hashlib
import http.server
import re
import threading
import types

import numpy as np
import pytest

from data import files
from gapjax.data import StreamedSplit, _fetch, _load, _prepared, _tfds, import_local, load
from gapjax.growth import GrowingBatches, constant_batch


@pytest.fixture
def mnist(tmp_path):
    files.write_idx(tmp_path / "in")
    import_local("mnist", tmp_path / "in", data_dir=tmp_path / "out")
    return tmp_path / "out"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digit", "no data set named 'digit'.* Did you mean 'digits'"),
        ("mnits", "Did you mean 'mnist'"),
        ("Mnist", "Did you mean 'mnist'"),
        ("mnist:9.9.9", "TFDS cannot open"),
    ],
)
def test_an_unknown_name_suggests_the_nearest(tmp_path, name, message):
    with pytest.raises(ValueError, match=message) as caught:
        load(name, data_dir=tmp_path)
    assert "\n" not in str(caught.value)


def test_the_digits_are_fixed():
    with pytest.raises(ValueError, match="come as they are"):
        load("digits", train="train[:10]")


def test_unknown_splits_are_named(mnist):
    with pytest.raises(ValueError, match=r"no split 'trian'; .*Did you mean 'train'"):
        load("mnist", data_dir=mnist, train="trian")
    with pytest.raises(ValueError, match="no split 'train\\[:x\\]'"):
        load("mnist", data_dir=mnist, train="train[:x]")


def test_images_are_decoded_once(mnist, monkeypatch):
    first = load("mnist", data_dir=mnist)

    def decode(*args):
        raise AssertionError("decoded again")

    monkeypatch.setattr(_prepared, "_decoded", decode)
    again = load("mnist", data_dir=mnist)
    np.testing.assert_array_equal(first.train.images, again.train.images)
    np.testing.assert_array_equal(first.test.labels, again.test.labels)
    monkeypatch.undo()
    for kept in mnist.glob(".gapjax-decoded/*.npz"):
        kept.write_bytes(b"damaged")
    once_more = load("mnist", data_dir=mnist)
    np.testing.assert_array_equal(first.train.images, once_more.train.images)


def test_a_data_set_imported_again_is_decoded_again(mnist, tmp_path):
    first = load("mnist", data_dir=mnist)
    made = files.write_idx(tmp_path / "other", train=21)
    (mnist / "mnist").rename(tmp_path / "gone")
    import_local("mnist", tmp_path / "other", data_dir=mnist)
    dataset = load("mnist", data_dir=mnist)
    assert (len(first.train), len(dataset.train)) == (20, 21)
    assert files.multiset(dataset.train.images, dataset.train.labels) == files.multiset(
        *made["train"]
    )


def test_a_folder_without_room_or_right_to_write_still_loads(mnist, monkeypatch):
    def save(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", save)
    assert len(load("mnist", data_dir=mnist).train) == 20
    assert not list(mnist.glob(".gapjax-decoded/*"))


def test_what_does_not_fit_in_memory_is_streamed(mnist, monkeypatch):
    whole = load("mnist", data_dir=mnist)
    # a machine with memory for 12 images: the 10 of the test split fit a quarter of it, 20 do not
    monkeypatch.setattr(_prepared, "memory", lambda: 784 * 48)
    dataset = load("mnist", data_dir=mnist)
    assert isinstance(dataset.train, StreamedSplit)
    assert len(dataset.train) == 20
    np.testing.assert_array_equal(dataset.train[3].images, whole.train.images[3])
    np.testing.assert_array_equal(dataset.test.images, whole.test.images)
    part = load("mnist", data_dir=mnist, train="train[5:10]")  # small enough to decode at once
    np.testing.assert_array_equal(part.train.images, whole.train.images[5:10])
    streamed = GrowingBatches(dataset.train, constant_batch(8), seed=0, workers=2)
    expected = GrowingBatches(whole.train, constant_batch(8), seed=0)
    for _ in range(4):
        ours, theirs = next(streamed), next(expected)
        np.testing.assert_array_equal(ours.images, theirs.images)
        np.testing.assert_array_equal(ours.labels, theirs.labels)


def test_a_format_that_is_not_read_says_so(mnist):
    info = mnist / "mnist" / "3.0.1" / "dataset_info.json"
    info.write_text(info.read_text().replace('"array_record"', '"riegeli"'))
    with pytest.raises(ValueError, match="holds riegeli files; array_record and tfrecord"):
        load("mnist", data_dir=mnist)


def test_without_a_network_the_import_command_is_given(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(_fetch.urllib.request, "urlopen", refuse)
    with pytest.raises(ValueError, match="gapjax data import cifar10 --from DIR") as caught:
        load("cifar10", data_dir=tmp_path)
    assert "Network is unreachable" in str(caught.value)


def test_a_network_that_hangs_is_given_up(tmp_path, monkeypatch):
    hung = threading.Event()

    def hang(*args, **kwargs):
        hung.wait()
        raise OSError("at last")

    monkeypatch.setattr(_fetch, "_PATIENCE", 0.05)
    monkeypatch.setattr(_fetch.urllib.request, "urlopen", hang)
    with pytest.raises(ValueError, match="does not answer"):
        load("mnist", data_dir=tmp_path)
    hung.set()


def test_a_set_that_needs_tensorflow_to_prepare_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(_fetch, "_unreachable", lambda url: None)
    with pytest.raises(ValueError, match="tfds build svhn_cropped --file_format=array_record"):
        load("svhn_cropped", data_dir=tmp_path)


@pytest.fixture
def site(tmp_path):
    """A local server with the files of a small MNIST."""
    made = files.write_idx(tmp_path / "site", zipped=True)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path / "site"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        urls = {}
        for path in (tmp_path / "site").iterdir():
            content = path.read_bytes()
            urls[address + path.name] = types.SimpleNamespace(
                filename=path.name,
                size=len(content),
                checksum=hashlib.sha256(content).hexdigest(),
            )
        yield made, types.SimpleNamespace(url_infos=urls)
        server.shutdown()


def test_fetching(tmp_path, site):
    made, builder = site
    _fetch.prepare("mnist", builder, tmp_path / "out")
    dataset = load("mnist", data_dir=tmp_path / "out")
    assert files.multiset(dataset.train.images, dataset.train.labels) == files.multiset(
        *made["train"]
    )


def test_a_download_of_another_content_is_refused(tmp_path, site):
    _, builder = site
    next(iter(builder.url_infos.values())).checksum = "0" * 64
    with pytest.raises(ValueError, match=r"another content.*gapjax data import mnist"):
        _fetch.prepare("mnist", builder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_set_of_features_and_its_validation_split(tmp_path):
    import tensorflow_datasets as tfds

    features = {
        "x": tfds.features.Tensor(shape=(3,), dtype=np.float64),
        "y": tfds.features.ClassLabel(names=["no", "yes"]),
    }
    rows = [{"x": np.full(3, i / 4), "y": i % 2} for i in range(6)]
    files.prepare(tmp_path, "own_table", features, ("x", "y"), {"train": rows, "validation": rows})
    dataset = load("own_table", data_dir=tmp_path)
    assert dataset.train.images.dtype == np.float32
    assert dataset.train.images.shape == (6, 3)
    assert files.multiset(dataset.test.images, dataset.test.labels) == files.multiset(
        [row["x"].astype(np.float32) for row in rows], [row["y"] for row in rows]
    )
    assert dataset.class_names == ("no", "yes")


def test_what_has_no_class_labels_is_refused(tmp_path):
    import tensorflow_datasets as tfds

    features = {"x": tfds.features.Tensor(shape=(3,), dtype=np.float32)}
    rows = [{"x": np.zeros(3, np.float32)}] * 3
    files.prepare(tmp_path, "unlabelled", features, None, {"train": rows, "validation": rows})
    with pytest.raises(ValueError, match="does not consist of examples with class labels"):
        load("unlabelled", data_dir=tmp_path)


def test_a_version_is_fetched_and_the_command_leaves_it_out(tmp_path, site, monkeypatch):
    made, builder = site
    monkeypatch.setattr(_load._tfds, "stock_builder", _stock(builder))
    dataset = load("mnist:3.0.1", data_dir=tmp_path / "out")
    assert files.multiset(dataset.test.images, dataset.test.labels) == files.multiset(*made["test"])
    monkeypatch.setattr(_fetch, "_unreachable", lambda url: "no network")
    with pytest.raises(
        ValueError, match=r"fashion_mnist:3.\*.\*.*data import fashion_mnist --from"
    ):
        load("fashion_mnist:3.*.*", data_dir=tmp_path / "out")
    with pytest.raises(
        ValueError, match=r"tfds build svhn_cropped:3.1.0 .*import svhn_cropped --f"
    ):
        load("svhn_cropped:3.1.0", data_dir=tmp_path / "out")


def _stock(builder):
    """What makes the builder of a small MNIST from afar, and the plain one for its import."""
    plain = _tfds.stock_builder
    return lambda name, folder: builder if name.version == "3.0.1" else plain(name, folder)


def test_what_is_downloaded_by_hand_is_said_in_one_sentence(tmp_path):
    said = (
        "its files must be downloaded by hand, then prepared with TensorFlow, once and on any "
        "machine: `tfds build imagenet2012 --file_format=array_record`, and the folder copied here."
    )
    with pytest.raises(ValueError, match=re.escape(said)):
        load("imagenet2012", data_dir=tmp_path)


def test_an_unknown_configuration_is_said_with_those_there_are(tmp_path):
    with pytest.raises(ValueError, match=r"no configurations; leave out '/abc'$"):
        load("cifar10/abc", data_dir=tmp_path)
    told = (
        r"no configuration 'leters'; there are balanced, .*letters, mnist\. Did you mean 'letters'"
    )
    with pytest.raises(ValueError, match=told):
        load("emnist/leters", data_dir=tmp_path)
