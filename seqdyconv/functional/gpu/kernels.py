"""The kernels, in Triton. :mod:`seqdyconv.functional.gpu.launch` imports this file when it launches the first one.

Two operations are all that a convolution and its derivatives of any order need. Where tap k of step t reads the step
``t + offset + k·dilation`` of the source:

- convolve: ``output[t] = Σ_k weight[t, k] · source[t + offset + k·dilation]``; or its ADJOINT, which sends the same
  numbers the other way: ``output[s] = Σ_k weight[t, k] · source[t]`` where ``t = s + offset − k·dilation``;
- correlate: ``output[t, k] = Σ_r gradient[t, r] · source[t + offset + k·dilation, r]``, r the channels of a head.

Each is there twice. ``taps`` is a loop over the taps, for any dtype and number of channels. ``band`` is for tensor
cores: the kernels of BT steps, each shifted by one, are the rows of a band, and a tile is a few matrix products.

A tap outside the source reads zero, and so does one in another of several PACKED sequences: ``sequence[t]`` says which
one a step is of. Sums are of type ACC, and what tensor cores multiply of type FACTOR. All offsets are int64, and
tensors that come in may have any strides; those that go out are contiguous. There are no atomics: what many programs
add up are sums of parts, for one more sum in order.

In each signature the lines are, by hand: tensors, sizes, strides, and what a kernel is compiled for.
"""

# mypy: allow-untyped-defs, disable-error-code=no-untyped-def
# fmt: off
import triton
import triton.language as tl

# Compiled once for all their values, not again where 16 divides them: they change from call to call.
_SIZES = ["length", "time", "offset", "dilation", "blocks"]


