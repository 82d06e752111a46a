"""python -m bigreg"""

from .cli import main

main()
