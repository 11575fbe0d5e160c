"""`python -m generator.cli` is `papernotes`."""

from generator.cli import main

main()
