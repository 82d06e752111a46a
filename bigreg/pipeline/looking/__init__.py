"""What somebody who looks at a run is shown: layers at the resolution of a screen, blocks and what went into them.

May use `tasks` and `judging`. Writes nothing.
"""
