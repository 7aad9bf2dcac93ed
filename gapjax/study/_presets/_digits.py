"""The presets of this library: the embedded digits."""

from gapjax.study._presets._preset import DENSE_GFLOPS, Preset
from gapjax.study._study import Study


def _digits(meaning: str, study: Study) -> Preset:
    return Preset(
        meaning, study, num_examples=1280, num_test=517, mflops=0.25, cpu_gflops=DENSE_GFLOPS
    )


# How the default preset was chosen stands in the README; the test set had no part in it.
DIGITS: dict[str, Preset] = {
    "digits": _digits("the embedded digits: minutes on a laptop, no download", Study()),
    "smith-digits": _digits(
        "the digits, Smith et al. (2018): decay the rate, grow the batch, or half of each",
        Study(regimes=("SB", "LB", "HYBRID", "GROW", "GROW+GBN"), noise_scale=True),
    ),
    "goyal-digits": _digits(
        "the digits, Goyal et al. (2017): the linear rule, warm-up, ghosts of the small batch's "
        "size, and the square-root rule beside it",
        Study(
            optimizer="nesterov",
            momentum=0.9,
            weight_decay=1e-4,
            clip_norm=None,
            learning_rate=0.04,  # of the small batch, tuned on a validation split
            decay_at=(1 / 3, 2 / 3, 8 / 9),  # epochs 30, 60 and 80 of 90
            large_batch=128,
            regimes=(
                "SB",
                "LB",
                "LB+LR+WARMUP+GBN",
                "LB+LINEAR+GBN",
                "LB+LINEAR+WARMUP",
                "LB+LINEAR+WARMUP+GBN",
            ),
        ),
    ),
    "keskar-digits": _digits(
        "Adam on the digits, long past a fit, as Keskar et al. (2017); --landscape",
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
}
