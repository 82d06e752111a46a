"""The loop: what it writes, that it goes on exactly where it stopped, and that processes share one training."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from bigreg.errors import ConfigError, CorruptDataError, DivergedError
from bigreg.training import checkpoint
from bigreg.training.config import Schedule, load_training
from bigreg.training.log import Board, Table, read
from bigreg.training.trainer import CHECKPOINT, learning_rate, train

PAIR = {"name": "adversarial", "kind": "pair", "weight": 0.1, "rate": 1e-3, "settings": {"widths": [2, 4, 4]}}
FLOW = {**PAIR, "kind": "flow"}
SMALL = {
    "sitreg": {"encoder": [4, 8], "update": [6, 8], "convs": 1},
    "invgan": {"width": 8, "last": 4},
    "voxelmorph": {"encoder": [4, 8], "decoder": [8], "last": 4, "squarings": 4},
    "transmorph": {"stem": 4, "encoder": [8], "head": 4, "window": 2, "last": 4, "squarings": 4},
}


class Killed(BaseException):
    pass


def stop_after(step):
    def progress(done, total, word):
        if done == step:
            raise Killed

    return progress


def weights(folder):
    with safe_open(folder / CHECKPOINT, framework="pt") as file:
        return {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 - no mapping


def small(settings, name="voxelmorph", **more):
    return {**settings, "network": {"name": name, "settings": SMALL[name]}, **more}


def test_a_training_writes_tables_a_picture_a_checkpoint_and_weights(settings, tmp_path):
    said = []
    path = train(load_training(small(settings), overrides=["validation.every=3"]), say=said.append)
    folder = tmp_path / "out"
    assert path == folder / "weights.safetensors" and path.stat().st_size > 1000
    rows = read(folder / "losses.csv")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert {"loss", "supervised", "gradient", "rate", "seconds"} <= set(rows[0])
    figures = read(folder / "validation.csv")
    assert [row["step"] for row in figures] == [0, 3, 6]
    assert figures[0]["error_voxels"] == pytest.approx(figures[0]["start_voxels"], rel=0.05)
    assert figures[0]["folds"] == 0 and np.isfinite(figures[0]["seam"])
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((folder / "config.json").read_text())["schedule"]["steps"] == 6
    assert len(said) == 3 and "error_voxels" in said[0]


@pytest.mark.parametrize("name", sorted(SMALL))
def test_a_training_that_was_killed_ends_with_the_same_bits(settings, tmp_path, name):
    losses = [{"name": "supervised"}, {"name": "lncc"}, {"name": "identity"}, PAIR, FLOW]
    more = {"losses": losses} if name == "invgan" else {}
    torch.manual_seed(1)
    train(load_training(small(settings, name, **more)))
    whole = weights(tmp_path / "out")
    other = small(settings, name, **more, output={"folder": str(tmp_path / "again"), "checkpoint": 2})
    torch.manual_seed(2)
    with pytest.raises(Killed):
        train(load_training(other), progress=stop_after(5))
    said = []
    train(load_training(other), say=said.append)
    assert said[0] == "resumes after step 4 of 6"
    again = weights(tmp_path / "again")
    assert whole.keys() == again.keys() and all(torch.equal(whole[k], again[k]) for k in whole)
    assert [row["step"] for row in read(tmp_path / "again" / "losses.csv")] == [1, 2, 3, 4, 5, 6]
    one, two = (load_file(tmp_path / d / "weights.safetensors") for d in ("out", "again"))
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_a_training_that_ended_is_not_done_again(settings, tmp_path):
    train(load_training(small(settings)))
    steps = []
    train(load_training(small(settings)), progress=lambda done, *_: steps.append(done))
    assert steps == []


def test_another_configuration_does_not_go_on_in_the_same_folder(settings):
    train(load_training(small(settings)))
    with pytest.raises(ConfigError, match="another schedule, seed"):
        train(load_training(small(settings), overrides=["seed=3", "schedule.rate=0.5"]))


def test_two_processes_do_what_one_does_with_twice_the_batch(settings, tmp_path):
    losses = [{"name": "supervised"}, {"name": "lncc"}, PAIR]
    settings = small(settings, "voxelmorph", losses=losses)
    train(load_training(settings, overrides=["schedule.batch=4", "schedule.steps=3", "schedule.decay=constant"]))
    alone = weights(tmp_path / "out")
    file = tmp_path / "two.json"
    two = {**settings, "output": {"folder": str(tmp_path / "two")}, "device": "cpu"}
    two["schedule"] = {**settings["schedule"], "batch": 2, "steps": 3, "decay": "constant"}
    file.write_text(json.dumps(two))
    script = (
        "import json, sys, torch; torch.set_num_threads(1)\n"
        "from bigreg.training.config import load_training; from bigreg.training.trainer import train\n"
        "train(load_training(json.load(open(sys.argv[1]))))"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(file)], env={**common, "RANK": str(i), "LOCAL_RANK": str(i)},
            stderr=subprocess.PIPE,
        )
        for i in range(2)
    ]  # fmt: skip
    for process in started:
        _, err = process.communicate(timeout=500)
        assert process.returncode == 0, err.decode()
    together = weights(tmp_path / "two")
    assert alone.keys() == together.keys()
    for name, value in alone.items():
        gap = (value - together[name]).abs().max()
        assert float(gap) <= 2e-3 * float(value.abs().max()) + 2e-5, name
    ours, theirs = (read(tmp_path / d / "losses.csv") for d in ("out", "two"))
    assert [r["loss"] for r in ours] == pytest.approx([r["loss"] for r in theirs], rel=1e-3)


def test_bfloat16_is_for_gpus_and_a_cpu_says_so(settings, tmp_path):
    train(load_training(small(settings, device="cpu")))
    other = small(settings, output={"folder": str(tmp_path / "amp")}, device="cpu")
    said = []
    train(load_training(other, overrides=["schedule.amp=true"]), say=said.append)
    assert "bfloat16 is for GPUs" in said[0]
    plain, amp = (weights(tmp_path / d) for d in ("out", "amp"))
    assert all(torch.equal(plain[name], amp[name]) for name in plain)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_bfloat16_stays_near_and_maps_stay_in_float32(settings, tmp_path):
    train(load_training(small(settings)))
    other = small(settings, output={"folder": str(tmp_path / "amp")})
    train(load_training(other, overrides=["schedule.amp=true"]))
    plain, amp = (read(tmp_path / d / "losses.csv") for d in ("out", "amp"))
    assert [r["loss"] for r in plain] == pytest.approx([r["loss"] for r in amp], rel=0.05)
    assert plain[-1]["loss"] != amp[-1]["loss"]
    assert all(v.dtype == torch.float32 for k, v in weights(tmp_path / "amp").items() if k.startswith("network."))


def test_the_average_is_between_the_start_and_the_last_weights(settings, tmp_path):
    train(load_training(small(settings), overrides=["schedule.ema=0.5", "schedule.decay=constant"]))
    found = weights(tmp_path / "out")
    kept = load_file(tmp_path / "out" / "weights.safetensors")
    gaps = [float((found[f"network.{k}"] - v).abs().max()) for k, v in kept.items()]
    assert max(gaps) > 1e-4
    assert all(torch.allclose(found[f"average.{k}"].float(), v.float(), atol=1e-3) for k, v in kept.items())


def test_a_training_without_an_average_keeps_the_last_weights(settings, tmp_path):
    train(load_training(small(settings), overrides=["schedule.ema=null"]))
    assert not any(k.startswith("average.") for k in weights(tmp_path / "out"))


def test_a_loss_that_explodes_is_told(settings):
    with pytest.raises(DivergedError, match="make schedule.rate"):
        train(load_training(small(settings), overrides=["schedule.rate=1e30", "schedule.clip=null"]))


def test_a_patch_that_the_network_cannot_take_is_told(settings):
    with pytest.raises(ConfigError, match="multiples of 16 voxels for invgan"):
        train(load_training(small(settings, "invgan"), overrides=["data.patch=24"]))
    losses = [{"name": "supervised"}, {"name": "adversarial"}]
    with pytest.raises(ConfigError, match="multiples of 64 voxels for its discriminators"):
        train(load_training(small(settings, losses=losses)))


def test_schedules():
    s = Schedule(steps=100, rate=1.0, warmup=10)
    assert learning_rate(s, 0) == pytest.approx(0.1) and learning_rate(s, 9) == 1.0
    assert learning_rate(s, 55) == pytest.approx(0.505) and learning_rate(s, 99) == pytest.approx(0.01, abs=2e-3)
    assert learning_rate(Schedule(steps=100, rate=1.0, decay="constant"), 99) == 1.0


def test_a_checkpoint_that_is_damaged_is_told(tmp_path):
    path = tmp_path / "a.safetensors"
    checkpoint.write(path, {"a.x": torch.ones(3)}, {"step": 4})
    tensors, about = checkpoint.read(path)
    assert about["step"] == 4 and torch.equal(tensors["a.x"], torch.ones(3))
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CorruptDataError, match="remove it to start again"):
        checkpoint.read(path)


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD])
def test_optimisers_come_back_exactly(kind, tmp_path):
    def make():
        torch.manual_seed(0)
        module = torch.nn.Linear(3, 2)
        return module, kind(module.parameters(), lr=0.1)

    def step(module, optimiser, seed):
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(seed))
        optimiser.zero_grad()
        module(x).square().sum().backward()
        optimiser.step()

    one, first = make()
    for seed in range(3):
        step(one, first, seed)
    checkpoint.write(tmp_path / "c", checkpoint.flatten({"m": one}, {"o": first}), {})
    other, second = make()
    checkpoint.restore(checkpoint.read(tmp_path / "c")[0], {"m": other}, {"o": second})
    for module, optimiser in ((one, first), (other, second)):
        step(module, optimiser, 9)
    assert torch.equal(one.weight, other.weight)


def test_a_table_goes_on_after_a_step_and_survives_a_last_row_that_was_cut(tmp_path):
    table = Table(tmp_path / "t.csv", 0)
    for step in (1, 2, 3):
        table.add(step, {"loss": step / 2})
    with (tmp_path / "t.csv").open("a") as file:
        file.write("4,")
    table = Table(tmp_path / "t.csv", 2)
    table.add(3, {"loss": 9.0})
    assert read(tmp_path / "t.csv") == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 1.0}, {"step": 3, "loss": 9.0}]


def test_tensorboard_is_written_or_its_absence_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match=r"bigreg\[train\]"):
        Board(tmp_path, True)
    Board(tmp_path, False).add("losses", 1, {"loss": 1.0})


def test_tensorboard_shows_the_losses(tmp_path):
    pytest.importorskip("tensorboard", reason="needs the extra 'train'")
    board = Board(tmp_path, True)
    board.add("losses", 1, {"loss": 1.0})
    board.close()
    assert list((tmp_path / "tensorboard").iterdir())
