"""The command as a program: its signals and streams are seen to before anything is imported."""

import contextlib
import gc
import os
import sys

from gapjax import _signals, _streams


def main() -> int:
    """Run the command line of this process."""
    _signals.at_once()
    _streams.prepare()
    # Modules and traced programs are many objects that stay: to look for cycles among them after
    # every 700 takes a sixth of the start.
    gc.set_threshold(50_000, 20, 50)
    from gapjax import cli

    try:
        code = cli.main()
    except SystemExit as stop:  # of help, or of SIGTERM
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    if code > 128:
        # By a signal: all is cleared away, and threads that still compile crash in an exit that
        # takes the interpreter down around them.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(code)
    # The end of the interpreter looks for cycles among all that was traced and compiled: 2 seconds.
    gc.freeze()
    return code


if __name__ == "__main__":
    sys.exit(main())
