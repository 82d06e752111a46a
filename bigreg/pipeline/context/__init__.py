"""What every block of a run knows: frames, the ladder of levels, images as engines see them, masks, the start.

May use `store`. Computes nothing that a run keeps, and knows neither tasks nor Dask.
"""
