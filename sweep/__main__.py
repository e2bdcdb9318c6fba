"""python -m sweep: the command line of sweep/cli.py."""

from sweep.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
