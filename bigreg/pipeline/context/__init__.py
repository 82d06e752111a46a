"""What every block of a run knows: frames, the ladder of levels, images as engines see them, masks, the start.

May use `store`. Knows neither tasks nor Dask: what is written here is written by the task that calls it.
"""
