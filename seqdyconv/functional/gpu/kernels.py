"""The kernels, in Triton. :mod:`seqdyconv.functional.gpu.launch` imports this file when it launches the first one.

Two operations are all that a convolution and its derivatives of any order need. Where tap k of step t reads the step
``t + offset + k·dilation`` of the source:

- convolve: ``output[t] = Σ_k weight[t, k] · source[t + offset + k·dilation]``; or its ADJOINT, which sends the same
  numbers the other way: ``output[s] = Σ_k weight[t, k] · source[t]`` where ``t = s + offset − k·dilation``;
- correlate: ``output[t, k] = Σ_r gradient[t, r] · source[t + offset + k·dilation, r]``, r the channels of a head.

Each is there twice. ``taps`` is a loop over the taps, for any dtype and number of channels. ``band`` is for tensor
cores: the kernels of BT steps, each shifted by one, are the rows of a band, and a tile is a few matrix products.

A tap outside the source reads zero, and so does one in another of several PACKED sequences: ``sequence[t]`` says which
one a step is of. Sums are of type ACC, and what tensor cores multiply of type FACTOR. Tensors that come in may have any
strides; those that go out are contiguous. A program finds its place in them by int64, and counts from there by INDEX,
int32 where a row of every tensor allows it. There are no atomics: what many programs add up are sums of parts, for one
more sum in order.

In each signature the lines are, by hand: tensors, sizes, strides, and what a kernel is compiled for.
"""

# mypy: allow-untyped-defs, disable-error-code=no-untyped-def
# fmt: off
import triton
import triton.language as tl

# Compiled once for all their values, not again where 16 divides them: they change from call to call.
_SIZES = ["length", "time", "offset", "dilation"]


