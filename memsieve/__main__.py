"""``python -m memsieve``: the command."""

from memsieve.cli import main

if __name__ == "__main__":
    main()
