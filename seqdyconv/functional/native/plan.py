"""Which kernel does a call: the sizes of its tiles, by the registers that a processor has.

A tile's sums stay in registers, and beside them what a step of its loop reads. Measured with ``benchmarks/ops.py``.
"""

import functools
from dataclasses import dataclass, replace
from typing import Literal

Job = Literal["forward", "input_gradient", "weight_gradient"]
Weights = Literal["per step", "shared", "per channel"]

ITEMSIZES = {"float32": 4, "float64": 8, "bfloat16": 2}
"""Bytes of the numbers that kernels take. LLVM 22 mixes up the lanes of float16."""
FIELDS = (
    *("source", "source_batch", "source_time", "weight", "weight_batch", "weight_time"),
    *("gradient", "gradient_batch", "gradient_time", "output", "output_batch", "output_time"),
    *("batch", "length", "time", "channels", "heads", "kernel_size", "left", "dilation"),
    *("blocks", "rows", "threads", "next"),
)
"""The arguments of a kernel, 64 bits each: three addresses with strides in numbers, sizes, and the next free item."""

UNROLLED_VECTORS = 8  # of channels
_UNROLLED = 8  # taps: a loop over more is a loop in the kernel too, so that one serves all K

# Where all channels fill no two vectors, as in tests and toys, speed matters less than how many kernels are made: there
# one serves all K.


@dataclass(frozen=True)
class Host:
    """The processor that kernels are made for."""

    triple: str
    cpu: str
    features: str
    """As LLVM writes them: ``+avx2,-avx512f``."""

    def has(self, feature: str) -> bool:
        return f"+{feature}" in self.features.split(",")

    @property
    def register_bytes(self) -> int:
        return 64 if self.has("avx512f") else 32 if self.has("avx2") else 16

    @property
    def registers(self) -> int:
        return 32 if self.has("avx512f") or self.has("neon") else 16


@dataclass(frozen=True)
class Kernel:
    """All that the code of a kernel depends on; the other sizes are arguments."""

    job: Job
    weights: Weights
    """(B, T, H, K); (H, K); or (⌈C / R⌉, K, R), for heads that do not fill vectors: then R is that of several heads."""
    dtype: str
    lanes: int
    """Numbers in a register."""
    taps: int
    """K where the loop over taps is unrolled, 0 for any K."""
    channels: int
    """R."""
    rest: int
    """What is left over at the end of what the kernel does in equal parts, see each."""
    steps: int
    """Of the result in a tile."""
    vectors: int
    """Of channels in a tile."""

    @property
    def name(self) -> str:
        numbers = (self.lanes, self.taps, self.channels, self.rest, self.steps, self.vectors)
        return "-".join([self.job, self.weights.replace(" ", "_"), self.dtype, *map(str, numbers)])

    @property
    def taps_in_tile(self) -> int:
        """Of a gradient by kernels per step."""
        return quad_of(self.dtype) * (2 if self.steps == 1 else 1)

    @property
    def heads_share_vectors(self) -> bool:
        return self.weights == "per step" and self.channels < self.lanes

    @property
    def heads_in_vector(self) -> int:
        """How many whole heads are in a vector."""
        return max(1, self.lanes // self.channels)


def lanes_of(host: Host, dtype: str) -> int:
    """Numbers in a register, as they are computed: in float32 at least."""
    return host.register_bytes // max(ITEMSIZES[dtype], 4)


def quad_of(dtype: str) -> int:
    """Numbers in 128 bits, which are transposed together: 4, or 2 of float64."""
    return 16 // max(ITEMSIZES[dtype], 4)


@functools.lru_cache(maxsize=1024)
def convolution(
    host: Host, job: Job, per_step: bool, dtype: str, channels: int, heads: int, kernel_size: int, time: int
) -> Kernel:
    """For an output of so many steps, or a gradient by the input, which is one with the gradient as input."""
    lanes, size = lanes_of(host, dtype), channels // heads
    tiny = channels < 2 * lanes
    taps = kernel_size if kernel_size <= (1 if tiny else _UNROLLED) else 0
    if per_step and size < lanes:
        steps = 1 if tiny else quad_of(dtype) if job == "input_gradient" else 8
        rest = heads % (lanes // size)
        return Kernel(job, "per step", dtype, lanes, taps=taps, channels=size, rest=rest, steps=steps, vectors=1)
    weights: Weights = "per step" if per_step else "shared"
    rest = 0
    if not per_step and size % lanes:
        size = min(4 if taps else 2, max(1, channels // lanes)) * lanes
        weights, rest = "per channel", channels % size
    if taps or time == 1 or tiny:
        # Little work for each number: what counts is that rows are read and written from one end to the other.
        steps, vectors = 1, min(8, size // lanes)
    elif host.registers >= 32:
        vectors = min(4, size // lanes)
        steps = {4: 6, 3: 7, 2: 8, 1: 12}[vectors]
    else:
        vectors = min(2, size // lanes)
        steps = {2: 6, 1: 12}[vectors]
    taps = kernel_size if kernel_size < steps else taps  # the loop over taps needs as many as there are steps
    return Kernel(job, weights, dtype, lanes, taps=taps, channels=size, rest=rest, steps=steps, vectors=vectors)


@functools.lru_cache(maxsize=1024)
def weight_gradient(host: Host, per_step: bool, dtype: str, channels: int, heads: int, kernel_size: int) -> Kernel:
    """For a gradient by the kernels."""
    lanes, size = lanes_of(host, dtype), channels // heads
    tiny = channels < 2 * lanes
    taps = kernel_size if kernel_size <= (1 if tiny else _UNROLLED) else 0
    if not per_step:
        vectors = min(2, max(1, channels // lanes))
        most = 1 if tiny else (24 if host.registers >= 32 else 12) // vectors
        steps = -(-kernel_size // -(-kernel_size // most))  # as few times as can be, of about the same number of taps
        rest = channels % (lanes * vectors)
        return Kernel("weight_gradient", "shared", dtype, lanes, 0, 0, rest=rest, steps=steps, vectors=vectors)
    if size < lanes:
        rest, steps = heads % (lanes // size), 8
    else:
        # Few vectors give each sum few products: more sums at a time share what is read.
        steps = 6 if host.registers >= 32 else 1 if 4 <= size // lanes <= UNROLLED_VECTORS else 3
        rest = 0
    kernel = Kernel("weight_gradient", "per step", dtype, lanes, taps, channels=size, rest=rest, steps=steps, vectors=1)
    return kernel if taps or size < lanes else replace(kernel, rest=kernel_size % kernel.taps_in_tile)
