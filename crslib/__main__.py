"""`python -m crslib` is the command `crs`."""

from crslib.cli.main import main

if __name__ == "__main__":
    main(prog_name="crs")
