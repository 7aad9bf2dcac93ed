"""The command as a program: its signals and streams are seen to before anything is imported."""

import sys

from gapjax import _signals, _streams


def main() -> int:
    """Run the command line of this process."""
    _signals.at_once()
    _streams.prepare()
    from gapjax import cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
