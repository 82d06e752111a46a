"""Storage that fails in the middle of a run: for a moment, for good, by damage, by being full. Always the same bits."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from bigreg import open_run, register, storage
from bigreg.errors import CorruptDataError, InputError, OutputError
from bigreg.phantom import make_pair
from bigreg.pipeline.store.damage import forget
from bigreg.storage import retry
from bigreg.testing import LASTING, PASSING, failing_store
from bigreg.volumes import convert, open_volume

from .test_remote import Stop, StopsAt


@pytest.fixture
def faults(monkeypatch):
    monkeypatch.setattr(retry, "FIRST_DELAY", 0.001)
    with failing_store() as found:
        yield found


@pytest.fixture(scope="module")
def tiny(small_config, thread_client, tmp_path_factory):
    """A finished run of two levels and few blocks, how to repeat it elsewhere, and how often it reads and writes."""
    folder = tmp_path_factory.mktemp("tiny")
    pair = make_pair((24, 32, 36), (2.0, 2.0, 2.0), seed=5, max_displacement_um=4.0)
    for which in ("fixed", "moving"):
        convert(getattr(pair, which), folder / f"{which}.ome.zarr", spacing=pair.spacing, chunks=(16,) * 3, shards=None)
    config = small_config("blocks.core=24", "output.chunk=8", "output.shard=16", "ladder.iterations=[4]")

    def start(out, **more):
        images = (str(folder / f"{which}.ome.zarr") for which in ("fixed", "moving"))
        return register(*images, out=str(out), config=config, client=thread_client, **more)

    with failing_store() as counted:
        run = start(folder / "run.zarr")
    return run, start, dict(counted.counts)


def test_passing_faults_leave_no_trace(tiny, faults, same_bits, tmp_path):
    run, start, counts = tiny
    faults.decide = lambda kind, number: PASSING if number % (7 if kind == "read" else 5) == 1 else None
    again = start(tmp_path / "run.zarr")
    assert faults.failed > (counts["read"] // 7 + counts["write"] // 5) * 0.9
    assert again.status().state == "finished" and not again.status().errors
    assert same_bits(again, run)


def test_lasting_faults_end_the_run_with_a_named_error_and_it_goes_on_when_they_are_gone(
    tiny, faults, same_bits, tmp_path, monkeypatch
):
    monkeypatch.setattr(retry, "TRIES", 3)
    run, start, counts = tiny
    out = tmp_path / "run.zarr"
    for part, kind, message in (
        (0.02, "read", PASSING),
        (0.1, "write", LASTING),
        (0.3, "write", PASSING),
        (0.5, "read", LASTING),
        (0.7, "write", LASTING),
        (0.9, "read", PASSING),
    ):
        first = int(part * counts[kind])
        faults.decide = lambda k, n, kind=kind, first=first, text=message: text if k == kind and n >= first else None
        with pytest.raises((InputError, OutputError)) as caught:
            start(out)
        faults.decide = lambda kind, number: None
        text = str(caught.value)
        assert f"'{tmp_path.parent}" in text and f"cannot be {'read' if kind == 'read' else 'written'}" in text
        assert ("tried 3 times" in text) == (message is PASSING)
        if part == 0.02:  # in the look for padding: no run was begun
            assert not out.exists()
        else:
            assert open_run(str(out)).status().state == "incomplete"
    again = start(out)
    assert again.status().state == "finished" and same_bits(again, run)


class Flaky:
    """An array in another library's file, whose reads fail a few times as those of a busy file server do."""

    shape, dtype = (4, 4, 4), np.dtype("uint8")

    def __init__(self, failures: int) -> None:
        self.failures = failures

    def __getitem__(self, key):
        self.failures -= 1
        if self.failures >= 0:
            raise OSError(errno.EIO, "Input/output error")
        return np.ones(self.shape, self.dtype)[key]


def test_formats_of_other_libraries_are_read_as_patiently(monkeypatch):
    monkeypatch.setattr(retry, "FIRST_DELAY", 0.001)
    volume = open_volume(Flaky(3), spacing=(1, 1, 1))
    assert volume.read((0, 0, 0), (4, 4, 4)).all()
    with pytest.raises(InputError, match=f"cannot be read.*tried {retry.TRIES} times"):
        open_volume(Flaky(100), spacing=(1, 1, 1)).read((0, 0, 0), (4, 4, 4))


def located(url: str) -> CorruptDataError:
    with pytest.raises(CorruptDataError) as caught:
        storage.open_array(url)[...]
    return caught.value


def cut(folder: Path) -> None:
    """Halve the last file of an array."""
    file = sorted(p for p in (folder / "c").rglob("*") if p.is_file())[-1]
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def test_blocks_whose_files_are_damaged_are_computed_anew(tiny, same_bits, tmp_path, caplog):
    run, start, _ = tiny
    out = tmp_path / "run.zarr"
    damaged = (
        ("levels/0/stitch", "levels/0/patches", "levels/0"),
        ("stages/fixed_to_moving", "levels/0/maps/fixed", "levels/0/compose/0"),
        ("stages/check", "transforms/moving_to_fixed/0", "stages/moving_to_fixed"),
        ("stages/warped", "levels/0/status", "levels/0"),
        ("stages/warped", "levels/0/stitch/metrics/velocity", "levels/0/stitch"),
    )
    for stop, name, _ in damaged:
        with pytest.raises(Stop):
            start(out, progress=StopsAt(stop))
        cut(out / name)
        assert name in located(str(out / name)).url
    again = start(out)
    assert again.status().state == "finished" and same_bits(again, run)
    for _, name, stage in damaged:
        assert any(name in m and f"computing {stage} " in m for m in caplog.messages)
    assert forget(again.store, CorruptDataError("elsewhere", url=str(tmp_path / "x"), box=((0,), (1,)))) is None


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_disk_that_is_full_and_then_freed(tiny, same_bits, tmp_path):
    run, start, _ = tiny
    pages = sum(-(-p.stat().st_size // 4096) for p in Path(run.url).rglob("*") if p.is_file())
    disk = tmp_path / "disk"
    disk.mkdir()
    small = ["mount", "-t", "tmpfs", "-o", f"size={int(0.5 * pages) * 4}k", "tmpfs", str(disk)]
    if subprocess.run(small, capture_output=True).returncode:
        pytest.skip("no permission to mount a small disk")
    try:
        for _ in range(2):
            with pytest.raises(OutputError, match="No space left.*free some space") as caught:
                start(disk / "run.zarr")
            assert caught.value.exit_status == 5  # of the command line
        subprocess.run(["mount", "-o", "remount,size=1g", str(disk)], check=True)
        again = start(disk / "run.zarr")
        assert again.status().state == "finished" and same_bits(again, run)
    finally:
        subprocess.run(["umount", str(disk)], check=True)
