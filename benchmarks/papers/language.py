"""A small language model, ramps beside their controls: `python -m benchmarks.papers.language`.

Bytes of Python's own reference, a transformer, AdamW with a cosine: a constant small and a constant
large batch, `GROW` and `SEESAW`, all at equal tokens. Other options go to `gapjax study`.
"""

import sys

from benchmarks.papers.run import run_presets

if __name__ == "__main__":
    run_presets(__doc__ or "", "pydoc-", ["pydoc-lm", *sys.argv[1:]])
