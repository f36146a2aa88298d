"""Convolutions of the encoders: PyTorch's, or with a quarter of the products where that is faster.

oneDNN's convolution of a wide layer in float32 runs at the processor's peak: only fewer multiplications are faster. By
Winograd's algorithm (Lavin & Gray 2016, F(4×4, 3×3)) a tile of 6×6 inputs and a kernel are polynomials, known by their
values at 36 points: 36 products, one a point, stand for the 144 of the tile's 4×4 outputs. On a GPU cuDNN does so by
itself, and bfloat16 has too few digits for it.
"""

import functools
from collections.abc import Iterator
from itertools import product

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from equipose.devices import least_seconds

LEAST_CHANNELS = 64
"""With fewer, the way to the points and back takes longer than it saves (tests/benchmarks/README.md)."""

CHUNK = 2**22
"""Values at the points that are worked on at once: caches hold them, and memory is bounded."""

KEPT = 2**21
"""Values at the points, of one image, that are kept for the backward pass. They are 2.25 times as many as a layer's
inputs; of a larger layer the inputs are kept, and the values found anew."""


def _both_ways(one_way: list[list[float]]) -> Tensor:
    """What `one_way` does along rows, done along rows and columns of squares that are flattened."""
    matrix = torch.tensor(one_way, dtype=torch.float64)
    return torch.kron(matrix, matrix)


# Values of a kernel and of a tile at the points, 0, 1, -1, 2, -2 and infinity each way, and outputs from such values.
OF_KERNEL = _both_ways(
    [[1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6]]
    + [[1 / 24, 1 / 12, 1 / 6], [1 / 24, -1 / 12, 1 / 6], [0, 0, 1]]
)
OF_TILE = _both_ways(
    [[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0]]
    + [[0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]]
)
TO_OUTPUTS = _both_ways([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])

EVERYWHERE = 6 * 1 + 1
"""The point (1, 1), whose value goes into all 16 outputs alike, as a bias does."""


