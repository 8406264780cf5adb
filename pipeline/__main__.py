"""`python -m pipeline`: the same as the `paperboy` command."""

from pipeline.cli import main

if __name__ == "__main__":
    main()
