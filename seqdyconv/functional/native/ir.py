"""What the kernels are written with: numbers, loops and vectors as LLVM's intermediate representation.

An :class:`Int` is a number that the kernel will compute; with the operators of Python it reads as one. A vector is
an LLVM value of as many lanes as is asked for, a multiple of the machine's registers or not: LLVM splits it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import llvmlite.ir as ir

from seqdyconv.functional.native.plan import ITEMSIZES

_I64, _I32, _I16, _I1 = (ir.IntType(bits) for bits in (64, 32, 16, 1))
_FLOAT, _DOUBLE, _POINTER = ir.FloatType(), ir.DoubleType(), ir.PointerType()


@dataclass(frozen=True)
class Format:
    """How numbers are kept in memory, and in what they are computed."""

    stored: Any
    computed: Any
    itemsize: int


FORMATS = {
    "float32": Format(_FLOAT, _FLOAT, ITEMSIZES["float32"]),
    "float64": Format(_DOUBLE, _DOUBLE, ITEMSIZES["float64"]),
    "bfloat16": Format(
        _I16, _FLOAT, ITEMSIZES["bfloat16"]
    ),  # llvmlite has no bfloat: they are the upper halves of float32
}


class Int:
    """A 64-bit number that the kernel computes."""

    def __init__(self, code: Code, value: Any) -> None:
        self.code, self.value = code, value

    def _with(self, operation: str, other: Int | int) -> Int:
        return Int(self.code, getattr(self.code.builder, operation)(self.value, self.code.number(other).value))

    def _is(self, relation: str, other: Int | int) -> Any:
        return self.code.builder.icmp_signed(relation, self.value, self.code.number(other).value)

    def __add__(self, other: Int | int) -> Int:
        return self if isinstance(other, int) and other == 0 else self._with("add", other)

    __radd__ = __add__

    def __sub__(self, other: Int | int) -> Int:
        return self if isinstance(other, int) and other == 0 else self._with("sub", other)

    def __rsub__(self, other: int) -> Int:
        return self.code.number(other) - self

    def __mul__(self, other: Int | int) -> Int:
        return self if isinstance(other, int) and other == 1 else self._with("mul", other)

    __rmul__ = __mul__

    def __floordiv__(self, other: Int | int) -> Int:
        """Of numbers that are not negative."""
        return self._with("udiv", other)

    def __mod__(self, other: Int | int) -> Int:
        """Of numbers that are not negative."""
        return self._with("urem", other)

    def __lt__(self, other: Int | int) -> Any:
        return self._is("<", other)

    def __le__(self, other: Int | int) -> Any:
        return self._is("<=", other)

    def __gt__(self, other: Int | int) -> Any:
        return self._is(">", other)

    def __ge__(self, other: Int | int) -> Any:
        return self._is(">=", other)

    def at_least(self, other: Int | int) -> Int:
        other = self.code.number(other)
        return Int(self.code, self.code.builder.select(self > other, self.value, other.value))

    def at_most(self, other: Int | int) -> Int:
        other = self.code.number(other)
        return Int(self.code, self.code.builder.select(self < other, self.value, other.value))


class Variable:
    """A value that loops and branches change. LLVM makes registers of it."""

    def __init__(self, code: Code, value: Any) -> None:
        self.code, self.type = code, value.type
        with code.builder.goto_entry_block():
            self.place = code.builder.alloca(value.type)
        self.set(value)

    def get(self) -> Any:
        return self.code.builder.load(self.place, typ=self.type)

    def set(self, value: Any) -> None:
        self.code.builder.store(value, self.place)


@dataclass
class Rows:
    """Rows of numbers in memory: where row 0 begins and how many numbers are from one row to the next."""

    code: Code
    start: Any
    step: Int
    format: Format

    def from_row(self, row: Int | int) -> Rows:
        """The rows from ``row`` on, which then is row 0; it may be negative."""
        return Rows(self.code, self.address(row, 0), self.step, self.format)

    def from_column(self, column: Int | int) -> Rows:
        return Rows(self.code, self.address(0, column), self.step, self.format)

    def every(self, count: Int) -> Rows:
        """Each ``count``-th row from row 0 on."""
        return Rows(self.code, self.start, self.step * count, self.format)

    def address(self, row: Int | int, column: Int | int) -> Any:
        offset = self.code.number(column) if isinstance(row, int) and row == 0 else row * self.step + column
        return self.code.builder.gep(self.start, [offset.value], source_etype=self.format.stored)

    def load(self, row: Int | int, column: Int | int, lanes: int) -> Any:
        return self.code.widen(self.load_stored(row, column, lanes), self.format)

    def load_stored(self, row: Int | int, column: Int | int, lanes: int) -> Any:
        stored = ir.VectorType(self.format.stored, lanes)
        return self.code.builder.load(self.address(row, column), align=self.format.itemsize, typ=stored)

    def store(self, row: Int | int, column: Int | int, vector: Any) -> None:
        narrow = self.code.narrow(vector, self.format)
        self.code.builder.store(narrow, self.address(row, column), align=self.format.itemsize)

    def prefetch(self, row: Int | int, column: Int | int, write: bool = False) -> None:
        """Begin to fetch what is there to the second cache; it need not be there at all."""
        self.code.prefetch(self.address(row, column), write)

    def splat(self, row: Int | int, column: Int | int, lanes: int, neighbour: int = 0) -> Any:
        """One number in all lanes. ``neighbour``: -1 or 1 where the row has a number before or behind it."""
        if self.format.stored is not _I16 or not neighbour:
            return self.code.same(self.load(row, column, 1), lanes)
        # Two numbers are loaded into each lane, which takes no more than one of 32 bits does, and one of them is kept.
        address = self.address(row, column + min(neighbour, 0))
        two = self.code.builder.load(address, align=2, typ=ir.VectorType(_I32, 1))
        return self.code.half(self.code.same(two, lanes), upper=neighbour < 0)

    def load_vectors(
        self, row: Int | int, column: Int | int, vectors: Sequence[tuple[int, int]], in_order: bool = False
    ) -> list[Any]:
        """Several, each (start, lanes). Each two of bfloat16 are the even and the odd lanes of both, unless
        ``in_order``."""
        if in_order or not self.mixes(vectors):
            return [self.load(row, column + start, lanes) for start, lanes in vectors]
        pairs = ir.VectorType(_I32, vectors[0][1])
        places = [self.address(row, column + start) for start, _ in vectors[::2]]
        loaded = [self.code.builder.load(place, align=2, typ=pairs) for place in places]
        return [self.code.half(pair, upper) for pair in loaded for upper in (False, True)]

    def store_vectors(
        self,
        row: Int | int,
        column: Int | int,
        vectors: Sequence[tuple[int, int]],
        values: Sequence[Any],
        in_order: bool = False,
    ) -> None:
        """Undoes :meth:`load_vectors`."""
        if in_order or not self.mixes(vectors):
            for (start, _), vector in zip(vectors, values):
                self.store(row, column + start, vector)
            return
        builder, rounded = self.code.builder, [self.code.rounded(vector) for vector in values]
        for (start, lanes), even, odd in zip(vectors[::2], rounded[::2], rounded[1::2]):
            lower = builder.lshr(even, _constants(_I32, [16] * lanes))
            upper = builder.and_(odd, _constants(_I32, [0xFFFF0000] * lanes))
            builder.store(builder.or_(lower, upper), self.address(row, column + start), align=2)

    def mixes(self, vectors: Sequence[tuple[int, int]]) -> bool:
        """Whether :meth:`load_vectors` gives even and odd lanes."""
        return self.format.stored is _I16 and len(vectors) % 2 == 0 and len({lanes for _, lanes in vectors}) == 1


class Code:
    """A function under construction: ``void name(i64 *arguments)``, the arguments being pointers and sizes."""

    def __init__(self, name: str, fields: Sequence[str], triple: str) -> None:
        self.module = ir.Module(name)
        self.module.triple = triple
        self.function = ir.Function(self.module, ir.FunctionType(ir.VoidType(), [_POINTER]), name)
        self.builder = ir.IRBuilder(self.function.append_basic_block())
        self._places = {field: self.number(i) for i, field in enumerate(fields)}
        self._arguments = {field: self._read(field) for field in fields}

    def finish(self) -> str:
        self.builder.ret_void()
        return str(self.module)

    # Numbers

    def number(self, value: Int | int) -> Int:
        return value if isinstance(value, Int) else Int(self, _I64(value))

    def argument(self, field: str) -> Int:
        return self._arguments[field]

    def rows(self, field: str, format: Format, batch: Int | int) -> Rows:
        """Of one batch row of a tensor: ``field`` is its address, ``field``_batch and _time are its strides."""
        start = self.builder.inttoptr(self._arguments[field].value, _POINTER)
        rows = Rows(self, start, self._arguments[f"{field}_batch"], format).from_row(batch)
        return Rows(self, rows.start, self._arguments[f"{field}_time"], format)

    def row_of_zeros(self, format: Format, count: int) -> Rows:
        kind = ir.ArrayType(format.stored, count)
        zeros = ir.GlobalVariable(self.module, kind, "zeros")
        zeros.linkage, zeros.global_constant, zeros.initializer = "internal", True, ir.Constant(kind, None)
        return Rows(self, self.builder.bitcast(zeros, _POINTER), self.number(0), format)

    def _take(self, field: str) -> Int:
        """The argument, of which all threads together get each number from it on once."""
        address = self.builder.gep(self.function.args[0], [self._places[field].value], source_etype=_I64)
        return Int(self, self.builder.atomic_rmw("add", address, _I64(1), "monotonic"))

    def _read(self, field: str) -> Int:
        address = self.builder.gep(self.function.args[0], [self._places[field].value], source_etype=_I64)
        return Int(self, self.builder.load(address, typ=_I64))

    # Loops and branches

    @contextmanager
    def loop(self, start: Int | int, stop: Int | int, step: int = 1) -> Iterator[Int]:
        head, body, end = (self.builder.append_basic_block() for _ in range(3))
        before = self.builder.block
        self.builder.branch(head)
        self.builder.position_at_end(head)
        number = self.builder.phi(_I64)
        number.add_incoming(self.number(start).value, before)
        index = Int(self, number)
        self.builder.cbranch(index < stop, body, end)
        self.builder.position_at_end(body)
        yield index
        number.add_incoming((index + step).value, self.builder.block)
        self.builder.branch(head)
        self.builder.position_at_end(end)

    @contextmanager
    def items(self, count: Int) -> Iterator[Int]:
        """Numbers below ``count`` as long as there are any that no other thread has taken.

        Each of ``threads`` threads, if they are as fast, gets neighbours one after another: what is near is in its
        cache already, and no two ask the system for the same page of memory at once.
        """
        threads = self.argument("threads")
        length = (count + threads - 1) // threads
        head, body, end = (self.builder.append_basic_block() for _ in range(3))
        self.builder.branch(head)
        self.builder.position_at_end(head)
        turn = self._take("next")
        self.builder.cbranch(turn < length * threads, body, end)
        self.builder.position_at_end(body)
        item = turn % threads * length + turn // threads
        with self.only_if(item < count):
            yield item
        self.builder.branch(head)
        self.builder.position_at_end(end)

    @contextmanager
    def only_if(self, condition: Any) -> Iterator[None]:
        with self.builder.if_then(condition):
            yield

    @contextmanager
    def unless(self, condition: Any) -> Iterator[None]:
        with self.builder.if_then(self.builder.not_(condition)):
            yield

    def both(self, *conditions: Any) -> Any:
        result = conditions[0]
        for condition in conditions[1:]:
            result = self.builder.and_(result, condition)
        return result

    def prefetch(self, address: Any, write: bool) -> None:
        name = "llvm.prefetch.p0"
        kinds = [_POINTER, _I32, _I32, _I32]
        function = self.module.globals.get(name) or ir.Function(
            self.module, ir.FunctionType(ir.VoidType(), kinds), name
        )
        self.builder.call(function, [address, _I32(int(write)), _I32(2), _I32(1)])

    # Vectors

    def zeros(self, format: Format, lanes: int) -> Any:
        return _constants(format.computed, [0.0] * lanes)

    def multiply_add(self, a: Any, b: Any, c: Any) -> Any:
        kind = a.type
        name = f"llvm.fma.v{kind.count}{'f64' if kind.element is _DOUBLE else 'f32'}"
        function = self.module.globals.get(name) or ir.Function(self.module, ir.FunctionType(kind, [kind] * 3), name)
        return self.builder.call(function, [a, b, c])

    def multiply_add_part(self, a: Any, b: Any, whole: Any) -> Any:
        """The same, where ``a`` and ``b`` may have fewer lanes than what is added to."""
        lanes, more = a.type.count, whole.type.count - a.type.count
        if not more:
            return self.multiply_add(a, b, whole)
        product = self.multiply(a, b)
        nothing = _constants(product.type.element, [0.0] * lanes)
        return self.add(whole, self.pick(product, nothing, [*range(lanes), *[lanes] * more]))

    def multiply(self, a: Any, b: Any) -> Any:
        return self.builder.fmul(a, b)

    def add(self, *vectors: Any) -> Any:
        """The sum, of neighbours first."""
        while len(vectors) > 1:
            pairs = [self.builder.fadd(a, b) for a, b in zip(vectors[::2], vectors[1::2])]
            vectors = (*pairs, *vectors[len(vectors) - len(vectors) % 2 :])
        return vectors[0]

    def pick(self, a: Any, b: Any, lanes: Sequence[int]) -> Any:
        """The lanes of ``a`` and, counted on, those of ``b``."""
        return self.builder.shuffle_vector(a, b, _constants(_I32, lanes))

    def part(self, vector: Any, start: int, lanes: int) -> Any:
        """Lanes from ``start`` on; beyond its end: any numbers."""
        count = vector.type.count
        if start == 0 and lanes == count:
            return vector
        unknown = ir.Constant(vector.type, ir.Undefined)
        return self.pick(vector, unknown, [min(lane, count) for lane in range(start, start + lanes)])

    def join(self, parts: Sequence[Any]) -> Any:
        """Vectors of one size behind each other."""
        whole = parts[0]
        for part in parts[1:]:
            here, more = whole.type.count, part.type.count
            whole = self.pick(whole, self.part(part, 0, here), [*range(here), *range(here, here + more)])
        return whole

    def same(self, vector: Any, lanes: int) -> Any:
        """Its first lane in all."""
        return self.pick(vector, vector, [0] * lanes)

    def widen(self, stored: Any, format: Format) -> Any:
        """From what is in memory to what is computed with."""
        lanes = stored.type.count
        computed = ir.VectorType(format.computed, lanes)
        if format.stored is not _I16:
            return stored
        bits = ir.VectorType(_I32, lanes)
        shifted = self.builder.shl(self.builder.zext(stored, bits), _constants(_I32, [16] * lanes))
        return self.builder.bitcast(shifted, computed)

    def narrow(self, computed: Any, format: Format) -> Any:
        """Back, to the nearest number, of two the even one."""
        lanes = computed.type.count
        stored = ir.VectorType(format.stored, lanes)
        if format.stored is not _I16:
            return computed
        return self.builder.trunc(self.builder.lshr(self.rounded(computed), _constants(_I32, [16] * lanes)), stored)

    def rounded(self, computed: Any) -> Any:
        """Float32 as bits whose upper half is the nearest bfloat16."""
        lanes = computed.type.count
        constant = lambda number: _constants(_I32, [number] * lanes)  # noqa: E731
        bits = self.builder.bitcast(computed, ir.VectorType(_I32, lanes))
        odd = self.builder.and_(self.builder.lshr(bits, constant(16)), constant(1))
        rounded = self.builder.add(bits, self.builder.add(constant(0x7FFF), odd))
        is_nan = self.builder.fcmp_unordered("uno", computed, computed)
        return self.builder.select(is_nan, constant(0x7FC00000), rounded)

    def half(self, bits: Any, upper: bool) -> Any:
        """Of lanes of two bfloat16 one, as float32."""
        lanes = bits.type.count
        if upper:
            kept = self.builder.and_(bits, _constants(_I32, [0xFFFF0000] * lanes))
        else:
            kept = self.builder.shl(bits, _constants(_I32, [16] * lanes))
        return self.builder.bitcast(kept, ir.VectorType(_FLOAT, lanes))

    def alternate(self, even: Any, odd: Any) -> list[Any]:
        """The lanes of both by turns."""
        lanes = even.type.count
        order = [lane + place for lane in range(lanes) for place in (0, lanes)]
        return [self.pick(even, odd, order[:lanes]), self.pick(even, odd, order[lanes:])]

    def even_and_odd(self, first: Any, second: Any) -> list[Any]:
        """Undoes :meth:`alternate`."""
        lanes = range(2 * first.type.count)
        return [self.pick(first, second, lanes[::2]), self.pick(first, second, lanes[1::2])]

    def transpose(self, rows: Sequence[Any]) -> list[Any]:
        """Within each 128 bits, whose 4 lanes (2 of float64) of as many rows become those of columns."""
        if len(rows) == 1:
            return list(rows)
        if len(rows) == 2:
            a, b = rows
            return [self._mix(a, b, (0, 2)), self._mix(a, b, (1, 3))]
        a, b, c, d = rows
        pairs = [(self._mix(a, b, part), self._mix(c, d, part)) for part in ((0, 4, 1, 5), (2, 6, 3, 7))]
        return [self._mix(*pair, half) for pair in pairs for half in ((0, 1, 4, 5), (2, 3, 6, 7))]

    def row_sums(self, rows: Sequence[Any]) -> Any:
        """Within each 128 bits, whose 4 lanes (2 of float64) are of as many rows: the sum of each row's."""
        if len(rows) == 1:
            return rows[0]
        if len(rows) == 2:
            return self.add(*self.transpose(rows))
        a, b, c, d = rows
        first, second = self._pair_sums(a, b), self._pair_sums(c, d)
        return self.add(self._mix(first, second, (0, 1, 4, 5)), self._mix(first, second, (2, 3, 6, 7)))

    def _pair_sums(self, a: Any, b: Any) -> Any:
        return self.add(self._mix(a, b, (0, 4, 1, 5)), self._mix(a, b, (2, 6, 3, 7)))

    def _mix(self, a: Any, b: Any, pattern: Sequence[int]) -> Any:
        """In all 128 bits alike: the lanes of ``a``'s and, counted on, of ``b``'s."""
        size, lanes = len(pattern), a.type.count
        starts = range(0, lanes, size)
        return self.pick(a, b, [s + i if i < size else lanes + s + i - size for s in starts for i in pattern])


def _constants(kind: Any, numbers: Sequence[float]) -> Any:
    return ir.Constant(ir.VectorType(kind, len(numbers)), list(numbers))
