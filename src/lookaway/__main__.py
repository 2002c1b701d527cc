"""`python -m lookaway`."""

from .cli.app import main

main()
