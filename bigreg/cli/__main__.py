"""python -m bigreg.cli, for launchers such as torchrun."""

from . import main

main()
