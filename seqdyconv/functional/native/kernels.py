"""The kernels: what each does to a tile of its result, written for one format, one tile and one width of vectors.

Symbols: B batch, T time, C channels, H heads, K kernel size, R = C // H. Steps of equal ``t mod dilation``, a phase,
are a convolution without dilation of their own. In a phase, output m reads the rows m … m+K−1 of the source, row 0
being the first that output 0 reads. The gradient by the input is the same with the gradient as source and flipped
kernels, that of row u being at step u of the weights.

A sum runs over taps, or over channels and steps, in an order which the sizes alone decide: not which thread does it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from seqdyconv.functional.native.ir import FORMATS, Code, Format, Int, Rows, Variable
from seqdyconv.functional.native.plan import FIELDS, UNROLLED_VECTORS, Kernel, quad_of


def write(kernel: Kernel, triple: str) -> str:
    """The kernel as LLVM's intermediate representation; its function is ``kernel``."""
    code = Code("kernel", FIELDS, triple)
    if kernel.job != "weight_gradient":
        family = _many_heads if kernel.heads_share_vectors else _band
    elif kernel.weights == "per step":
        family = _many_heads_weight_gradient if kernel.heads_share_vectors else _dots
    else:
        family = _sums
    family(code, kernel)
    return code.finish()


# What all do


@dataclass
class Tile:
    """Some steps of one phase of one batch row."""

    code: Code
    batch: Int
    phase: Int
    first: Int
    """The first output."""
    count: Int
    """Of outputs in the phase."""
    valid: tuple[Int, Int]
    """The rows of the source that are in the sequence: from and to."""

    def last(self, step: int) -> Int:
        """The output ``step`` of the tile, or the phase's last one where that is before it: safe to read."""
        return (self.first + step).at_most(self.count - 1)

    def outputs(self, field: str, format: Format) -> Rows:
        """Rows of a tensor that is parallel to the outputs."""
        rows = self.code.rows(field, format, self.batch).from_row(self.phase)
        return rows.every(self.code.argument("dilation"))

    def windows(self, field: str, format: Format) -> Rows:
        """Rows of a tensor that is parallel to the source, which begins ``left`` steps late."""
        rows = self.code.rows(field, format, self.batch).from_row(self.phase - self.code.argument("left"))
        return rows.every(self.code.argument("dilation"))

    def holds(self, start: Int | int, stop: Int | int) -> Any:
        """Whether these rows of the source are in the sequence."""
        return self.code.both(self.code.number(start) >= self.valid[0], self.code.number(stop) <= self.valid[1])

    def only_where_held(self, row: Int, careful: bool) -> AbstractContextManager[Any]:
        """What is written inside is done where a row of the source is in the sequence; unasked where all are."""
        return self.code.only_if(self.holds(row, row + 1)) if careful else nullcontext()


@contextmanager
def _parts(code: Code) -> Iterator[tuple[Tile, Int]]:
    """What this thread does, neighbouring outputs at a time, which read much of the same: a tile and where they end."""
    blocks, dilation = code.argument("blocks"), code.argument("dilation")

    def phase_length(steps: Int) -> Int:
        return (steps.at_least(0) + dilation - 1) // dilation

    with code.items(code.argument("batch") * dilation * blocks) as item:
        sequence = item // blocks
        batch, phase, start = sequence // dilation, sequence % dilation, item % blocks * code.argument("rows")
        count = phase_length(code.argument("time") - phase)
        before = code.argument("left") - phase
        valid = phase_length(before), phase_length(before + code.argument("length"))
        yield Tile(code, batch, phase, start, count, valid), (start + code.argument("rows")).at_most(count)


@contextmanager
def _tiles(code: Code, steps: int) -> Iterator[Tile]:
    """The tiles of its parts, one after another."""
    with _parts(code) as (part, end), code.loop(part.first, end, steps) as first:
        yield replace(part, first=first)


