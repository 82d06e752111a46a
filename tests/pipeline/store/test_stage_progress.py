"""What is kept of a stage's blocks, and what of one that an earlier version cut otherwise."""

import numpy as np

from bigreg.pipeline.store.store import Progress, RunStore, Status


def test_a_stage_that_was_cut_otherwise_begins_anew_and_leaves_the_rest(tmp_path):
    store = RunStore(str(tmp_path / "run.zarr"))
    store.create({"state": "planned"})
    before = Progress(store, "levels/0", (3, 2, 2), ("seconds",))
    before.set((2, 1, 1), Status.DONE, {"seconds": 3.0}, worker=1)
    before.flush()
    part = Progress(store, "levels/0/stitch", (3, 2, 2), ("seconds",))
    part.set((0, 0, 0), Status.DONE)
    part.flush()
    again = Progress(store, "levels/0", (3, 2, 2), ("seconds",))
    assert again.status[2, 1, 1] == Status.DONE and again.metric("seconds")[2, 1, 1] == 3.0
    other = Progress(store, "levels/0", (1, 2, 1), ("seconds",))
    assert len(other.unfinished()) == 2 and np.isnan(other.metric("seconds")).all()
    assert Progress(store, "levels/0/stitch", (3, 2, 2), ("seconds",)).status[0, 0, 0] == Status.DONE
