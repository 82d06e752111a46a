"""The simulated CUDA device refuses what a GPU refuses, computes what PyTorch computes, and counts it."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch

from bigreg.testing import DeviceMismatchError, HostAccessError, simulated_cuda


@pytest.fixture
def device():
    with simulated_cuda() as simulated:
        yield simulated


def test_tensors_say_cuda_and_hold_the_values(device):
    a = torch.arange(6.0).reshape(2, 3)
    for there in (a.to("cuda"), a.cuda(), a.to(torch.device("cuda", 0)), torch.as_tensor(a.numpy(), device="cuda")):
        assert (there.device, there.is_cuda, there.is_cpu) == (torch.device("cuda", 0), True, False)
        assert torch.equal(there.cpu(), a) and torch.equal(there.to("cpu"), a) and there.tolist() == a.tolist()
    made = torch.ones(2, 3, device=there.device) + there * 2
    assert made.is_cuda and torch.equal(made.cpu(), a * 2 + 1)
    assert torch.equal(made.new_tensor([1.0]).cpu(), torch.ones(1)) and made.double().dtype == torch.float64
    made[0] = 5.0
    assert made[0].tolist() == [5.0] * 3 and float(made.sum()) == 15 + 7 + 9 + 11


@pytest.mark.parametrize(
    "mixed",
    [
        lambda there, here: there + here,
        lambda there, here: torch.cat([here, there]),
        lambda there, here: torch.where(there > 0, there, here),
        lambda there, here: there @ here.T,
    ],
)
def test_operations_that_mix_devices_raise(device, mixed):
    here = torch.ones(2, 3)
    with pytest.raises(DeviceMismatchError, match="on the same device"):
        mixed(here.cuda(), here)
    assert torch.equal(mixed(here.cuda(), here.cuda()).cpu(), mixed(here, here))


def test_numbers_and_indices_of_the_host_may_be_mixed_in(device):
    there = torch.arange(4.0).cuda()
    assert (there + torch.tensor(1.0) + 1).tolist() == [2, 3, 4, 5]
    assert there[torch.tensor([3, 0])].tolist() == [3, 0]


@pytest.mark.parametrize("access", [lambda t: t.numpy(), np.asarray, lambda t: t.data_ptr()])
def test_the_host_may_not_look_at_the_device(device, access):
    with pytest.raises(HostAccessError, match="cpu"):
        access(torch.ones(3).cuda())


def test_kernels_transfers_and_waits_are_counted(device):
    with device.measured() as counts:
        a = torch.ones(10, 10).cuda()
        b = (a * 2).reshape(100)[5:].view(5, 19)
        assert float(b.sum()) == 190
        b.cpu()
        torch.nonzero(a)
    assert dict(counts.kernels) == {"mul": 1, "sum": 1, "nonzero": 1}
    assert (counts.to_device, counts.to_device_bytes, counts.to_host, counts.waits) == (1, 400, 1, 3)
    assert counts.bytes == 800 + 380 + 4 + 400 + 1600
    with device.measured() as nothing:
        pass
    assert nothing.launches == 0 and device.counts.launches == 3


def test_memory_is_counted_until_it_is_free_and_ends_where_it_is_said():
    with simulated_cuda(1000) as device:
        a = torch.ones(100, device="cuda")
        view = a[10:]
        assert device.in_use == 400 and torch.cuda.mem_get_info() == (600, 1000)
        del a
        assert device.in_use == 400
        with pytest.raises(torch.OutOfMemoryError, match="400 are in use"):
            torch.ones(200, device="cuda")
        del view
        gc.collect()
        assert device.in_use == 0 and device.counts.peak_bytes == 400
        torch.ones(200, device="cuda")


def test_sums_whose_order_a_gpu_leaves_open_are_named(device):
    place, weight = torch.tensor([0, 0, 1]).cuda(), torch.ones(3).cuda()
    torch.zeros(2, dtype=torch.int64, device="cuda").index_add_(0, place, place)
    assert not device.counts.unordered
    torch.bincount(place, weight)
    torch.zeros(2, device="cuda").index_add_(0, place, weight)
    torch.zeros(2, device="cuda").index_put_((place,), weight, accumulate=True)
    assert [key.split()[0] for key in device.counts.unordered] == ["bincount", "index_add_", "index_put_"]


def test_a_broken_device_stays_broken(device):
    a = torch.ones(3).cuda()
    device.break_down()
    for use in (lambda: a + 1, a.cpu, lambda: torch.ones(3).cuda()):
        with pytest.raises(RuntimeError, match="illegal memory access"):
            use()


def test_a_network_is_moved_there_and_learns(device):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv3d(1, 2, 3), torch.nn.ReLU(), torch.nn.Conv3d(2, 1, 1))
    x = torch.rand(1, 1, 5, 5, 5)
    here = net(x)
    here.square().mean().backward()
    slope = net[0].weight.grad.clone()
    there = net.to("cuda")
    there.zero_grad()
    with pytest.raises(DeviceMismatchError):
        there(x)
    found = there(x.cuda())
    torch.testing.assert_close(found.detach().cpu(), here.detach())
    found.square().mean().backward()
    torch.testing.assert_close(there[0].weight.grad.cpu(), slope)


def test_afterwards_all_is_as_before():
    before = torch.cuda.is_available(), torch.cuda.device_count()
    with simulated_cuda():
        assert torch.cuda.is_available() and torch.cuda.get_device_name() == "simulated CUDA device"
    assert (torch.cuda.is_available(), torch.cuda.device_count()) == before
