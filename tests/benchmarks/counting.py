"""What a step consists of: operations counted as they are dispatched, rates measured, time by part."""

import time
from collections import Counter
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

SINES = {torch.ops.aten.sin, torch.ops.aten.cos}


class Count(TorchDispatchMode):
    """Operations of products and convolutions (a multiply-add is two), and sines and cosines, by precision."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[torch.dtype] = Counter()
        self.sines: Counter[torch.dtype] = Counter()

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        packet = function._overloadpacket
        if packet in flop_registry:
            self.operations[arguments[0].dtype] += flop_registry[packet](*arguments, **(keywords or {}), out_val=result)
        elif packet in SINES:
            self.sines[arguments[0].dtype] += arguments[0].numel()
        return result


def count(step: Callable[[], object]) -> Count:
    with Count() as counted:
        step()
    return counted


def best_seconds(work: Callable[[], object], repeats: int = 15) -> float:
    """The quickest of some repeats: a rate that the machine can reach."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def product_rates(precision: torch.dtype) -> dict[str, float]:
    """Operations a second of a square matrix product, and of oneDNN's on the decoder's sizes (a 1×1 convolution)."""
    a = torch.randn(2048, 2048, dtype=precision)
    x = torch.randn(64, 256, 8, 8, dtype=precision).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(256, 256, 1, 1, dtype=precision)
    return {
        "matmul_2048": 2 * 2048**3 / best_seconds(lambda: a @ a, 5),
        "onednn_4096x256x256": 2 * 4096 * 256**2 / best_seconds(lambda: torch.nn.functional.conv2d(x, weight)),
    }


def sine_rate(precision: torch.dtype) -> float:
    """Sines a second, in the cache."""
    x = torch.randn(2**20).to(precision)
    return x.numel() / best_seconds(lambda: torch.sin(x))


def seconds_by_part(step: Callable[[], object]) -> dict[str, float]:
    """Self time of a step's operators, by what they do.

    Of the third profiled step: what the profiler allocates breaks up the memory that steps use again and again, and in
    the first two the system clears new pages (half a million faults a step, seen; none in the third, or unprofiled).
    """
    for _ in range(3):
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiled:
            step()
    seconds: Counter[str] = Counter()
    for event in profiled.events():
        seconds[part_of(event.name, event.input_shapes)] += event.self_cpu_time_total / 1e6
    return dict(seconds.most_common())


def part_of(operator: str, shapes: list[list[int]]) -> str:
    """What an operator does, by its name and its inputs' shapes."""
    kernel = next((shape for shape in shapes[1:] if len(shape) == 4), []) if "conv" in operator else []
    if "conv" in operator:
        kernel = shapes[2] if "backward" in operator and len(shapes) > 2 else kernel
        if kernel[-2:] == [11, 11]:
            return "pre-filter"
        return "decoder and head products" if kernel[-2:] == [1, 1] else "convolutions"
    parts = {
        "sines": ("aten::sin", "aten::cos"),
        "decoder and head products": ("mm", "aten::linear"),
        "batch norm, ReLU, pooling": ("batch_norm", "pool", "threshold_backward", "clamp_min", "relu"),
        "FFT": ("fft",),
        "SVD": ("svd", "linalg"),
    }
    for part, names in parts.items():
        if any(name in operator for name in names):
            return part
    return "rest: copies, CTF, phases, exp, loss, optimiser"
