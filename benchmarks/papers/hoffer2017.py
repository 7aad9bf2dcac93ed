"""The tables of Hoffer, Hubara, Soudry (2017): `python -m benchmarks.papers.hoffer2017 PRESET ...`.

Other options go to `gapjax study`: `hoffer-f1-mnist --seeds 3 --epochs 8`, say.
"""

from benchmarks.papers.run import run_presets

if __name__ == "__main__":
    run_presets(__doc__ or "", "hoffer-")
