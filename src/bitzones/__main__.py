"""``python -m bitzones``: the command line without the console script."""

from bitzones.cli.main import main

if __name__ == "__main__":
    main()
