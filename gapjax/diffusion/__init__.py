"""Diffusion: how far and how fast the weights travel, and what the learning rate has to do with it.

* Rules: ``scale_learning_rate``, ``adapt_regime``, ``boost_early``, ``scale_adam`` and
  ``scale_adamw`` carry what was tuned at one batch size over to another.
* Noise: ``noise_std`` and ``example_weights`` give a large batch the gradient noise of a small one.
* Tracking: ``track_diffusion`` goes into any optax chain; ``diffusion_record`` reads it.
  ``distance`` and ``log_spaced`` (when to look) are for loops of your own.
* Steering: ``scale_by_batch_size`` follows a growing batch; ``match_diffusion`` makes one run
  diffuse like another, and ``diffusion_match`` reads how well it does.
* Fits: ``fit_diffusion`` holds the log-t law against a power law; ``updates_to_travel`` says what
  the law asks for.
* Theory: ``random_potential_walk`` is the walk behind the law.
"""

from gapjax.diffusion._adam import scale_adam, scale_adamw
from gapjax.diffusion._distance import distance, log_spaced
from gapjax.diffusion._fit import DiffusionFit, fit_diffusion, updates_to_travel
from gapjax.diffusion._match import (
    DiffusionMatch,
    MatchDiffusionState,
    diffusion_match,
    match_diffusion,
    scale_by_batch_size,
)
from gapjax.diffusion._noise import example_weights, noise_std
from gapjax.diffusion._rules import (
    adapt_regime,
    boost_early,
    scale_learning_rate,
)
from gapjax.diffusion._track import (
    DiffusionRecord,
    TrackDiffusionState,
    diffusion_record,
    track_diffusion,
)
from gapjax.diffusion._walk import Walk, random_potential_walk

__all__ = [
    "DiffusionFit",
    "DiffusionMatch",
    "DiffusionRecord",
    "MatchDiffusionState",
    "TrackDiffusionState",
    "Walk",
    "adapt_regime",
    "boost_early",
    "diffusion_match",
    "diffusion_record",
    "distance",
    "example_weights",
    "fit_diffusion",
    "log_spaced",
    "match_diffusion",
    "noise_std",
    "random_potential_walk",
    "scale_adam",
    "scale_adamw",
    "scale_by_batch_size",
    "scale_learning_rate",
    "track_diffusion",
    "updates_to_travel",
]
