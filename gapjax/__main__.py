"""``python -m gapjax``, the same as ``gapjax``: for where scripts are not on the path."""

import sys

from gapjax.cli import main

if __name__ == "__main__":
    sys.exit(main())
