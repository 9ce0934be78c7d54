"""`python -m facekd` is `facekd`."""

from facekd.cli import main

if __name__ == "__main__":
    main()
