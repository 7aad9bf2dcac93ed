"""Records of members that were trained as one population."""

import types

import numpy as np

from gapjax.growth import constant_batch
from gapjax.study._population._records_of import curves_of


def test_settings_trained_together_have_their_own_curves_and_their_share_of_the_time():
    seeds, settings = 2, 3
    members = np.arange(seeds * settings, dtype=float)
    outcome = types.SimpleNamespace(
        curves=types.SimpleNamespace(
            update=np.array([0, 4, 8]),
            seconds=np.array([0.0, 3.0, 6.0]),
            values={"test_loss": np.stack([members, members + 10, members + 20])},
        ),
        diverged=np.zeros(len(members), int),
        stopped=None,
        plan=types.SimpleNamespace(batch_sizes=constant_batch(16)),
    )
    setup = types.SimpleNamespace(study=types.SimpleNamespace(all_seeds=list(range(seeds))))
    programs = types.SimpleNamespace(flops_by=lambda plan, updates: [5.0 * u for u in updates])
    made = [curves_of(setup, outcome, programs, which) for which in range(settings)]
    for which, curves in enumerate(made):
        own = members[which * seeds : (which + 1) * seeds]
        np.testing.assert_array_equal(curves.array("test_loss"), [own, own + 10, own + 20])
        assert curves.examples == [0, 64, 128] and curves.flops == [0, 20, 40]
    np.testing.assert_allclose(np.sum([curves.seconds for curves in made], axis=0), [0, 3, 6])
