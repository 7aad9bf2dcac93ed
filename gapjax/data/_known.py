"""What is known of data sets that are often imported."""

from typing import NamedTuple


class Payload(NamedTuple):
    """Size and sha256 of a file's content once unpacked, as headers of gzip vary."""

    size: int
    sha256: str


PAYLOADS = {
    "mnist": {
        "train-images": Payload(
            47_040_016, "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"
        ),
        "train-labels": Payload(
            60_008, "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"
        ),
        "t10k-images": Payload(
            7_840_016, "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"
        ),
        "t10k-labels": Payload(
            10_008, "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"
        ),
    },
    "fashion_mnist": {
        "train-images": Payload(
            47_040_016, "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"
        ),
        "train-labels": Payload(
            60_008, "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"
        ),
        "t10k-images": Payload(
            7_840_016, "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"
        ),
        "t10k-labels": Payload(
            10_008, "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"
        ),
    },
}

# Sets whose original files are ones that an import reads, so that they can be fetched without
# TensorFlow. TFDS knows where they lie and what they hash to.
FETCHABLE = ("mnist", "fashion_mnist", "kmnist", "cifar10", "cifar100")

# TFDS reads these from the archive, where it builds the set; they are needed without it too.
CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
