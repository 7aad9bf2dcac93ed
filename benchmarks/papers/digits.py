"""The digits, and rules of others on them: `python -m benchmarks.papers.digits PRESET ...`.

The standard regimes; three arms of Smith et al. (2018), who grow the batch where the rate would
fall; the linear rule of Goyal et al. (2017). Other options go to `gapjax study`: `goyal-digits
--large-batch 640 --as goyal-digits-640`, say.
"""

from benchmarks.papers.pages import DIGITS
from benchmarks.papers.run import run_presets

if __name__ == "__main__":
    run_presets(__doc__ or "", DIGITS)
