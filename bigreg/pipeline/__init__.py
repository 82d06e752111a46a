"""A registration as a run: what it is on disk, how its blocks are computed, what they say, and what is made of them.

The rooms, from the ground up; each may use those above it in this list, and none below:

    store      what a run is on disk
    context    what every block of a run knows: frames, levels, images, masks
    schedule   blocks in their order, on Dask
    tasks      what is computed of one block
    judging    how far a run is, and how good
    planning   what a run will cost, before it starts
    results    what is made of a finished map
    looking    what somebody who looks at a run is shown

Beside them: `run` and `stages` put the rooms together, `pieces`, `chains` and `compare` take several runs, `calibrate`
measures a machine. tests/test_architecture.py holds this order.
"""
