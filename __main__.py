"""`python -m ludus` runs the command line, as `ludus` does."""

from ludus.cli.main import entry

if __name__ == "__main__":
    entry()
