"""`python -m agenttune`."""

from agenttune.cli import main

main()
