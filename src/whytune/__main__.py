"""`python -m whytune` is the `whytune` command."""

from whytune.cli import main

if __name__ == "__main__":
    main()