def _fast_or_careful(code: Code, fast: Any, write: Callable[[bool], None]) -> None:
    """The same code twice: for where all it touches is there, and with a check of each row."""
    with code.builder.if_else(fast) as (then, otherwise):
        with then:
            write(False)
        with otherwise:
            write(True)


def _over_window(tile: Tile, kernel: Kernel, taps: Int | int, row: Callable[[Int | int, Sequence[int]], None]) -> None:
    """``row`` of each row of a tile's window and the steps of the tile that it is a tap of."""
    code, steps = tile.code, range(kernel.steps)

    def rows(careful: bool) -> None:
        def perhaps(j: Int | int, active: Sequence[int]) -> None:
            with tile.only_where_held(tile.first + j, careful):
                row(j, active)

        if kernel.taps:
            for j in range(kernel.taps + len(steps) - 1):
                perhaps(j, [step for step in steps if 0 <= j - step < kernel.taps])
            return
        for j in steps:
            perhaps(j, steps[: j + 1])
        start, stop = code.number(len(steps)), code.number(taps)
        if careful:
            start = start.at_least(tile.valid[0] - tile.first)
            stop = stop.at_most(tile.valid[1] - tile.first)
        with code.loop(start, stop) as middle:
            row(middle, steps)
        for j in steps[:-1]:
            perhaps(taps + j, steps[j + 1 :])

    _fast_or_careful(code, tile.holds(tile.first, tile.first + (len(steps) - 1) + taps), rows)


def _split(channels: int, lanes: int) -> list[tuple[int, int]]:
    """Where the vectors of so many channels begin, and their lanes."""
    return [(start, min(lanes, channels - start)) for start in range(0, channels, lanes)]


# Output and gradient by the input, where a vector is of one head or has a kernel for each lane


def _band(code: Code, kernel: Kernel) -> None:
    """Each row of the source is read once for all outputs of a tile; each kernel for all vectors of it.

    ``rest``: the lanes of the last vector, where kernels are per channel.
    """
    size = kernel.lanes * kernel.vectors
    with _tiles(code, kernel.steps) as tile:
        band = _Band(code, kernel, tile)
        with code.loop(0, code.argument("heads")) as head:
            channel = head * kernel.channels
            if whole := kernel.channels // size:
                with code.loop(0, whole) as part:
                    band.block(head, channel + part * size, _split(size, kernel.lanes))
            if rest := kernel.channels % size:
                band.block(head, channel + whole * size, _split(rest, kernel.lanes))
        if kernel.rest:
            heads = code.argument("heads")
            band.block(heads, heads * kernel.channels, _split(kernel.rest, kernel.lanes))


_CACHE_LINE = 64  # bytes


