"""Blocks in their order: what waits for what, what runs, what failed. The only room that knows Dask's client.

May use `store` and `context`. Knows no task: a stage names the function that is called for each block.
"""
