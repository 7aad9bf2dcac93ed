"""The rows of table 2 of Keskar et al. (2017): Adam, batch 256 against a tenth of the data.

Their rate is Adam's own, 1e-3, in both regimes, without decay, clipping or augmentation, until the
loss stops improving; 100 epochs stand for that here.
"""

import dataclasses

from gapjax.study._presets._preset import CPU_GFLOPS, DENSE_GFLOPS, Preset
from gapjax.study._study import Study

_SOURCE = "Keskar et al. 2017, arXiv:1609.04836, table 2"
_BASE = Study(
    dataset="cifar10",
    optimizer="adam",
    schedule="constant",
    regimes=("SB", "LB"),
    seeds=5,
    epochs=100.0,
    small_batch=256,
    large_batch=5000,
    ghost_size=256,
    learning_rate=1e-3,
    clip_norm=None,
    loss_levels=(1.0, 0.3, 0.1, 0.03, 0.01),
)
_SMALL = {"small_batch": 32, "ghost_size": 32, "seeds": 3}
_DIFFERS = (
    "inputs are normalized per channel; evaluated with running statistics of batch norm; 100 "
    "epochs, where the paper trains until the loss stops improving"
)


# F1 and F2 are dense, the others convolve.
_DENSE = {"f1": DENSE_GFLOPS, "f2": DENSE_GFLOPS}


def _row(
    name: str,
    num_examples: int,
    mflops: float,
    numbers: tuple[float, float],
    num_test: int = 10_000,
    **changes: object,
) -> Preset:
    network = name.upper()
    study = dataclasses.replace(_BASE, model=name, **changes)  # type: ignore[arg-type]
    return Preset(
        f"{network} on {study.dataset}, sharp minima (--landscape)",
        study,
        num_examples=num_examples,
        mflops=mflops,
        num_test=num_test,
        cpu_gflops=_DENSE.get(name, CPU_GFLOPS),
        paper=dict(zip(("SB", "LB"), numbers, strict=True)),
        source=_SOURCE,
        verified=True,
        differs=_DIFFERS,
    )


def _small(
    name: str,
    model: str,
    num_examples: int,
    mflops: float,
    used: int,
    dataset: str,
    found: str = "",
) -> Preset:
    study = dataclasses.replace(
        _BASE,
        model=model,
        dataset=dataset,
        train_examples=used,
        large_batch=used // 10,
        epochs=30.0,
        **_SMALL,  # type: ignore[arg-type]
    )
    meaning = f"{name.upper()} in small: {model} on {used} examples"
    return Preset(
        meaning,
        study,
        num_examples=num_examples,
        mflops=mflops,
        cpu_gflops=_DENSE.get(name, CPU_GFLOPS),
        found=found,
    )


KESKAR: dict[str, Preset] = {
    "keskar-f1": _row(
        "f1",
        60_000,
        8.0,
        (98.03, 97.81),
        dataset="mnist",
        large_batch=6000,
        landscape_examples=1000,
    ),
    "keskar-f1-small": _small(
        "f1",
        "f1",
        60_000,
        8.0,
        4096,
        "mnist",
        found="0.10 points with 3 seeds, a gap that is not statistically significant",
    ),
    "keskar-f2": _row(
        "f2",
        721_329,
        16.6,
        (64.02, 59.45),
        num_test=310_621,
        dataset="timit",
        large_batch=72_132,
    ),
    "keskar-f2-mnist": Preset(
        "F2 on MNIST, since TIMIT is licensed",
        dataclasses.replace(_BASE, model="f2", dataset="mnist", large_batch=6000),
        num_examples=60_000,
        mflops=11.2,
        cpu_gflops=DENSE_GFLOPS,
        found="0.37 points with 5 seeds after 30 epochs, where the large batch ends 109.3 times as "
        "sharp by the paper's measure",
    ),
    "keskar-f2-mnist-small": _small(
        "f2",
        "f2",
        60_000,
        11.2,
        4096,
        "mnist",
        found="-0.37 points with 5 seeds, a gap that is not statistically significant, though the "
        "large batch ends 22.8 times as sharp by the paper's measure",
    ),
    "keskar-c1": _row("c1", 50_000, 165.0, (80.04, 77.26)),
    "keskar-c1-small": _small(
        "c1",
        "c1-thin",
        50_000,
        14.1,
        2048,
        "cifar10",
        found="1.11 points with 3 seeds, a gap that is not statistically significant",
    ),
    "keskar-c2": _row("c2", 50_000, 1495.0, (89.24, 87.26)),
    "keskar-c2-small": _small(
        "c2",
        "c2-thin",
        50_000,
        25.5,
        1024,
        "cifar10",
        found="1.74 points with 3 seeds, a gap that is not statistically significant; both batches "
        "are still near chance themselves",
    ),
    "keskar-c3": _row("c3", 50_000, 165.0, (49.58, 46.45), dataset="cifar100"),
    "keskar-c3-small": _small("c3", "c3-thin", 50_000, 14.1, 2048, "cifar100"),
    "keskar-c4": _row("c4", 50_000, 1495.0, (63.08, 57.81), dataset="cifar100"),
    "keskar-c4-small": _small("c4", "c4-thin", 50_000, 25.5, 1024, "cifar100"),
}
