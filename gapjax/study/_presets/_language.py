"""The presets of language models: the text that comes with Python, as bytes."""

import dataclasses

from gapjax.study._presets._preset import Preset
from gapjax.study._study import Study

# Controls at both ends: a constant small and a constant large batch, at equal tokens.
_REGIMES = ("SB", "LB", "LB+LR", "GROW", "SEESAW")

_PYDOC = Study(
    dataset="pydoc",
    model="transformer-tiny",
    task="next-token",
    optimizer="adamw",
    schedule="cosine",
    warmup=0.05,
    regimes=_REGIMES,
    seeds=4,
    train_examples=1024,  # a third of the text: looks at all of it would cost more than training
    epochs=2.0,
    small_batch=8,
    large_batch=64,
    learning_rate=2e-3,
    weight_decay=0.1,
    b2=0.99,
    clip_norm=1.0,
    evaluations=3,
)

LANGUAGE: dict[str, Preset] = {
    "pydoc-lm": Preset(
        "bytes of Python's own reference, a transformer, AdamW: minutes on a laptop, no download",
        _PYDOC,
        num_examples=3_050,
        num_test=591,
        mflops=117.0,
    ),
    "pydoc-lm-small": Preset(
        "the same on 256 windows, 2 seeds, for a first look",
        dataclasses.replace(_PYDOC, train_examples=256, epochs=1.0, seeds=2, large_batch=32),
        num_examples=3_050,
        num_test=591,
        mflops=117.0,
    ),
}
