"""What is made of a finished map: points and images carried over, files for other programs.

May use `tasks` and `schedule`. Knows neither plan nor verdict.
"""
