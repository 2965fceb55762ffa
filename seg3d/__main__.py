"""``python -m seg3d`` is the command line."""

from seg3d.cli import main

if __name__ == "__main__":
    main()
