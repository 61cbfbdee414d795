"""`python -m ludus.cli` is `ludus`."""

from ludus.cli.main import main

main()
