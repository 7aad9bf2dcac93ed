"""Presets: studies with a name."""

from gapjax import _checks
from gapjax.study._study import Study

# How the default preset was chosen stands in the README; the test set had no part in it.
PRESETS: dict[str, tuple[str, Study]] = {
    "digits": ("the embedded digits: minutes on a laptop, no download", Study()),
    "smith-digits": (
        "the digits, Smith et al. (2018): decay the rate, grow the batch, or half of each",
        Study(regimes=("SB", "LB", "HYBRID", "GROW", "GROW+GBN"), noise_scale=True),
    ),
    "keskar-digits": (
        "Adam on the digits until the loss stops improving, as Keskar et al. (2017); --landscape",
        Study(
            optimizer="adam",
            schedule="constant",
            regimes=("SB", "LB"),
            seeds=5,
            epochs=100.0,
            large_batch=128,  # 10% of the data
            learning_rate=1e-3,
            clip_norm=None,  # the paper does not clip
            evaluations=200,
            loss_levels=(0.3, 0.1, 0.03, 0.01, 0.003, 0.001),
        ),
    ),
    "hoffer-f1-mnist": (
        "F1 on MNIST with the batches of Hoffer et al. (2017)",
        Study(
            dataset="mnist",
            model="f1",
            epochs=50.0,
            small_batch=128,
            large_batch=4096,
            ghost_size=128,
            learning_rate=0.1,
            decay_at=(0.2, 0.4, 0.6),
            seeds=5,
        ),
    ),
}


def preset(name: str) -> Study:
    """A study by the name of its preset.

    Raises:
        ValueError: an unknown name.

    Example:
        >>> preset("digits").seeds
        8
    """
    _checks.one_of("preset", name, PRESETS)
    return PRESETS[name][1]
