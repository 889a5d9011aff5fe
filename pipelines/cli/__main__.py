"""`python -m pipelines.cli`: the command line, where no `nightload` is on the PATH."""

from pipelines.cli.main import main

if __name__ == "__main__":
    main()
