"""Several jobs on one machine never share a GPU, and a machine without one falls back to the CPU."""

import multiprocessing
import os
import platform
import resource
import subprocess
import sys
import time
from contextlib import ExitStack, nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from equipose.model import devices
from equipose.model.devices import claim_device, usable_precision


def test_without_a_gpu_the_device_is_the_cpu(tmp_path):
    with claim_device(1, print, tmp_path) as device:
        assert device == torch.device("cpu")


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid=f"gpu-{index}"))
    monkeypatch.setattr(torch.cuda, "device", lambda index: nullcontext())


def test_two_jobs_get_two_gpus_and_a_freed_one_is_taken_again(two_gpus, tmp_path):
    with claim_device(1, print, tmp_path) as first:
        with claim_device(1, print, tmp_path) as second:
            assert (first.index, second.index) == (0, 1)
        with claim_device(1, print, tmp_path) as third:
            assert third.index == 1


def test_jobs_that_may_share_a_gpu_spread_over_all_of_them_first(two_gpus, tmp_path):
    with ExitStack() as held:
        assert [held.enter_context(claim_device(2, print, tmp_path)).index for _ in range(4)] == [0, 1, 0, 1]


def hold(folder, claimed):
    with claim_device(1, print, folder) as device:
        claimed.put(device.index)
        time.sleep(60)


def test_a_third_job_waits_until_a_gpu_is_free_even_if_its_holder_is_killed(two_gpus, tmp_path, monkeypatch):
    monkeypatch.setattr("equipose.model.devices.POLL_SECONDS", 0.05)
    context = multiprocessing.get_context("fork")
    claimed = context.Queue()
    jobs = [context.Process(target=hold, args=(tmp_path, claimed), daemon=True) for _ in range(3)]
    try:
        for job in jobs[:2]:
            job.start()
        assert sorted([claimed.get(timeout=10), claimed.get(timeout=10)]) == [0, 1]
        jobs[2].start()
        jobs[2].join(0.3)
        assert jobs[2].is_alive() and claimed.empty()
        jobs[0].kill()
        assert claimed.get(timeout=10) in (0, 1)
    finally:
        for job in jobs:
            job.kill()


def test_who_waits_for_a_gpu_says_so_once_and_who_holds_it_and_when_it_got_one(two_gpus, tmp_path, monkeypatch):
    waits = iter([None, None])  # both GPUs are held at two looks, and free at the third
    said: list[str] = []
    with ExitStack() as held:
        for _ in range(2):
            held.enter_context(claim_device(1, said.append, tmp_path))
        assert said == []
        monkeypatch.setattr(devices.time, "sleep", lambda _: next(waits, "free") and held.close())
        with claim_device(1, said.append, tmp_path) as device:
            assert device.index == 0
    holder = f"process {os.getpid()} in {Path.cwd()}"
    assert said[0] == f"waiting for a GPU: all of this machine's are held by {holder}"
    assert said[1].startswith("got GPU 0 after ") and len(said) == 2


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_freed_memory_is_used_again_without_new_pages():
    code = """if True:
        import resource, torch
        from equipose.model.devices import keep_freed_memory
        keep_freed_memory()
        for _ in range(20):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            torch.ones(2**24)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    """
    faults = int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
    assert faults < 0.01 * 2**26 / resource.getpagesize()


@pytest.mark.parametrize(("bfloat16_seconds", "usable"), [(1.0, "bfloat16"), (3.0, "float32")])
def test_bfloat16_is_used_only_where_it_is_faster(monkeypatch, bfloat16_seconds, usable):
    monkeypatch.setattr(devices, "least_seconds", lambda *ways: [2.0, bfloat16_seconds])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    choose = usable_precision.__wrapped__
    assert choose("bfloat16") == usable
    assert choose("float32") == "float32"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose("bfloat16") == "bfloat16"


def test_ways_are_compared_by_times_in_which_nobody_else_was_served(monkeypatch):
    """Other processes disturb all measurements but one of each way, which take 2 s and 1 s."""
    seconds = [(2.0, 1.0)[turn % 2] + (0 if turn in (12, 27) else 100) for turn in range(40)]
    ends = np.cumsum(seconds, dtype=float)
    clock = iter(np.stack([ends - seconds, ends], axis=1).flatten())
    monkeypatch.setattr(devices.time, "perf_counter", lambda: next(clock))
    assert devices.least_seconds(bool, bool) == pytest.approx([2.0, 1.0])


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_the_measured_convolution_is_one_in_the_precision_asked_for(kind):
    assert devices.convolution(kind)().dtype == kind
    assert min(devices.least_seconds(devices.convolution(kind))) > 0
