"""Sizes of tiles, memory for results, and the launch of a kernel."""

from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

_TILE = 4096  # bytes of a tile of a loop over taps: 32 for each thread of 4 warps
_LONGEST_SUM = 1024  # steps that a program adds up for kernels that all steps share


@cache
def _kernels() -> ModuleType:
    """Triton is an optional library, and imports for a while."""
    from seqdyconv.functional.gpu import kernels

    return kernels


def convolve(
    source: Tensor,
    weight: Tensor,
    sequence: Tensor | None,
    time: int,
    offset: int,
    dilation: int,
    adjoint: bool,
    totals: Tensor | None = None,
) -> Tensor:
    """See :mod:`seqdyconv.functional.gpu.kernels`. ``totals``: ``weight`` are logits, and these are written or read."""
    (batch, length, channels), (heads, kernel_size) = source.shape, weight.shape[-2:]
    output = source.new_empty(batch, time, channels)
    if not output.numel():
        return output
    width = channels // heads
    strides = (*source.stride(), *_kernel_strides(weight))
    sizes = (length, time, heads, width, offset, dilation)
    flags = {
        "KERNEL_SIZE": kernel_size,
        "ADJOINT": adjoint,
        "SOFTMAX": totals is not None,
        "PACKED": sequence is not None,
    }
    tensors = (source, weight, totals, sequence, output)
    if _has_bands(source, width, kernel_size):
        tile = {**_band_sizes(time, dilation), "BR": _power_of_two(width, 16, 64), "BK": _power_of_two(kernel_size)}
        programs = batch * heads * _band_blocks(time, dilation, tile["BT"]) * _cdiv(width, tile["BR"])
        flags |= {"FACTOR": _factor_type(source), "INDEX": _index_type(source, weight, output)}
        return start("convolve_band", programs, output, *tensors, *sizes, *strides, **flags, **tile)
    tile = _tap_sizes(source, time, heads, widest=128)
    programs = batch * _cdiv(time, tile["BT"]) * _cdiv(heads, tile["BH"]) * _cdiv(width, tile["BR"])
    flags |= {"PER_STEP": weight.dim() == 4, "ACC": _sum_type(source)}
    flags["INDEX"] = _index_type(source, weight, output)
    return start("convolve_taps", programs, output, *tensors, *sizes, *strides, **flags, **tile)