@triton.jit
def _tile(time, heads, width, span, BH: tl.constexpr, BR: tl.constexpr):
    """Where a program begins: row of the batch, step, head, channel of a head.

    ``span`` is the number of steps from the first one of a program to that of the next.
    """
    over_r, over_h, over_t = tl.cdiv(width, BR), tl.cdiv(heads, BH), tl.cdiv(time, span)
    program = tl.program_id(0)
    r, program = program % over_r * BR, program // over_r
    h, program = program % over_h * BH, program // over_h
    return (program // over_t).to(tl.int64), program % over_t * span, h, r


@triton.jit
def _band_tile(time, heads, width, span, dilation, BR: tl.constexpr):
    """The same for bands. Dilated taps stay within steps of equal ``t mod dilation``: a program has steps of one such
    phase, ``dilation`` apart."""
    over_r, over_t = tl.cdiv(width, BR), tl.cdiv(tl.cdiv(time, dilation), span)
    program = tl.program_id(0)
    r, program = program % over_r * BR, program // over_r
    h, program = program % heads, program // heads
    block, program = program % over_t, program // over_t
    return (program // dilation).to(tl.int64), program % dilation + block * span * dilation, h, r


@triton.jit
def _at(tensor, b, t, c, stride_b, stride_t, stride_c):
    """The number of a row, step and channel, or head."""
    return tensor + (b * stride_b + t.to(tl.int64) * stride_t + c.to(tl.int64) * stride_c)


@triton.jit
def _inside(t, step, time, length, sequence, PACKED: tl.constexpr):
    """Whether a tap of step ``t`` reads the ``step`` of the source, or zero."""
    inside = (t < time) & (step >= 0) & (step < length)
    if PACKED:
        own = tl.load(sequence + t, mask=t < time, other=-1)
        inside = inside & (tl.load(sequence + step, mask=(step >= 0) & (step < length), other=-1) == own)
    return inside


@triton.jit
def _log_total(logits, logits_k, inside, KERNEL_SIZE: tl.constexpr, ACC: tl.constexpr):
    """log Σ_k exp(logits of tap k), for every kernel whose first logit is pointed to."""
    most = tl.full(inside.shape, -1e38, ACC)  # not −inf, whose difference from itself is no number
    total = tl.zeros(inside.shape, ACC)
    for _ in range(KERNEL_SIZE):
        logit = tl.load(logits, mask=inside, other=0.0).to(ACC)
        higher = tl.maximum(most, logit)
        total = total * tl.exp(most - higher) + tl.exp(logit - higher)
        most = higher
        logits += logits_k
    return most + tl.log(total)


@triton.jit(do_not_specialize=_SIZES)
def convolve_taps(
    source, weight, totals, sequence, output,
    length, time, heads, width, offset, dilation,
    source_b, source_t, source_c, weight_b, weight_t, weight_h, weight_k,
    KERNEL_SIZE: tl.constexpr, ADJOINT: tl.constexpr, PER_STEP: tl.constexpr, SOFTMAX: tl.constexpr,
    PACKED: tl.constexpr, ACC: tl.constexpr, INDEX: tl.constexpr, BT: tl.constexpr, BH: tl.constexpr, BR: tl.constexpr,
):
    """(B, length, C) to (B, time, C), with kernels (B, T, H, K), or (H, K) where not PER_STEP.

    With SOFTMAX these are logits, and ``totals`` (B, T, H) the logarithms of the sums of their exponentials: written
    on the way forward, read by the ADJOINT.
    """
    b, first, head, start = _tile(time, heads, width, BT, BH, BR)
    i = tl.arange(0, BT)[:, None, None].to(INDEX)  # tiles are (steps, heads, channels of a head)
    h = tl.arange(0, BH)[None, :, None].to(INDEX)
    r = tl.arange(0, BR)[None, None, :].to(INDEX)
    t, step = first + i, first + offset + i
    some_heads, channels = head + h < heads, (head + h < heads) & (start + r < width)
    hop = dilation.to(tl.int64)
    if ADJOINT:
        hop = -hop
    source = _at(source, b, first + offset, head * width + start, source_b, source_t, source_c)
    read = source + (i * source_t + (h * width + r) * source_c)
    if PER_STEP:
        row = first + offset if ADJOINT else first
        kernels = _at(weight, b, row, head, weight_b, weight_t, weight_h) + (i * weight_t + h * weight_h)
    else:
        kernels = weight + (head + h) * weight_h
    weight_hop = weight_k + hop * weight_t if PER_STEP and ADJOINT else weight_k
    if SOFTMAX:
        if ADJOINT:
            over = totals + ((b * length + first + offset) * heads + head) + (i * heads + h)
        else:
            total = _log_total(kernels, weight_k, (t < time) & some_heads, KERNEL_SIZE, ACC)
            # Programs that share a kernel, each with some channels of a head, write the same number.
            at = totals + ((b * time + first) * heads + head) + (i * heads + h)
            tl.store(at, total, mask=(t < time) & some_heads)
    sums = tl.zeros([BT, BH, BR], ACC)
    for _ in tl.range(0, KERNEL_SIZE, loop_unroll_factor=4):
        inside = _inside(t, step, time, length, sequence, PACKED)
        if SOFTMAX:
            if ADJOINT:
                total = tl.load(over, mask=inside & some_heads, other=0.0)
                over += hop * heads
            kernel = tl.exp(tl.load(kernels, mask=inside & some_heads, other=-float("inf")).to(ACC) - total)
        elif PER_STEP:
            kernel = tl.load(kernels, mask=inside & some_heads, other=0.0).to(ACC)
        else:
            kernel = tl.load(kernels, mask=some_heads, other=0.0).to(ACC)
        sums += kernel * tl.load(read, mask=inside & channels, other=0.0).to(ACC)
        read += hop * source_t
        kernels += weight_hop
        step += hop.to(INDEX)
    output += ((b * time + first) * heads + head) * width + start
    tl.store(output + ((i * heads + h) * width + r), sums.to(output.dtype.element_ty), mask=(t < time) & channels)


@triton.jit(do_not_specialize=_SIZES)
def convolve_band(
    source, weight, totals, sequence, output,
    length, time, heads, width, offset, dilation,
    source_b, source_t, source_c, weight_b, weight_t, weight_h, weight_k,
    KERNEL_SIZE: tl.constexpr, ADJOINT: tl.constexpr, SOFTMAX: tl.constexpr, PACKED: tl.constexpr,
    FACTOR: tl.constexpr, INDEX: tl.constexpr, BT: tl.constexpr, BJ: tl.constexpr, BR: tl.constexpr, BK: tl.constexpr,
):
    """What :func:`convolve_taps` computes. Kernels (H, K) have the strides 0 over batch and time."""
    b, first, head, start = _band_tile(time, heads, width, BT, dilation, BR)
    origin = first + offset  # the first step of the window
    if ADJOINT:
        origin -= (KERNEL_SIZE - 1) * dilation
    i = tl.arange(0, BT)[:, None].to(INDEX)
    r = tl.arange(0, BR)[None, :].to(INDEX)
    t = first + i * dilation
    source = _at(source, b, origin, head * width + start, source_b, source_t, source_c) + r * source_c
    weight = _at(weight, b, origin if ADJOINT else first, head, weight_b, weight_t, weight_h)
    if SOFTMAX:
        totals += (b * length + origin if ADJOINT else b * time + first) * heads + head
    if SOFTMAX and not ADJOINT:
        taps = tl.arange(0, BK)[None, :].to(INDEX)
        logits = weight + (i * dilation * weight_t + taps * weight_k)
        row = tl.load(logits, mask=(t < time) & (taps < KERNEL_SIZE), other=0.0).to(tl.float32)
        row = tl.where(taps < KERNEL_SIZE, row, -float("inf"))
        most = tl.maximum(tl.max(row, axis=1, keep_dims=True), -1e38)  # not −inf, as above
        total = most + tl.log(tl.sum(tl.exp(row - most), axis=1, keep_dims=True))
        tl.store(totals + i * dilation * heads, total, mask=t < time)
    sums = tl.zeros([BT, BR], tl.float32)
    for begin in range(0, BT + KERNEL_SIZE - 1, BJ):
        j = begin + tl.arange(0, BJ)
        across, down = j[None, :].to(INDEX), j[:, None].to(INDEX)
        step = origin + across * dilation
        inside = _inside(t, step, time, length, sequence, PACKED)
        if ADJOINT:
            tap = KERNEL_SIZE - 1 - across + i
            kernels = weight + (across * dilation * weight_t + tap * weight_k)
        else:
            tap = across - i
            kernels = weight + (i * dilation * weight_t + tap * weight_k)
        inside = inside & (tap >= 0) & (tap < KERNEL_SIZE)
        if SOFTMAX:
            if ADJOINT:
                total = tl.load(totals + across * dilation * heads, mask=(step >= 0) & (step < length), other=0.0)
            logit = tl.load(kernels, mask=inside, other=-float("inf")).to(tl.float32)
            band = tl.exp(logit - total).to(source.dtype.element_ty)
        else:
            band = tl.load(kernels, mask=inside, other=0.0)
        known = (origin + down * dilation >= 0) & (origin + down * dilation < length)
        window = tl.load(source + down * dilation * source_t, mask=known & (start + r < width), other=0.0)
        sums = tl.dot(band.to(FACTOR), window.to(FACTOR), sums)
    output += ((b * time + first) * heads + head) * width + start
    at = output + (i * dilation * heads * width + r)
    tl.store(at, sums.to(output.dtype.element_ty), mask=(t < time) & (start + r < width))


@triton.jit
def _tap_products(
    gradient, source, sequence, t, step, time, length, channels, taps, PACKED: tl.constexpr, ACC: tl.constexpr
):
    """Steps ``t`` times the steps that their taps read, (taps, steps, heads, channels)."""
    own = tl.load(gradient, mask=(t < time) & channels, other=0.0).to(ACC)
    inside = _inside(t, step, time, length, sequence, PACKED) & taps
    return own * tl.load(source, mask=inside & channels, other=0.0).to(ACC)


@triton.jit(do_not_specialize=_SIZES)
def correlate_taps(
    gradient, source, logits, totals, result, sequence, output,
    length, time, heads, width, offset, dilation, blocks,
    gradient_b, gradient_t, gradient_c, source_b, source_t, source_c, logits_b, logits_t, logits_h, logits_k,
    KERNEL_SIZE: tl.constexpr, SHARED: tl.constexpr, SOFTMAX: tl.constexpr, PACKED: tl.constexpr,
    ACC: tl.constexpr, INDEX: tl.constexpr, BT: tl.constexpr, BH: tl.constexpr, BR: tl.constexpr, BK: tl.constexpr,
):
    """(B, time, C) and (B, length, C) to (B, time, H, K), all the channels of a head in one program.

    SHARED by all steps: to parts (programs, H, K), each the sum over ``blocks`` · BT steps. With SOFTMAX it goes on
    from the gradient of the kernels to that of their ``logits``; ``result`` is what was convolved, (B, time, C).
    """
    b, first, head, _ = _tile(time, heads, width, blocks * BT, BH, BR)
    k = tl.arange(0, BK)[:, None, None, None].to(INDEX)  # tiles are (taps, steps, heads, channels of a head)
    i = tl.arange(0, BT)[None, :, None, None].to(INDEX)
    h = tl.arange(0, BH)[None, None, :, None].to(INDEX)
    r = tl.arange(0, BR)[None, None, None, :].to(INDEX)
    some_heads, channels = head + h < heads, (head + h < heads) & (r < width)
    gradient = _at(gradient, b, first, head * width, gradient_b, gradient_t, gradient_c) + (h * width + r) * gradient_c
    source = _at(source, b, first + offset, head * width, source_b, source_t, source_c) + (h * width + r) * source_c
    if SOFTMAX:
        logits = _at(logits, b, first, head, logits_b, logits_t, logits_h) + (i * logits_t + h * logits_h)
        totals += (b * time + first) * heads + head
        total = tl.load(totals + (i * heads + h), mask=(first + i < time) & some_heads, other=0.0)
        # The gradient of a logit is kernel · (gradient of the kernel − mean). The mean, Σ_k kernel · gradient, is what
        # the result times its gradient sum to.
        result += ((b * time + first) * heads + head) * width
        some = (first + i < time) & channels
        own = tl.load(gradient + i * gradient_t, mask=some, other=0.0).to(ACC)
        other = tl.load(result + ((i * heads + h) * width + r), mask=some, other=0.0).to(ACC)
        mean = tl.sum(own * other, axis=3, keep_dims=True)
    for begin in range(0, KERNEL_SIZE, BK):
        tap = begin + k
        sums = tl.zeros([BK, BT, BH, BR], ACC)
        row = i
        for _ in range(blocks):
            ahead = row + tap * dilation
            sums += _tap_products(
                gradient + row * gradient_t, source + ahead * source_t, sequence, first + row, first + offset + ahead,
                time, length, channels, tap < KERNEL_SIZE, PACKED, ACC,
            )
            row += BT
        product = tl.sum(sums, axis=3, keep_dims=True)
        if SHARED:
            product = tl.sum(product, axis=1, keep_dims=True)
            wanted = some_heads & (tap < KERNEL_SIZE)
            part = (tl.program_id(0) // tl.cdiv(heads, BH)).to(tl.int64)
            at = output + (part * heads + head) * KERNEL_SIZE + (h * KERNEL_SIZE + tap)
        else:
            wanted = (first + i < time) & some_heads & (tap < KERNEL_SIZE)
            if SOFTMAX:
                logit = tl.load(logits + tap * logits_k, mask=wanted, other=-float("inf")).to(ACC)
                product = tl.exp(logit - total) * (product - mean)
            at = output + ((b * time + first) * heads + head) * KERNEL_SIZE + ((i * heads + h) * KERNEL_SIZE + tap)
        tl.store(at, product.to(output.dtype.element_ty), mask=wanted)


@triton.jit
def _band_products(
    gradient, source, t, step, time, length, width, gradient_c, source_c,
    FACTOR: tl.constexpr, INDEX: tl.constexpr, BT: tl.constexpr, BJ: tl.constexpr, BR: tl.constexpr,
    OVER_R: tl.constexpr,
):
    """(BT, BJ): each of the steps (BT, 1) of ``gradient`` times each of those (1, BJ) of ``source``, over a head."""
    sums = tl.zeros([BT, BJ], tl.float32)
    known = (step >= 0) & (step < length)
    for block in tl.static_range(OVER_R):
        across = (block * BR + tl.arange(0, BR))[None, :].to(INDEX)
        down = (block * BR + tl.arange(0, BR))[:, None].to(INDEX)
        own = tl.load(gradient + across * gradient_c, mask=(t < time) & (across < width), other=0.0)
        read = tl.load(source + down * source_c, mask=known & (down < width), other=0.0)
        sums = tl.dot(own.to(FACTOR), read.to(FACTOR), sums)
    return sums


@triton.jit(do_not_specialize=_SIZES)
def correlate_band(
    gradient, source, logits, totals, result, sequence, output,
    length, time, heads, width, offset, dilation, blocks,
    gradient_b, gradient_t, gradient_c, source_b, source_t, source_c, logits_b, logits_t, logits_h, logits_k,
    KERNEL_SIZE: tl.constexpr, SHARED: tl.constexpr, SOFTMAX: tl.constexpr, PACKED: tl.constexpr, FACTOR: tl.constexpr,
    INDEX: tl.constexpr, BT: tl.constexpr, BJ: tl.constexpr, BR: tl.constexpr, OVER_R: tl.constexpr,
):
    """What :func:`correlate_taps` computes, but that parts are (programs, BT, H, K), to be summed over both."""
    b, first, head, _ = _band_tile(time, heads, 1, blocks * BT, dilation, 1)
    i = tl.arange(0, BT)[:, None].to(INDEX)
    gradient = _at(gradient, b, first, head * width, gradient_b, gradient_t, gradient_c)
    source = _at(source, b, first + offset, head * width, source_b, source_t, source_c)
    if SOFTMAX:
        t = first + i * dilation
        logits = _at(logits, b, first, head, logits_b, logits_t, logits_h) + i * dilation * logits_t
        totals += (b * time + first) * heads + head
        total = tl.load(totals + i * dilation * heads, mask=t < time, other=0.0)
        mean = tl.zeros([BT, 1], tl.float32)  # as above
        result += ((b * time + first) * heads + head) * width
        for block in tl.static_range(OVER_R):
            r = (block * BR + tl.arange(0, BR))[None, :].to(INDEX)
            some = (t < time) & (r < width)
            own = tl.load(gradient + (i * dilation * gradient_t + r * gradient_c), mask=some, other=0.0)
            other = tl.load(result + (i * dilation * heads * width + r), mask=some, other=0.0)
            mean += tl.sum(own.to(tl.float32) * other.to(tl.float32), axis=1, keep_dims=True)
    for begin in range(0, BT + KERNEL_SIZE - 1, BJ):
        j = begin + tl.arange(0, BJ)[None, :].to(INDEX)
        sums = tl.zeros([BT, BJ], tl.float32)
        row, ahead = i * dilation, j * dilation
        for _ in range(blocks):
            product = _band_products(
                gradient + row * gradient_t, source + ahead * source_t, first + row, first + offset + ahead,
                time, length, width, gradient_c, source_c, FACTOR, INDEX, BT, BJ, BR, OVER_R,
            )
            if PACKED:
                inside = _inside(first + row, first + offset + ahead, time, length, sequence, PACKED)
                product = tl.where(inside, product, 0.0)
            sums += product
            row += BT * dilation
            ahead += BT * dilation
        tap = j - i
        wanted = (tap >= 0) & (tap < KERNEL_SIZE)
        if SHARED:
            part = (tl.program_id(0) // heads).to(tl.int64) * BT
            at = output + (part * heads + head) * KERNEL_SIZE + (i * heads * KERNEL_SIZE + tap)
        else:
            wanted = wanted & (first + i * dilation < time)
            if SOFTMAX:
                logit = tl.load(logits + tap * logits_k, mask=wanted, other=-float("inf")).to(tl.float32)
                sums = tl.exp(logit - total) * (sums - mean)
            at = output + ((b * time + first) * heads + head) * KERNEL_SIZE
            at += i * dilation * heads * KERNEL_SIZE + tap
        tl.store(at, sums.to(output.dtype.element_ty), mask=wanted)


@triton.jit(do_not_specialize=_SIZES)
def advance(
    input, state, weight, output, following,
    length, time, heads, width, dilation,
    input_b, input_t, input_c, state_b, state_t, state_c, weight_b, weight_t, weight_h, weight_k,
    KERNEL_SIZE: tl.constexpr, PER_STEP: tl.constexpr, ACC: tl.constexpr, BT: tl.constexpr, BH: tl.constexpr,
    BR: tl.constexpr,
):
    """The next ``time`` steps of a causal convolution, and the state (B, length, C) that follows.

    The steps of the state come before those of the input. The programs beyond those of the output move the state.
    """
    steps_out, steps_kept = tl.cdiv(time, BT) * BT, tl.cdiv(length, BT) * BT
    b, first, head, start = _tile(steps_out + steps_kept, heads, width, BT, BH, BR)
    t = first.to(tl.int64) + tl.arange(0, BT)[:, None, None]
    h = head.to(tl.int64) + tl.arange(0, BH)[None, :, None]
    r = start + tl.arange(0, BR)[None, None, :]
    channel = h * width + r
    channels = (h < heads) & (r < width)
    input += b * input_b + channel * input_c
    state += b * state_b + channel * state_c
    if first < steps_out:
        kernels = weight + b * weight_b + h * weight_h
        if PER_STEP:
            kernels += t * weight_t
        sums = tl.zeros([BT, BH, BR], ACC)
        step = t
        for _ in tl.range(0, KERNEL_SIZE, loop_unroll_factor=4):
            past = tl.load(state + step * state_t, mask=(step < length) & channels, other=0.0)
            inside = (t < time) & (step >= length) & channels
            now = tl.load(input + (step - length) * input_t, mask=inside, other=0.0)
            if PER_STEP:
                kernel = tl.load(kernels, mask=(t < time) & (h < heads), other=0.0).to(ACC)
            else:
                kernel = tl.load(kernels, mask=h < heads, other=0.0).to(ACC)
            sums += kernel * (past.to(ACC) + now.to(ACC))
            step += dilation
            kernels += weight_k
        at = output + (b * time + t) * heads * width + channel
        tl.store(at, sums.to(output.dtype.element_ty), mask=(t < time) & channels)
    else:
        kept = t - steps_out
        from_step = kept + time
        here = (kept < length) & channels
        old = tl.load(state + from_step * state_t, mask=here & (from_step < length), other=0.0)
        new = tl.load(input + (from_step - length) * input_t, mask=here & (from_step >= length), other=0.0)
        to = following + (b * length + kept) * heads * width + channel
        tl.store(to, tl.where(from_step < length, old, new), mask=here)


@triton.jit
def _flat_tile(program, time, channels, span, BT: tl.constexpr, BC: tl.constexpr):
    """What a program works on, without heads: row of the batch, steps (BT, 1), channels (1, BC)."""
    over_c, over_t = tl.cdiv(channels, BC), tl.cdiv(time, span)
    t = (program // over_c % over_t) * span + tl.arange(0, BT)[:, None]
    return program // over_c // over_t, t, (program % over_c) * BC + tl.arange(0, BC)[None, :]


@triton.jit(do_not_specialize=_SIZES)
def low_rank_taps(
    source, coefficients, basis, sequence, output,
    length, time, channels, offset,
    source_b, source_t, source_c, coefficients_b, coefficients_t, coefficients_r, basis_r, basis_c, basis_k,
    KERNEL_SIZE: tl.constexpr, RANK: tl.constexpr, ADJOINT: tl.constexpr, PACKED: tl.constexpr,
    ACC: tl.constexpr, BT: tl.constexpr, BC: tl.constexpr,
):
    """:func:`convolve_taps` with H = C and kernels ``Σ_r coefficients[t, r] · basis[r, c, k]``, made in registers."""
    program = tl.program_id(0).to(tl.int64)
    b, t, c = _flat_tile(program, time, channels, BT, BT, BC)
    source += b * source_b + c * source_c
    coefficients += b * coefficients_b
    basis += c * basis_c
    step = t + offset
    sums = tl.zeros([BT, BC], ACC)
    for _ in range(KERNEL_SIZE):
        inside = _inside(t, step, time, length, sequence, PACKED)
        mix = coefficients + (step if ADJOINT else t) * coefficients_t
        part = basis
        kernel = tl.zeros([BT, BC], ACC)
        for _ in tl.range(0, RANK, loop_unroll_factor=4):
            share = tl.load(mix, mask=inside, other=0.0).to(ACC)
            kernel += share * tl.load(part, mask=c < channels, other=0.0).to(ACC)
            mix += coefficients_r
            part += basis_r
        sums += kernel * tl.load(source + step * source_t, mask=inside & (c < channels), other=0.0).to(ACC)
        basis += basis_k
        if ADJOINT:
            step -= 1
        else:
            step += 1
    output += (b * time + t) * channels + c
    tl.store(output, sums.to(output.dtype.element_ty), mask=(t < time) & (c < channels))


@triton.jit(do_not_specialize=_SIZES)
def low_rank_coefficients(
    gradient, source, basis, sequence, parts,
    batch, length, time, channels, offset,
    gradient_b, gradient_t, gradient_c, source_b, source_t, source_c, basis_r, basis_c, basis_k,
    KERNEL_SIZE: tl.constexpr, RANK: tl.constexpr, PACKED: tl.constexpr, ACC: tl.constexpr, BT: tl.constexpr,
    BC: tl.constexpr,
):
    """``Σ_c gradient[t, c] · Σ_k basis[r, c, k] · source[t + offset + k, c]``, in parts (programs, B, T, rank)."""
    program = tl.program_id(0).to(tl.int64)
    b, t, c = _flat_tile(program, time, channels, BT, BT, BC)
    own = tl.load(
        gradient + b * gradient_b + t * gradient_t + c * gradient_c, mask=(t < time) & (c < channels), other=0.0
    ).to(ACC)
    source += b * source_b + c * source_c
    basis += c * basis_c
    part = program % tl.cdiv(channels, BC)
    parts += ((part * batch + b) * time + t) * RANK
    for r in range(RANK):
        step = t + offset
        here = basis
        sums = tl.zeros([BT, BC], ACC)
        for _ in tl.range(0, KERNEL_SIZE, loop_unroll_factor=4):
            inside = _inside(t, step, time, length, sequence, PACKED) & (c < channels)
            read = tl.load(source + step * source_t, mask=inside, other=0.0).to(ACC)
            sums += read * tl.load(here, mask=c < channels, other=0.0).to(ACC)
            step += 1
            here += basis_k
        tl.store(parts + r, tl.sum(own * sums, axis=1, keep_dims=True), mask=t < time)
        basis += basis_r


@triton.jit(do_not_specialize=_SIZES)
def low_rank_basis(
    gradient, source, coefficients, sequence, parts,
    length, time, channels, offset, blocks,
    gradient_b, gradient_t, gradient_c, source_b, source_t, source_c, coefficients_b, coefficients_t,
    coefficients_r,
    KERNEL_SIZE: tl.constexpr, RANK: tl.constexpr, PACKED: tl.constexpr, ACC: tl.constexpr, BT: tl.constexpr,
    BC: tl.constexpr,
):
    """``Σ_t coefficients[t, r] · gradient[t, c] · source[t + offset + k, c]``, in parts (programs, rank, C, K)."""
    program = tl.program_id(0).to(tl.int64)
    r = program % RANK  # the fastest: neighbours read the same steps
    program = program // RANK
    b, begin, c = _flat_tile(program, time, channels, blocks * BT, BT, BC)
    part = program // tl.cdiv(channels, BC)
    gradient += b * gradient_b + c * gradient_c
    source += b * source_b + c * source_c
    coefficients += b * coefficients_b + r * coefficients_r
    parts += ((part * RANK + r) * channels + c) * KERNEL_SIZE
    for k in range(KERNEL_SIZE):
        sums = tl.zeros([BT, BC], ACC)
        for block in range(blocks):
            t = begin + block * BT
            step = t + offset + k
            inside = _inside(t, step, time, length, sequence, PACKED)
            share = tl.load(coefficients + t * coefficients_t, mask=inside, other=0.0).to(ACC)
            own = tl.load(gradient + t * gradient_t, mask=inside & (c < channels), other=0.0).to(ACC)
            read = tl.load(source + step * source_t, mask=inside & (c < channels), other=0.0).to(ACC)
            sums += share * own * read
        tl.store(parts + k, tl.sum(sums, axis=0, keep_dims=True), mask=c < channels)