def convolve(x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    """Images (b, c, h, w) by a kernel (o, c, n, n), with (n - 1) // 2 zeros around them: (b, o, h', w')."""
    outputs, channels, size, _ = kernel.shape
    wide = x.device.type == "cpu" and x.dtype == torch.float32 and min(outputs, channels) >= LEAST_CHANNELS
    if wide and size == 3 and x.shape[2] % 4 == x.shape[3] % 4 == 0 and winograd_pays():
        return Winograd.apply(x, kernel, bias)
    return functional.conv2d(x, kernel, bias, padding=(size - 1) // 2)


@functools.cache
def winograd_pays() -> bool:
    """Whether this processor is faster that way, by a wide layer's forward pass, measured once in a third of a second.

    The products are MKL's, which takes twice as long for them on AMD's processors as oneDNN does. Were both ways as
    fast on some processor, its processes might choose differently, and a continued run differ in its last digits.
    """
    shapes = (4, 128, 32, 32), (128, 128, 3, 3)
    images, kernel = (torch.ones(shape).contiguous(memory_format=torch.channels_last) for shape in shapes)
    bias = torch.ones(len(kernel))
    with torch.no_grad():
        ours, theirs = least_seconds(
            lambda: Winograd.apply(images, kernel, bias), lambda: functional.conv2d(images, kernel, bias, padding=1)
        )
    return ours < theirs


class Winograd(torch.autograd.Function):
    """`convolve` for 3×3 kernels and sides that are multiples of four, channels last in memory."""

    @staticmethod
    def forward(ctx, x, kernel, bias):
        outputs, channels = kernel.shape[:2]
        kernels = _transform(OF_KERNEL, kernel.permute(2, 3, 0, 1)).view(36, outputs, channels)
        result, kept = _like(x, outputs), []
        for image, target in _chunks(x, result):
            of_tiles = _values(image)
            products = torch.bmm(of_tiles, kernels.mT)
            products[EVERYWHERE] += bias
            squares = _squares(target)
            squares.copy_(_transform(TO_OUTPUTS, products).view(squares.shape))
            kept.append(of_tiles if of_tiles.numel() <= KEPT * len(image) else image)
        ctx.save_for_backward(kernels, *kept)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        kernels, *kept = ctx.saved_tensors
        _, outputs, channels = kernels.shape
        result, d_kernels, d_bias = _like(gradient, channels), torch.empty_like(kernels), kernels.new_zeros(outputs)
        for (image, target), known in zip(_chunks(gradient, result), kept, strict=True):
            d_products = _transform(TO_OUTPUTS.T, _squares(image)).view(36, -1, outputs)
            d_bias += d_products[EVERYWHERE].sum(0)
            of_tiles = known if known.dim() == 3 else _values(known)
            # (β = 0 ignores what is there, so that the first chunk needs no zeros)
            torch.baddbmm(d_kernels, d_products.mT, of_tiles, beta=float(known is not kept[0]), out=d_kernels)
            _add_tiles(_transform(OF_TILE.T, torch.bmm(d_products, kernels)), target)
        d_kernel = _transform(OF_KERNEL.T, d_kernels).view(3, 3, outputs, channels).permute(2, 3, 0, 1)
        return result, d_kernel, d_bias


def _transform(matrix: Tensor, squares: Tensor) -> Tensor:
    """`matrix` (m, n) times squares, whose first one or two dimensions have n places: (m, all the rest)."""
    return matrix.to(squares) @ squares.reshape(matrix.shape[1], -1)


def _values(images: Tensor) -> Tensor:
    """The tiles of images (b, h, w, c) at the points, (36, b · h · w / 16, c)."""
    return _transform(OF_TILE, _tiles(images)).view(36, -1, images.shape[3])


def _like(x: Tensor, channels: int) -> Tensor:
    """Images (b, channels, h, w), channels last in memory, of which nothing is set."""
    shape = len(x), channels, *x.shape[2:]
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _chunks(x: Tensor, result: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Some images of both at a time, (b, h, w, channels)."""
    values = 36 * max(x.shape[1], result.shape[1]) * x.shape[2] * x.shape[3] // 16
    some = max(1, CHUNK // values)
    images, target = x.permute(0, 2, 3, 1).contiguous(), result.permute(0, 2, 3, 1)
    return zip(images.split(some), target.split(some), strict=True)


def _squares(images: Tensor) -> Tensor:
    """The same images (b, h, w, c) as squares of 4×4 pixels, (4, 4, b, h / 4, w / 4, c)."""
    return images.unflatten(1, (-1, 4)).unflatten(3, (-1, 4)).permute(2, 4, 0, 1, 3, 5)


def _tiles(images: Tensor) -> Tensor:
    """A tile for each of the squares: its pixels and those next to them, (6, 6, b, h / 4, w / 4, c)."""
    b, h, w, c = images.shape
    tiles = images.new_empty(6, 6, b, h // 4, w // 4, c)
    tiles[0, :, :, 0] = tiles[5, :, :, -1] = tiles[:, 0, :, :, 0] = tiles[:, 5, :, :, -1] = 0
    for of_tiles, of_squares in _same_pixels(tiles, _squares(images)):
        of_tiles.copy_(of_squares)
    return tiles


def _add_tiles(tiles: Tensor, images: Tensor) -> None:
    """Images (b, h, w, c) become the sum of the tiles that a pixel is in."""
    squares = _squares(images)
    (inner, pixels), *others = _same_pixels(tiles.view(6, 6, *squares.shape[2:]), squares)
    pixels.copy_(inner)
    for of_tiles, of_squares in others:
        of_squares.add_(of_tiles)


def _same_pixels(tiles: Tensor, squares: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Parts of the tiles and where the same pixels are in the squares: those of a tile's own square, then the edges."""
    # Rows of a tile, the same rows of a square, and the tiles and squares that have them: a tile's own, the one before.
    every, first, last = slice(None), slice(None, -1), slice(1, None)
    own = slice(1, 5), slice(0, 4), every, every
    before = slice(0, 1), slice(3, 4), last, first
    after = slice(5, 6), slice(0, 1), first, last
    for (i, p, up, down), (j, q, left, right) in product((own, before, after), repeat=2):
        yield tiles[i, j, :, up, left], squares[p, q, :, down, right]