def correlate(
    gradient: Tensor,
    source: Tensor,
    sequence: Tensor | None,
    heads: int,
    kernel_size: int,
    offset: int,
    dilation: int,
    shared: bool,
    logits: Tensor | None = None,
    totals: Tensor | None = None,
    result: Tensor | None = None,
) -> Tensor:
    """See :mod:`seqdyconv.functional.gpu.kernels`: (B, T, H, K), or, ``shared`` by all steps, (H, K)."""
    (batch, time, channels), length = gradient.shape, source.shape[1]
    width = channels // heads
    bands = _has_bands(source, width, kernel_size)
    if bands:
        tile = {**_band_sizes(time, dilation), "BR": _power_of_two(width, 16, 128)}
        tile["OVER_R"] = _cdiv(width, tile["BR"])
    else:
        taps = _power_of_two(kernel_size, 1, 8)
        tile = _tap_sizes(source, time, heads, taps=taps) | {"BK": taps}
    blocks = min(_cdiv(time, tile["BT"]), max(1, _LONGEST_SUM // tile["BT"])) if shared else 1
    if bands:
        programs = batch * heads * _band_blocks(time, dilation, blocks * tile["BT"])
        parts = programs // heads * tile["BT"]
    else:
        parts = batch * _cdiv(time, blocks * tile["BT"])
        programs = parts * _cdiv(heads, tile["BH"])
    shape = (parts,) if shared else (batch, time)
    output = source.new_empty(*shape, heads, kernel_size, dtype=_wide(source) if shared else source.dtype)
    if output.numel():
        tensors = (gradient, source, logits, totals, result, sequence, output)
        sizes = (length, time, heads, width, offset, dilation, blocks)
        strides = (*gradient.stride(), *source.stride(), *((0, 0, 0, 0) if logits is None else logits.stride()))
        flags = {
            "KERNEL_SIZE": kernel_size,
            "SHARED": shared,
            "SOFTMAX": logits is not None,
            "PACKED": sequence is not None,
            "INDEX": _index_type(gradient, source, output, *(() if logits is None else (logits,))),
        }
        flags |= {"FACTOR": _factor_type(source)} if bands else {"ACC": _sum_type(source)}
        start(
            "correlate_band" if bands else "correlate_taps",
            programs,
            output,
            *tensors,
            *sizes,
            *strides,
            **flags,
            **tile,
        )
    return output.sum(0).to(source.dtype) if shared else output


def advance(input: Tensor, state: Tensor, weight: Tensor, dilation: int) -> tuple[Tensor, Tensor]:
    """The output of the next steps, and the state that follows."""
    (batch, time, channels), length = input.shape, state.shape[1]
    heads, kernel_size = weight.shape[-2:]
    width = channels // heads
    output, following = input.new_empty(input.shape), state.new_empty(state.shape)
    tile = _tap_sizes(input, time, heads, widest=128)
    blocks = _cdiv(time, tile["BT"]) + _cdiv(length, tile["BT"])
    programs = batch * blocks * _cdiv(heads, tile["BH"]) * _cdiv(width, tile["BR"])
    flags = {"KERNEL_SIZE": kernel_size, "PER_STEP": weight.dim() == 4, "ACC": _sum_type(input)}
    strides = (*input.stride(), *state.stride(), *_kernel_strides(weight))
    sizes = (length, time, heads, width, dilation)
    if output.numel():
        start("advance", programs, output, input, state, weight, output, following, *sizes, *strides, **flags, **tile)
    return output, following


def low_rank(
    source: Tensor,
    coefficients: Tensor,
    basis: Tensor,
    sequence: Tensor | None,
    time: int,
    offset: int,
    adjoint: bool,
) -> Tensor:
    """:func:`convolve` with H = C and the kernels that ``coefficients`` (B, T, rank) mix of ``basis`` (rank, C, K)."""
    batch, length, channels = source.shape
    output = source.new_empty(batch, time, channels)
    if not output.numel():
        return output
    tile = _flat_sizes(source, time)
    return start(
        "low_rank_taps",
        batch * _cdiv(time, tile["BT"]) * _cdiv(channels, tile["BC"]),
        output,
        *(source, coefficients, basis, sequence, output),
        *(length, time, channels, offset),
        *(*source.stride(), *coefficients.stride(), *basis.stride()),
        **_low_rank_flags(source, basis, sequence),
        **{"ADJOINT": adjoint, **tile},
    )


def low_rank_backward(
    gradient: Tensor,
    source: Tensor,
    coefficients: Tensor,
    basis: Tensor,
    sequence: Tensor | None,
    offset: int,
) -> tuple[Tensor, Tensor]:
    """The gradients of ``coefficients`` and ``basis``."""
    (batch, time, channels), length, (rank, _, kernel_size) = gradient.shape, source.shape[1], basis.shape
    tile, wide = _flat_sizes(source, time), _wide(source)
    over_c, over_t = _cdiv(channels, tile["BC"]), _cdiv(time, tile["BT"])
    blocks = min(over_t, max(1, _LONGEST_SUM // tile["BT"]))
    parts = batch * _cdiv(time, blocks * tile["BT"])
    of_coefficients = source.new_empty(over_c, *coefficients.shape, dtype=wide)
    of_basis = source.new_empty(parts, rank, channels, kernel_size, dtype=wide)
    if batch:
        flags = {**_low_rank_flags(source, basis, sequence), **tile}
        strides = (*gradient.stride(), *source.stride())
        start(
            "low_rank_coefficients",
            batch * over_t * over_c,
            of_coefficients,
            *(gradient, source, basis, sequence, of_coefficients),
            *(batch, length, time, channels, offset),
            *(*strides, *basis.stride()),
            **flags,
        )
        start(
            "low_rank_basis",
            parts * over_c * rank,
            of_basis,
            *(gradient, source, coefficients, sequence, of_basis),
            *(length, time, channels, offset, blocks),
            *(*strides, *coefficients.stride()),
            **flags,
        )
    return of_coefficients.sum(0).to(source.dtype), of_basis.sum(0).to(source.dtype)


def start(name: str, programs: int, output: Tensor, *arguments: Any, **constants: Any) -> Tensor:
    """Kernels are launched on the current device, which need not be that of the tensors."""
    kernel: Callable[..., Any] = getattr(_kernels(), name)[(programs,)]
    with torch.cuda.device_of(output):
        kernel(*arguments, **constants)
    return output


def _kernel_strides(weight: Tensor) -> tuple[int, ...]:
    """Over batch, time, heads and taps."""
    return weight.stride() if weight.dim() == 4 else (0, 0, *weight.stride())


def _has_bands(source: Tensor, width: int, kernel_size: int) -> bool:
    """Where tensor cores pay: numbers of 16 bits, channels enough, and taps enough to fill a band."""
    return source.dtype.itemsize == 2 and width >= 16 and kernel_size >= 8


def _band_sizes(time: int, dilation: int) -> dict[str, int]:
    """Steps of a tile, and columns of its band that one product takes."""
    return {"BT": _power_of_two(_cdiv(time, dilation), 16, 64), "BJ": 32}


def _band_blocks(time: int, dilation: int, span: int) -> int:
    return dilation * _cdiv(_cdiv(time, dilation), span)


def _tap_sizes(source: Tensor, time: int, heads: int, *, widest: int = 1 << 20, taps: int = 1) -> dict[str, int]:
    """Steps, heads and channels of each of a tile, of which there is one for each of ``taps``."""
    width = source.shape[2] // heads
    channels = min(_power_of_two(width), widest)
    numbers = _TILE // source.dtype.itemsize * (1 if taps == 1 else 2)
    most = max(1, numbers // channels // taps)  # steps times heads
    of_heads = min(_power_of_two(heads), most, max(1, 128 // channels))
    return {"BT": min(most // of_heads, _power_of_two(time)), "BH": of_heads, "BR": channels}


def _flat_sizes(source: Tensor, time: int) -> dict[str, int]:
    columns = _power_of_two(source.shape[2], 1, 64)
    return {"BT": min(_TILE // source.dtype.itemsize // columns, _power_of_two(time)), "BC": columns}


def _low_rank_flags(source: Tensor, basis: Tensor, sequence: Tensor | None) -> dict[str, Any]:
    return {
        "KERNEL_SIZE": basis.shape[2],
        "RANK": basis.shape[0],
        "PACKED": sequence is not None,
        "ACC": _sum_type(source),
    }


def _wide(source: Tensor) -> torch.dtype:
    return torch.promote_types(source.dtype, torch.float32)


def _sum_type(source: Tensor) -> Any:
    language = _kernels().tl
    return language.float64 if source.dtype == torch.float64 else language.float32


def _index_type(*tensors: Tensor) -> Any:
    """Of what counts the numbers within a row of the batch."""
    rows = (sum((size - 1) * stride for size, stride in zip(x.shape[1:], x.stride()[1:])) for x in tensors)
    return _kernels().tl.int32 if max(rows) < 2**31 else _kernels().tl.int64


def _factor_type(source: Tensor) -> Any:
    """What a product is made of: 16 bits. Triton's interpreter, on the CPU, cannot multiply matrices of bfloat16."""
    language = _kernels().tl
    if source.device.type == "cpu":
        return language.float32
    return language.bfloat16 if source.dtype == torch.bfloat16 else language.float16


def _cdiv(number: int, by: int) -> int:
    return -(-number // by)


def _power_of_two(number: int, least: int = 1, most: int = 1 << 20) -> int:
    """The smallest that is not below ``number``, within limits."""
    return min(max(1 << (number - 1).bit_length(), least), most)
