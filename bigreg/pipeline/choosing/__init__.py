"""Which preset fits a pair: a short look at small copies of both images, what is concluded from it, the choice.

May use `tasks` for the start of a run, and `judging`. Knows no cost and no client, and writes nothing.
"""
