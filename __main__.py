"""`python -m ludus` runs the command line, as `ludus` does."""

from ludus.cli.main import main

if __name__ == "__main__":
    main()
