import jax
import numpy as np

from gapjax import landscape
from gapjax.landscape import _progress
from gapjax.landscape._progress import Tracker
from tests.landscape.test_lanczos import diagonal


class Clock:
    def __init__(self, step):
        self.now, self.step = 0.0, step

    def perf_counter(self):
        self.now += self.step
        return self.now


def test_a_callback_sees_every_step_with_the_time_left(monkeypatch):
    monkeypatch.setattr(_progress, "time", Clock(2.0))
    seen = []
    landscape.trace(diagonal(np.arange(5)), jax.random.key(0), 4, progress=seen.append)
    assert [(p.done, p.total, p.elapsed, p.remaining) for p in seen] == [
        (1, 4, 2.0, 6.0),
        (2, 4, 4.0, 4.0),
        (3, 4, 6.0, 2.0),
        (4, 4, 8.0, 0.0),
    ]
    assert seen[0].task == "trace"


def test_the_bar_comes_only_for_long_work(monkeypatch, capsys):
    for step, wanted in ((0.1, False), (2.0, True)):
        monkeypatch.setattr(_progress, "time", Clock(step))
        with Tracker(True, "work", 10) as tracker:
            for _ in range(10):
                tracker.step(note="so far")
            assert (tracker.bar is not None) == wanted
    monkeypatch.setattr(_progress, "time", Clock(9.0))
    with Tracker(False, "work", 10) as tracker:
        tracker.step()
        assert tracker.bar is None
    assert not capsys.readouterr().out, "a bar belongs on the error stream"