@triton.jit
def _tile(time, heads, width, span, BT: tl.constexpr, BH: tl.constexpr, BR: tl.constexpr):
    """What a program works on: row of the batch, steps (BT, 1, 1), heads (1, BH, 1), channels of a head (1, 1, BR).

    ``span`` is the number of steps from the first one of a program to that of the next.
    """
    program = tl.program_id(0).to(tl.int64)
    over_r, over_h, over_t = tl.cdiv(width, BR), tl.cdiv(heads, BH), tl.cdiv(time, span)
    r = (program % over_r) * BR + tl.arange(0, BR)[None, None, :]
    h = (program // over_r % over_h) * BH + tl.arange(0, BH)[None, :, None]
    t = (program // over_r // over_h % over_t) * span + tl.arange(0, BT)[:, None, None]
    return program // over_r // over_h // over_t, t, h, r


@triton.jit
def _flat_tile(program, time, channels, span, BT: tl.constexpr, BC: tl.constexpr):
    """What a program works on, without heads: row of the batch, steps (BT, 1), channels (1, BC)."""
    over_c, over_t = tl.cdiv(channels, BC), tl.cdiv(time, span)
    t = (program // over_c % over_t) * span + tl.arange(0, BT)[:, None]
    return program // over_c // over_t, t, (program % over_c) * BC + tl.arange(0, BC)[None, :]


@triton.jit
def _band_tile(time, heads, width, span, dilation, BR: tl.constexpr):
    """What a program works on: row of the batch, first step, head, channels of it (BR,).

    Dilated taps stay within steps of equal ``t mod dilation``. A program has steps of one such phase.
    """
    program = tl.program_id(0).to(tl.int64)
    over_r, over_t = tl.cdiv(width, BR), tl.cdiv(tl.cdiv(time, dilation), span)
    r = (program % over_r) * BR + tl.arange(0, BR)
    h = program // over_r % heads
    block = program // over_r // heads % over_t
    phase = program // over_r // heads // over_t % dilation
    return program // over_r // heads // over_t // dilation, phase + block * span * dilation, h, r


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
    PACKED: tl.constexpr, ACC: tl.constexpr, BT: tl.constexpr, BH: tl.constexpr, BR: tl.constexpr,
):
    """(B, length, C) to (B, time, C), with kernels (B, T, H, K), or (H, K) where not PER_STEP.

    With SOFTMAX these are logits, and ``totals`` (B, T, H) the logarithms of the sums of their exponentials: written
    on the way forward, read by the ADJOINT.
    """
    b, t, h, r = _tile(time, heads, width, BT, BT, BH, BR)
    channel = h * width + r
    channels = (h < heads) & (r < width)
    source += b * source_b + channel * source_c
    weight += b * weight_b + h * weight_h
    if SOFTMAX and not ADJOINT:
        total = _log_total(weight + t * weight_t, weight_k, (t < time) & (h < heads), KERNEL_SIZE, ACC)
        # Programs that share a kernel, each with some channels of a head, write the same number.
        tl.store(totals + (b * time + t) * heads + h, total, mask=(t < time) & (h < heads))
    step = t + offset
    sums = tl.zeros([BT, BH, BR], ACC)
    for _ in tl.range(0, KERNEL_SIZE, loop_unroll_factor=4):
        inside = _inside(t, step, time, length, sequence, PACKED)
        row = step if ADJOINT else t
        if SOFTMAX:
            if ADJOINT:
                total = tl.load(totals + (b * length + row) * heads + h, mask=inside & (h < heads), other=0.0)
            logit = tl.load(weight + row * weight_t, mask=inside & (h < heads), other=-float("inf")).to(ACC)
            kernel = tl.exp(logit - total)
        elif PER_STEP:
            kernel = tl.load(weight + row * weight_t, mask=inside & (h < heads), other=0.0).to(ACC)
        else:
            kernel = tl.load(weight, mask=h < heads, other=0.0).to(ACC)
        sums += kernel * tl.load(source + step * source_t, mask=inside & channels, other=0.0).to(ACC)
        weight += weight_k
        if ADJOINT:
            step -= dilation
        else:
            step += dilation
    output += (b * time + t) * heads * width + channel
    tl.store(output, sums.to(output.dtype.element_ty), mask=(t < time) & channels)


@triton.jit(do_not_specialize=_SIZES)
def convolve_band(
    source, weight, totals, sequence, output,
    length, time, heads, width, offset, dilation,
    source_b, source_t, source_c, weight_b, weight_t, weight_h, weight_k,
    KERNEL_SIZE: tl.constexpr, ADJOINT: tl.constexpr, SOFTMAX: tl.constexpr, PACKED: tl.constexpr, FACTOR: tl.constexpr,
    BT: tl.constexpr, BJ: tl.constexpr, BR: tl.constexpr, BK: tl.constexpr,
):
    """What :func:`convolve_taps` computes. Kernels (H, K) have the strides 0 over batch and time."""
    b, start, h, r = _band_tile(time, heads, width, BT, dilation, BR)
    i = tl.arange(0, BT)[:, None]
    t = start + i.to(tl.int64) * dilation
    channel = (h * width + r)[None, :]
    channels = (r < width)[None, :]
    source += b * source_b + channel * source_c
    weight += b * weight_b + h * weight_h
    if SOFTMAX and not ADJOINT:
        taps = tl.arange(0, BK)[None, :]
        logits = weight + t * weight_t + taps.to(tl.int64) * weight_k
        logit = tl.load(logits, mask=(t < time) & (taps < KERNEL_SIZE), other=0.0).to(tl.float32)
        logit = tl.where(taps < KERNEL_SIZE, logit, -float("inf"))
        most = tl.maximum(tl.max(logit, axis=1, keep_dims=True), -1e38)
        total = most + tl.log(tl.sum(tl.exp(logit - most), axis=1, keep_dims=True))
        tl.store(totals + (b * time + t) * heads + h, total, mask=t < time)
    sums = tl.zeros([BT, BR], tl.float32)
    for first in range(0, BT + KERNEL_SIZE - 1, BJ):
        j = first + tl.arange(0, BJ)
        if ADJOINT:
            step = start + offset + (j - (KERNEL_SIZE - 1)).to(tl.int64) * dilation
            tap = KERNEL_SIZE - 1 - j[None, :] + i
            row = step[None, :]
        else:
            step = start + offset + j.to(tl.int64) * dilation
            tap = j[None, :] - i
            row = t
        inside = (tap >= 0) & (tap < KERNEL_SIZE) & _inside(t, step[None, :], time, length, sequence, PACKED)
        kernels = weight + row * weight_t + tap.to(tl.int64) * weight_k
        if SOFTMAX:
            if ADJOINT:
                known = (step >= 0) & (step < length)
                total = tl.load(totals + (b * length + step) * heads + h, mask=known, other=0.0)[None, :]
            logit = tl.load(kernels, mask=inside, other=-float("inf")).to(tl.float32)
            band = tl.exp(logit - total).to(source.dtype.element_ty)
        else:
            band = tl.load(kernels, mask=inside, other=0.0)
        known = (step >= 0) & (step < length)
        window = tl.load(source + step[:, None] * source_t, mask=known[:, None] & channels, other=0.0)
        sums = tl.dot(band.to(FACTOR), window.to(FACTOR), sums)
    output += (b * time + t) * heads * width + channel
    tl.store(output, sums.to(output.dtype.element_ty), mask=(t < time) & channels)


@triton.jit(do_not_specialize=_SIZES)
def correlate_taps(
    gradient, source, logits, totals, sequence, output,
    length, time, heads, width, offset, dilation, blocks,
    gradient_b, gradient_t, gradient_c, source_b, source_t, source_c, logits_b, logits_t, logits_h, logits_k,
    KERNEL_SIZE: tl.constexpr, SHARED: tl.constexpr, SOFTMAX: tl.constexpr, PACKED: tl.constexpr,
    ACC: tl.constexpr, BT: tl.constexpr, BH: tl.constexpr, BR: tl.constexpr, BK: tl.constexpr,
):
    """(B, time, C) and (B, length, C) to (B, time, H, K), all the channels of a head in one program.

    SHARED by all steps: to parts (programs, H, K), each the sum over ``blocks`` · BT steps. With SOFTMAX it goes on
    from the gradient of the kernels to that of their ``logits``.
    """
    span = blocks * BT
    b, t, h, r = _tile(time, heads, width, span, BT, BH, BR)
    channel = h * width + r
    channels = (h < heads) & (r < width)
    gradient += b * gradient_b + channel * gradient_c
    source += b * source_b + channel * source_c
    tap = tl.arange(0, BK)[None, None, :]
    sums = tl.zeros([1, BH, BK], ACC) if SHARED else tl.zeros([BT, BH, BK], ACC)
    for block in range(blocks):
        now = t + block * BT
        step = now + offset
        own = tl.load(gradient + now * gradient_t, mask=(now < time) & channels, other=0.0).to(ACC)
        for k in range(KERNEL_SIZE):
            inside = _inside(now, step, time, length, sequence, PACKED)
            read = tl.load(source + step * source_t, mask=inside & channels, other=0.0).to(ACC)
            product = tl.sum(own * read, axis=2, keep_dims=True)
            if SHARED:
                product = tl.sum(product, axis=0, keep_dims=True)
            sums += tl.where(tap == k, product, 0.0)
            step += dilation
    if SHARED:
        part = tl.program_id(0).to(tl.int64) // tl.cdiv(heads, BH)
        output += (part * heads + h) * KERNEL_SIZE + tap
        tl.store(output, sums, mask=(h < heads) & (tap < KERNEL_SIZE))
    else:
        inside = (t < time) & (h < heads) & (tap < KERNEL_SIZE)
        if SOFTMAX:
            logits += b * logits_b + t * logits_t + h * logits_h + tap.to(tl.int64) * logits_k
            total = tl.load(totals + (b * time + t) * heads + h, mask=(t < time) & (h < heads), other=0.0)
            kernel = tl.exp(tl.load(logits, mask=inside, other=-float("inf")).to(ACC) - total)
            sums = kernel * (sums - tl.sum(kernel * sums, axis=2, keep_dims=True))
        output += ((b * time + t) * heads + h) * KERNEL_SIZE + tap
        tl.store(output, sums.to(output.dtype.element_ty), mask=inside)


@triton.jit
def _products(
    gradient, source, t, step,
    time, length, width,
    gradient_t, gradient_c, source_t, source_c,
    FACTOR: tl.constexpr, BT: tl.constexpr, BJ: tl.constexpr, BR: tl.constexpr,
):
    """(BT, BJ): each of the steps (BT, 1) of ``gradient`` times each of those (1, BJ) of ``source``, over a head."""
    sums = tl.zeros([BT, BJ], tl.float32)
    for first in range(0, width, BR):
        r = (first + tl.arange(0, BR)).to(tl.int64)
        own = tl.load(
            gradient + t * gradient_t + r[None, :] * gradient_c, mask=(t < time) & (r < width)[None, :], other=0.0
        )
        known = (step >= 0) & (step < length)
        read = tl.load(source + step * source_t + r[:, None] * source_c, mask=known & (r < width)[:, None], other=0.0)
        sums = tl.dot(own.to(FACTOR), read.to(FACTOR), sums)
    return sums


@triton.jit(do_not_specialize=_SIZES)
def correlate_band(
    gradient, source, logits, totals, sequence, output,
    length, time, heads, width, offset, dilation, blocks,
    gradient_b, gradient_t, gradient_c, source_b, source_t, source_c, logits_b, logits_t, logits_h, logits_k,
    KERNEL_SIZE: tl.constexpr, SHARED: tl.constexpr, SOFTMAX: tl.constexpr, PACKED: tl.constexpr, FACTOR: tl.constexpr,
    BT: tl.constexpr, BJ: tl.constexpr, BR: tl.constexpr,
):
    """What :func:`correlate_taps` computes, but that parts are (programs, BT, H, K), to be summed over both."""
    span = blocks * BT
    b, start, h, _ = _band_tile(time, heads, 1, span, dilation, 1)
    i = tl.arange(0, BT)[:, None]
    gradient += b * gradient_b + h * width * gradient_c
    source += b * source_b + h * width * source_c
    if SOFTMAX:
        t = start + i.to(tl.int64) * dilation
        logits += b * logits_b + t * logits_t + h * logits_h
        total = tl.load(totals + (b * time + t) * heads + h, mask=t < time, other=0.0)
        # The gradient of a logit is kernel · (gradient of the kernel − mean); first for the mean, Σ kernel · gradient.
        mean = tl.zeros([BT, 1], tl.float32)
        for first in range(0, BT + KERNEL_SIZE - 1, BJ):
            j = first + tl.arange(0, BJ)[None, :]
            step = start + offset + j.to(tl.int64) * dilation
            inside = (j >= i) & (j - i < KERNEL_SIZE) & _inside(t, step, time, length, sequence, PACKED)
            product = _products(
                gradient, source, t, step, time, length, width,
                gradient_t, gradient_c, source_t, source_c, FACTOR, BT, BJ, BR,
            )
            logit = tl.load(logits + (j - i).to(tl.int64) * logits_k, mask=inside, other=-float("inf")).to(tl.float32)
            mean += tl.sum(tl.exp(logit - total) * product, axis=1, keep_dims=True)
    for first in range(0, BT + KERNEL_SIZE - 1, BJ):
        j = first + tl.arange(0, BJ)[None, :]
        tap = j - i
        sums = tl.zeros([BT, BJ], tl.float32)
        for block in range(blocks):
            begin = start + block * BT * dilation
            t = begin + i.to(tl.int64) * dilation
            step = begin + offset + j.to(tl.int64) * dilation
            product = _products(
                gradient, source, t, step, time, length, width,
                gradient_t, gradient_c, source_t, source_c, FACTOR, BT, BJ, BR,
            )
            sums += tl.where(_inside(t, step, time, length, sequence, PACKED), product, 0.0)
        wanted = (tap >= 0) & (tap < KERNEL_SIZE)
        if SHARED:
            part = tl.program_id(0).to(tl.int64) // heads * BT + i
            tl.store(output + (part * heads + h) * KERNEL_SIZE + tap, sums, mask=wanted)
        else:
            t = start + i.to(tl.int64) * dilation
            if SOFTMAX:
                known = wanted & (t < time)
                logit = tl.load(logits + tap.to(tl.int64) * logits_k, mask=known, other=-float("inf")).to(tl.float32)
                sums = tl.exp(logit - total) * (sums - mean)
            at = output + ((b * time + t) * heads + h) * KERNEL_SIZE + tap
            tl.store(at, sums.to(output.dtype.element_ty), mask=wanted & (t < time))


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
    b, t, h, r = _tile(steps_out + steps_kept, heads, width, BT, BT, BH, BR)
    channel = h * width + r
    channels = (h < heads) & (r < width)
    input += b * input_b + channel * input_c
    state += b * state_b + channel * state_c
    if tl.min(t) < steps_out:
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