class _Band:
    def __init__(self, code: Code, kernel: Kernel, tile: Tile) -> None:
        self.code, self.kernel, self.tile = code, kernel, tile
        self.format = FORMATS[kernel.dtype]
        self.taps: Int | int = kernel.taps or code.argument("kernel_size")
        self.source, self.output = tile.windows("source", self.format), tile.outputs("output", self.format)
        self.in_order = kernel.weights == "per channel"  # the lanes of which have kernels of their own
        if kernel.weights != "per step":
            self.weights = [code.rows("weight", _of_shared(kernel), 0)] * kernel.steps
        elif kernel.job == "forward":
            weights = tile.outputs("weight", self.format)
            self.weights = [weights.from_row(tile.last(step)) for step in range(kernel.steps)]
        else:
            self.weights = [tile.windows("weight", self.format).from_row(tile.first)] * kernel.steps

    def block(self, head: Int, channel: Int, vectors: Sequence[tuple[int, int]]) -> None:
        """The tile's outputs in a few vectors of channels."""
        code, tile, steps = self.code, self.tile, range(self.kernel.steps)
        sums = [[Variable(code, code.zeros(self.format, lanes)) for _, lanes in vectors] for _ in steps]

        def row(j: Int | int, active: Sequence[int]) -> None:
            """What row ``j`` of the tile's window adds to the outputs that it is a tap of."""
            inputs = self.source.load_vectors(tile.first + j, channel, vectors, self.in_order)
            for step in active:
                factors = self.weights_of(head, step, j, vectors)
                for total, factor, input in zip(sums[step], factors, inputs):
                    total.set(code.multiply_add(factor, input, total.get()))

        self.prefetch(channel, vectors)
        _over_window(tile, self.kernel, self.taps, row)
        for step in steps:
            with code.only_if(tile.first + step < tile.count):
                totals = [total.get() for total in sums[step]]
                self.output.store_vectors(tile.first + step, channel, vectors, totals, self.in_order)

    def prefetch(self, channel: Int, vectors: Sequence[tuple[int, int]]) -> None:
        """The rows that the tile after the next one is the first to touch, which the processor does not foresee."""
        first = self.tile.first + 2 * self.kernel.steps
        for step in range(self.kernel.steps):
            for start in range(0, sum(lanes for _, lanes in vectors), _CACHE_LINE // self.format.itemsize):
                self.source.prefetch(first + step + (self.taps - 1), channel + start)
                self.output.prefetch(first + step, channel + start, write=True)

    def weights_of(self, head: Int, step: int, j: Int | int, vectors: Sequence[tuple[int, int]]) -> list[Any]:
        """The kernel of output ``step`` at row ``j`` of the tile's window, for each vector of channels."""
        rows, per_step = self.weights[step], self.kernel.weights == "per step"
        tap = j - step if self.kernel.job == "forward" else self.taps - 1 - j + step
        if self.kernel.weights == "per channel":
            column = (head * self.taps + tap) * self.kernel.channels
            return [rows.load(0, column + start, lanes) for start, lanes in vectors]
        row = j if per_step and self.kernel.job != "forward" else 0
        column, neighbour = head * self.taps + tap, self.neighbour(step, j, tap)
        same = {lanes: rows.splat(row, column, lanes, neighbour) for _, lanes in vectors}
        return [same[lanes] for _, lanes in vectors]

    def neighbour(self, step: int, j: Int | int, tap: Int | int) -> int:
        """On which side of a tap the kernel has another one: -1, 1, or 0 where on none."""
        if isinstance(self.taps, int) and isinstance(tap, int):
            return 1 if tap + 1 < self.taps else -1 if tap else 0
        # Where K is any it is more than the steps, and the loop over rows begins with the one after row ``steps`` - 1.
        if self.kernel.job == "forward":
            return 1 if isinstance(tap, int) and tap == 0 else -1
        return -1 if isinstance(j, int) and j == step else 1


def _of_shared(kernel: Kernel) -> Format:
    """Shared kernels are few: they come as what is computed with."""
    return FORMATS["float64" if kernel.dtype == "float64" else "float32"]


# Output and gradients where a vector has several heads, each with kernels per step


class _Heads:
    """A vector of whole heads, and the kernels of its lanes."""

    def __init__(self, code: Code, kernel: Kernel, heads: int) -> None:
        self.code, self.kernel, self.heads = code, kernel, heads
        self.lanes = heads * kernel.channels
        self.format = FORMATS[kernel.dtype]
        self.quad = quad_of(kernel.dtype)
        self.taps: Int | int = kernel.taps or code.argument("kernel_size")

    def column(self, head: Int | int, tap: Int | int) -> Int | int:
        """Where the kernel of a head is in a row of weights."""
        return head * self.taps + tap

    def kernels(self, weights: Rows, row: Int | int, head: Int, tap: Int | int, count: int) -> list[Any]:
        """``count`` vectors, at most a quad: those taps from ``tap`` on of each lane's head."""
        loaded = [weights.load_stored(row, self.column(head + i, tap), count) for i in range(self.heads)]
        quads = [self.code.part(quad, 0, self.quad) for quad in loaded]
        places = -(-self.lanes // self.quad) * self.quad
        of_lane = [quads[min(lane // self.kernel.channels, self.heads - 1)] for lane in range(places)]
        rows = [self.code.join(of_lane[i :: self.quad]) for i in range(self.quad)]
        columns = self.code.transpose([self.code.widen(each, self.format) for each in rows])
        return [self.code.part(column, 0, self.lanes) for column in columns[:count]]

    def kernel_sums(self, products: Sequence[Any]) -> list[Any]:
        """For each head the sums over its lanes, a vector of as many numbers as there are products."""
        places = -(-self.lanes // self.quad) * self.quad
        nothing = [self.code.zeros(self.format, self.lanes)] * (self.quad - len(products))
        rows = self.code.transpose([self.code.part(product, 0, places) for product in [*products, *nothing]])
        of_lane = [
            self.code.part(rows[lane % self.quad], lane // self.quad * self.quad, self.quad)
            for lane in range(self.lanes)
        ]
        size = self.kernel.channels
        sums = [self.code.add(*of_lane[head * size : (head + 1) * size]) for head in range(self.heads)]
        return [self.code.part(each, 0, len(products)) for each in sums]

    def perhaps_zero(self, tile: Tile, rows: Rows, row: Int, channel: Int, careful: bool) -> Any:
        """A row of the source, zeros where it is none."""
        vector = Variable(self.code, self.code.zeros(self.format, self.lanes))
        with tile.only_where_held(row, careful):
            vector.set(rows.load(row, channel, self.lanes))
        return vector.get()

    def over_taps(self, quad: Callable[[Int | int, int], None]) -> None:
        """``quad`` of (tap, count) for all taps."""
        if self.kernel.taps:
            for start, count in _split(self.kernel.taps, self.quad):
                quad(start, count)
            return
        several = self.code.number(self.taps) // self.quad * self.quad
        with self.code.loop(0, several, self.quad) as tap:
            quad(tap, self.quad)
        with self.code.loop(several, self.taps) as tap:
            quad(tap, 1)


def _each_vector(code: Code, kernel: Kernel, write: Callable[[_Heads, Int, Int], None]) -> None:
    """``write`` of (heads, head, channel) for all vectors; ``rest``: the heads of the last one."""
    several = kernel.heads_in_vector
    heads = code.argument("heads")
    with code.loop(0, heads // several) as group:
        write(_Heads(code, kernel, several), group * several, group * (several * kernel.channels))
    if kernel.rest:
        head = heads - kernel.rest
        write(_Heads(code, kernel, kernel.rest), head, head * kernel.channels)


def _each_step(code: Code, kernel: Kernel, write: Callable[[Tile, Int, bool], None]) -> None:
    """``write`` of (tile, output, careful) for each output of a tile alone."""
    taps = kernel.taps or code.argument("kernel_size")
    with (
        _tiles(code, kernel.steps) as tile,
        code.loop(tile.first, (tile.first + kernel.steps).at_most(tile.count)) as step,
    ):
        _fast_or_careful(code, tile.holds(step, step + taps), lambda careful: write(tile, step, careful))


def _many_heads(code: Code, kernel: Kernel) -> None:
    if kernel.job == "forward":
        _many_heads_forward(code, kernel)
    else:
        _many_heads_input_gradient(code, kernel)


def _many_heads_forward(code: Code, kernel: Kernel) -> None:
    """A quad of kernels at a time; each of its taps has a sum of its own, so that none waits for another."""
    format = FORMATS[kernel.dtype]

    def step(tile: Tile, m: Int, careful: bool) -> None:
        source, weights = tile.windows("source", format), tile.outputs("weight", format)
        output = tile.outputs("output", format)

        def vector(heads: _Heads, head: Int, channel: Int) -> None:
            sums = [Variable(code, code.zeros(format, heads.lanes)) for _ in range(heads.quad)]

            def quad(tap: Int | int, count: int) -> None:
                for i, kernels in enumerate(heads.kernels(weights, m, head, tap, count)):
                    row = m + tap + i
                    with tile.only_where_held(row, careful):
                        input = source.load(row, channel, heads.lanes)
                        sums[i].set(code.multiply_add(kernels, input, sums[i].get()))

            heads.over_taps(quad)
            output.store(m, channel, code.add(*(total.get() for total in sums)))

        _each_vector(code, kernel, vector)

    _each_step(code, kernel, step)


def _many_heads_input_gradient(code: Code, kernel: Kernel) -> None:
    """A quad of outputs at a time: what they take from one row of the source are neighbouring taps of its kernels."""
    format, steps = FORMATS[kernel.dtype], range(kernel.steps)

    def vector(tile: Tile, heads: _Heads, head: Int, channel: Int) -> None:
        source, weights = tile.windows("source", format), tile.windows("weight", format)
        sums = [Variable(code, code.zeros(format, heads.lanes)) for _ in steps]

        def row(j: Int | int, active: Sequence[int]) -> None:
            u = tile.first + j
            input = source.load(u, channel, heads.lanes)
            tap = heads.taps - 1 - j + active[0]
            for start, count in _split(len(active), heads.quad):
                for i, kernels in enumerate(heads.kernels(weights, u, head, tap + start, count)):
                    total = sums[active[start + i]]
                    total.set(code.multiply_add(kernels, input, total.get()))

        _over_window(tile, kernel, heads.taps, row)
        output = tile.outputs("output", format)
        for step in steps:
            with code.only_if(tile.first + step < tile.count):
                output.store(tile.first + step, channel, sums[step].get())

    with _tiles(code, kernel.steps) as tile:
        _each_vector(code, kernel, lambda heads, head, channel: vector(tile, heads, head, channel))


def _many_heads_weight_gradient(code: Code, kernel: Kernel) -> None:
    """A quad of taps at a time, transposed so that the numbers of a head are neighbours."""
    format = FORMATS[kernel.dtype]

    def step(tile: Tile, m: Int, careful: bool) -> None:
        source, gradients = tile.windows("source", format), tile.outputs("gradient", format)
        output = tile.outputs("output", format)

        def vector(heads: _Heads, head: Int, channel: Int) -> None:
            gradient = gradients.load(m, channel, heads.lanes)

            def quad(tap: Int | int, count: int) -> None:
                inputs = [heads.perhaps_zero(tile, source, m + tap + i, channel, careful) for i in range(count)]
                sums = heads.kernel_sums([code.multiply(gradient, input) for input in inputs])
                for i, total in enumerate(sums):
                    output.store(m, heads.column(head + i, tap), total)

            heads.over_taps(quad)

        _each_vector(code, kernel, vector)

    _each_step(code, kernel, step)


# Gradient by kernels per step, where a vector is of one head


def _dots(code: Code, kernel: Kernel) -> None:
    """Products of each step's gradient and the rows of its window, summed over the channels of the head.

    Some taps and some steps at a time: each row that is read is in several of the products, and in most of those of the
    next tile, which has the same taps. ``rest``: the taps beyond whole tiles, where K is any.
    """
    size, taps = kernel.taps_in_tile, kernel.taps or code.argument("kernel_size")
    zeros = code.row_of_zeros(FORMATS[kernel.dtype], kernel.channels)
    with _parts(code) as (part, end), code.loop(0, code.argument("heads")) as head:

        def some_taps(tap: Int | int, count: int) -> None:
            with code.loop(part.first, end, kernel.steps) as first:
                dots = _Dots(code, kernel, replace(part, first=first), head, zeros)
                dots.prefetch(head * taps + tap, tap)
                dots.of(head * taps + tap, tap, count)

        if kernel.taps:
            for start, count in _split(kernel.taps, size):
                some_taps(start, count)
        else:
            whole = code.number(taps) // size * size
            with code.loop(0, whole, size) as tap:
                some_taps(tap, size)
            if kernel.rest:
                some_taps(whole, kernel.rest)


class _Dots:
    def __init__(self, code: Code, kernel: Kernel, tile: Tile, head: Int, zeros: Rows) -> None:
        self.code, self.kernel, self.tile, self.zeros = code, kernel, tile, zeros
        self.format = FORMATS[kernel.dtype]
        channel = head * kernel.channels
        self.source = tile.windows("source", self.format).from_column(channel)
        self.output = tile.outputs("output", self.format)
        self.gradient = tile.outputs("gradient", self.format).from_column(channel)
        self.gradients = [self.gradient.from_row(tile.last(step)) for step in range(kernel.steps)]

    def prefetch(self, column: Int, tap: Int | int) -> None:
        """A share of what the next part is the first to touch, which the processor does not foresee.

        All at once would be more than a core can wait for, and stop it.
        """
        tile, kernel = self.tile, self.kernel
        taps, next = kernel.taps or self.code.argument("kernel_size"), tile.first + self.code.argument("rows")
        numbers = _CACHE_LINE // self.format.itemsize
        lines = -(-kernel.channels // numbers)
        share = lines if kernel.taps else -(-lines // 4)  # most kernels are of about four tiles
        before = self.code.number(tap) // kernel.taps_in_tile * share
        for row in (next + step for step in range(kernel.steps)):
            for channel in ((before + i).at_most(lines - 1) * numbers for i in range(share)):
                self.gradient.prefetch(row, channel)
                self.source.prefetch(row + (taps - 1), channel)
            self.output.prefetch(row, column, write=True)

    def of(self, column: Int, tap: Int | int, count: int) -> None:
        """Those of ``count`` taps, which are stored from a column on."""
        code, kernel, tile = self.code, self.kernel, self.tile
        inputs = self.rows(tile.first + tap, kernel.steps - 1 + count)
        sums = [[Variable(code, code.zeros(self.format, kernel.lanes)) for _ in range(count)] for _ in self.gradients]

        def products(channel: Int | int, channels: int) -> None:
            vectors = _split(channels, kernel.lanes)
            rows = [input.load_vectors(0, channel, vectors) for input in inputs]
            for step, gradients in enumerate(self.gradients):
                factors = gradients.load_vectors(0, channel, vectors)
                for total, row in zip(sums[step], rows[step:]):
                    for factor, vector in zip(factors, row):
                        total.set(code.multiply_add_part(factor, vector, total.get()))

        size = kernel.lanes * (2 if self.format.itemsize == 2 else 1)  # two vectors of bfloat16 are read together
        if kernel.channels <= UNROLLED_VECTORS * kernel.lanes:
            for start, channels in _split(kernel.channels, size):
                products(start, channels)
        else:
            whole = kernel.channels // size * size
            with code.loop(0, whole, size) as channel:
                products(channel, size)
            if kernel.channels > whole:
                products(whole, kernel.channels - whole)
        for step, totals in enumerate(sums):
            with code.only_if(tile.first + step < tile.count):
                total = _sums_over_lanes(code, [total.get() for total in totals], quad_of(kernel.dtype))
                self.output.store(tile.first + step, column, total)

    def rows(self, first: Int, count: int) -> list[Rows]:
        """Rows of the source from ``first`` on, of zeros where there are none."""
        window = self.source.from_row(first)
        starts = [Variable(self.code, window.address(j, 0)) for j in range(count)]
        with self.code.unless(self.tile.holds(first, first + count)):
            for j, start in enumerate(starts):
                with self.code.unless(self.tile.holds(first + j, first + j + 1)):
                    start.set(self.zeros.start)
        return [Rows(self.code, start.get(), self.source.step, self.format) for start in starts]


def _sums_over_lanes(code: Code, vectors: Sequence[Any], quad: int) -> Any:
    """The sums of each of at most two quads of vectors, as one vector."""

    def sums(several: list[Any]) -> Any:
        total = code.row_sums(several + several[:1] * (quad - len(several)))
        while (lanes := total.type.count // 2) >= quad:
            total = code.add(code.part(total, 0, lanes), code.part(total, lanes, lanes))
        return total

    first, second, count = list(vectors[:quad]), list(vectors[quad:]), len(vectors)
    return code.pick(sums(first), sums(second), range(count)) if second else code.part(sums(first), 0, count)


# Gradient by shared kernels


_CACHED = 32  # steps whose rows of all channels stay in the cache of a core


def _sums(code: Code, kernel: Kernel) -> None:
    """Products of the gradient and the input, summed over steps for each channel and tap: (item, K, C).

    An item is some steps of a batch row. ``steps``: the most taps at a time, where K is no multiple of it one less at
    some times; ``rest``: the channels beyond whole tiles.
    """
    taps, steps, size = code.argument("kernel_size"), kernel.steps, kernel.lanes * kernel.vectors
    times = (taps + steps - 1) // steps
    longer = taps - (steps - 1) * times  # times with all taps
    with code.items(code.argument("batch") * code.argument("blocks")) as item:
        sums = _Sums(code, kernel, item)
        first = item % code.argument("blocks") * code.argument("rows")
        end = (first + code.argument("rows")).at_most(code.argument("time"))

        def all_taps(channel: Int, channels: int) -> None:
            vectors = _split(channels, kernel.lanes)
            sums.prefetch(start, stop, channel, channels)
            with code.loop(0, longer) as i:
                sums.add(start, stop, i * steps, steps, channel, vectors)
            if steps > 1:
                with code.loop(0, times - longer) as i:
                    sums.add(start, stop, longer * steps + i * (steps - 1), steps - 1, channel, vectors)

        with code.loop(first, end, _CACHED) as start:
            stop = (start + _CACHED).at_most(end)
            whole = code.argument("channels") // size * size
            with code.loop(0, whole, size) as channel:
                all_taps(channel, size)
            if kernel.rest:
                all_taps(whole, kernel.rest)


class _Sums:
    def __init__(self, code: Code, kernel: Kernel, item: Int) -> None:
        self.code, self.kernel = code, kernel
        batch, format = item // code.argument("blocks"), FORMATS[kernel.dtype]
        self.source, self.gradients = code.rows("source", format, batch), code.rows("gradient", format, batch)
        self.output = code.rows("output", _of_shared(kernel), item)

    def prefetch(self, start: Int, stop: Int, channel: Int, channels: int) -> None:
        """What the next steps read, which the processor does not foresee."""
        reach = (self.code.argument("kernel_size") - 1) * self.code.argument("dilation") - self.code.argument("left")
        with self.code.loop(start + _CACHED, stop + _CACHED) as t:
            for at in range(0, channels, _CACHE_LINE // self.output.format.itemsize):
                self.gradients.prefetch(t, channel + at)
                self.source.prefetch(t + reach, channel + at)

    def add(
        self, start: Int, stop: Int, tap: Int, count: int, channel: Int, vectors: Sequence[tuple[int, int]]
    ) -> None:
        """What the steps from ``start`` to ``stop`` add to the sums of some taps and channels."""
        code, dilation = self.code, self.code.argument("dilation")
        mixed = self.source.mixes(vectors)

        def kept(i: int) -> list[Any]:
            values = self.output.load_vectors(tap + i, channel, vectors)
            return code.even_and_odd(*values) if mixed else values

        sums = [[Variable(code, value) for value in kept(i)] for i in range(count)]
        first = tap * dilation - code.argument("left")  # the row of the source that step 0 reads for the first tap
        inputs = [self.source.from_row(first + i * dilation).from_column(channel) for i in range(count)]
        gradients = self.gradients.from_column(channel)

        def step(t: Int, careful: bool) -> None:
            factors = gradients.load_vectors(t, 0, vectors)
            for i, input in enumerate(inputs):
                row = t + first + i * dilation
                condition = code.both(row >= 0, row < code.argument("length")) if careful else None
                with code.only_if(condition) if careful else nullcontext():
                    for total, factor, vector in zip(sums[i], factors, input.load_vectors(t, 0, vectors)):
                        total.set(code.multiply_add(factor, vector, total.get()))

        begin = (0 - first).at_least(start).at_most(stop)
        end = (code.argument("length") - first - (count - 1) * dilation).at_most(stop).at_least(begin)
        for part, careful in (((start, begin), True), ((begin, end), False), ((end, stop), True)):
            with code.loop(*part) as t:
                step(t, careful)
        for i in range(count):
            values = [total.get() for total in sums[i]]
            self.output.store_vectors(tap + i, channel, vectors, code.alternate(*values) if mixed else values)
