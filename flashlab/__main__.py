"""`python -m flashlab` is the command `flashlab`."""

from flashlab.cli import main

main()
