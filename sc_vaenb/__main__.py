"""`python -m sc_vaenb` is the command `sc-vaenb`."""

from .cli import main

if __name__ == "__main__":
    raise SystemExit(main())
