"""python -m sweep: the command line of sweep/cli.py."""

import sys

from sweep.interrupting import sigterm_interrupts

if __name__ == "__main__":
    with sigterm_interrupts():
        try:
            from sweep.cli import main  # it takes a second

            code = main()
        except KeyboardInterrupt:
            print("error: interrupted", file=sys.stderr)
            code = 130
    raise SystemExit(code)
