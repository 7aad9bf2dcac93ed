"""The tables of Keskar et al. (2017): `python -m benchmarks.papers.keskar2017 PRESET ...`.

Other options go to `gapjax study`: `keskar-f2-mnist-small --landscape`, say.
"""

from benchmarks.papers.run import run_presets

if __name__ == "__main__":
    run_presets(__doc__ or "", "keskar-")
