"""deformable_conv1d and deformable_depthwise_conv1d against their definition, and their identities."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from seqdyconv import deformable_conv1d, deformable_depthwise_conv1d, dynamic_conv1d, lightweight_conv1d
from seqdyconv.functional import reference
from seqdyconv.functional.deformable import deformable_kernels, pad_time
from tests.helpers import assert_close, assert_matches, golden


def noise(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def by_definition(input, offset, weight, bias, modulation, *, pads, stride=1, dilation=1, groups=1, clamp=True):
    padded = F.pad(input, (0, 0, *pads))
    return reference.deformable(padded, offset, weight, modulation, stride, dilation, groups, clamp) + bias


examples = settings(deadline=None, derandomize=True, database=None, max_examples=40)


class TestDefinition:
    """Outputs and all gradients are those of the loop over taps."""

    @examples
    @given(
        time=st.integers(1, 12),
        kernel_size=st.integers(1, 5),
        stride=st.integers(1, 3),
        dilation=st.integers(1, 3),
        padding=st.integers(0, 6),
        groups=st.sampled_from([1, 2, 6]),
        offset_groups=st.sampled_from([1, 2, 3, 6]),
        clamp=st.booleans(),
        batch=st.integers(0, 2),
        spread=st.sampled_from([0.3, 3.0, 30.0]),
    )
    def test_every_option(
        self, time, kernel_size, stride, dilation, padding, groups, offset_groups, clamp, batch, spread
    ):
        outputs = (time + 2 * padding - (kernel_size - 1) * dilation - 1) // stride + 1
        if outputs < 1:
            return
        shape = (batch, outputs, offset_groups, kernel_size)
        options = {"stride": stride, "dilation": dilation, "groups": groups, "clamp": clamp}
        inputs = (
            noise(batch, time, 6),
            spread * noise(*shape, seed=1),
            noise(6, 6 // groups, kernel_size, seed=2),
            noise(6, seed=3),
            noise(*shape, seed=4),
        )
        assert_matches(
            lambda x, offset, weight, bias, modulation: deformable_conv1d(
                x, offset, weight, bias, modulation=modulation, padding=padding, **options
            ),
            lambda *tensors: by_definition(*tensors, pads=(padding, padding), **options),
            *inputs,
        )

    @examples
    @given(
        time=st.integers(1, 12),
        kernel_size=st.integers(1, 9),
        dilation=st.integers(1, 3),
        heads=st.sampled_from([1, 2, 6]),
        padding=st.sampled_from(["same", "causal", 0]),
        clamp=st.booleans(),
        batch=st.integers(0, 2),
        spread=st.sampled_from([0.3, 3.0, 30.0]),
    )
    def test_every_option_of_the_depthwise_form(
        self, time, kernel_size, dilation, heads, padding, clamp, batch, spread
    ):
        shape, reach = (batch, time, heads, kernel_size), (kernel_size - 1) * dilation
        left = {"same": reach // 2, "causal": reach}.get(padding, 0)
        inputs = (
            noise(batch, time, 6),
            spread * noise(*shape, seed=1),
            noise(heads, kernel_size, seed=2),
            noise(6, seed=3),
            noise(*shape, seed=4),
        )
        options = {"dilation": dilation, "clamp": clamp}
        assert_matches(
            lambda x, offset, weight, bias, modulation: deformable_depthwise_conv1d(
                x, offset, weight, bias, modulation=modulation, padding=padding, **options
            ),
            lambda x, offset, weight, *rest: by_definition(
                x,
                offset,
                weight.repeat_interleave(6 // heads, dim=0)[:, None],
                *rest,
                pads=(left, reach - left),
                groups=6,
                **options,
            ),
            *inputs,
        )

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
    @pytest.mark.parametrize("clamp", [True, False], ids=["clamped", "free"])
    def test_dtypes(self, dtype, clamp):
        offset = (noise(2, 9, 2, 3, seed=1) * 16).round().to(dtype) / 16 + 1 / 32  # exact, and at no whole step
        inputs = (noise(2, 9, 6, dtype=dtype), offset, noise(6, 6, 3, seed=2, dtype=dtype), noise(6, dtype=dtype))
        depthwise = (inputs[0], inputs[1], noise(2, 3, seed=2, dtype=dtype), inputs[3])
        assert_matches(
            lambda *tensors: deformable_conv1d(*tensors, padding=1, clamp=clamp),
            lambda *tensors: by_definition(*tensors, None, pads=(1, 1), clamp=clamp),
            *inputs,
        )
        assert_matches(
            lambda *tensors: deformable_depthwise_conv1d(*tensors, clamp=clamp),
            lambda x, offset, weight, bias: by_definition(
                x, offset, weight.repeat_interleave(3, dim=0)[:, None], bias, None, pads=(1, 1), groups=6, clamp=clamp
            ),
            *depthwise,
        )

    def test_second_derivatives(self):
        offset, weight = 2 * noise(2, 5, 2, 3, seed=1), noise(4, 2, 3, seed=2)
        for clamp in (True, False):
            assert torch.autograd.gradgradcheck(
                lambda *tensors: deformable_conv1d(*tensors, padding=1, groups=2, clamp=clamp),  # noqa: B023
                [tensor.requires_grad_() for tensor in (noise(2, 5, 4), offset, weight)],
                fast_mode=True,
            )

    def test_strided_input(self):
        input, offset, weight = noise(2, 9, 6), noise(2, 9, 1, 3, seed=1), noise(6, 6, 3, seed=2)
        strided = input.transpose(0, 2).contiguous().transpose(0, 2)
        assert_close(
            deformable_conv1d(strided, offset, weight, padding=1), deformable_conv1d(input, offset, weight, padding=1)
        )

    @pytest.mark.parametrize("clamp", [True, False], ids=["clamped", "free"])
    def test_autocast_computes_in_its_dtype(self, clamp):
        input, weight = noise(2, 9, 6, dtype=torch.float32), noise(6, 6, 3, seed=2, dtype=torch.float32)
        offset, kernel = noise(2, 9, 2, 3, seed=1, dtype=torch.float32), weight[:2, 0]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = [
                deformable_conv1d(input, offset, weight, padding=1, clamp=clamp),
                deformable_depthwise_conv1d(input, offset, kernel, clamp=clamp),
            ]
        expected = [
            deformable_conv1d(input, offset, weight, padding=1, clamp=clamp),
            deformable_depthwise_conv1d(input, offset, kernel, clamp=clamp),
        ]
        for actual, exact in zip(outputs, expected):
            assert actual.dtype == torch.bfloat16
            assert_close(actual, exact, 3e-2)


class TestIdentities:
    @pytest.mark.parametrize("stride, dilation, groups, padding", [(1, 1, 1, 0), (2, 1, 2, 3), (3, 2, 6, 1)])
    @pytest.mark.parametrize("clamp", [True, False], ids=["clamped", "free"])
    def test_zero_offsets_are_a_convolution(self, stride, dilation, groups, padding, clamp):
        input, weight, bias = noise(2, 11, 6), noise(12, 6 // groups, 3, seed=1), noise(12, seed=2)
        options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        expected = F.conv1d(input.transpose(1, 2), weight, bias, **options).transpose(1, 2)
        offset = torch.zeros(2, expected.shape[1], 2, 3).double()
        assert_close(deformable_conv1d(input, offset, weight, bias, clamp=clamp, **options), expected)

    @pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
    @pytest.mark.parametrize("padding", ["same", "valid", 2])
    def test_padding_modes_are_those_of_conv1d(self, mode, padding):
        conv = torch.nn.Conv1d(6, 4, 3, padding=padding, dilation=2, padding_mode=mode).double()
        input = noise(2, 9, 6)
        expected = conv(input.transpose(1, 2)).transpose(1, 2)
        offset = torch.zeros(2, expected.shape[1], 1, 3).double()
        options = {"padding": padding, "padding_mode": mode, "dilation": 2}
        actual = deformable_conv1d(input, offset, conv.weight, conv.bias, **options)
        assert_close(actual, expected)

    @pytest.mark.parametrize("padding", ["same", "causal", 1])
    @pytest.mark.parametrize("clamp", [True, False], ids=["clamped", "free"])
    def test_zero_offsets_are_a_lightweight_convolution(self, padding, clamp):
        input, weight, bias = noise(2, 11, 6), noise(3, 4, seed=1), noise(6, seed=2)
        options = {"padding": padding, "dilation": 2}
        actual = deformable_depthwise_conv1d(input, torch.zeros(2, 11, 3, 4), weight, bias, clamp=clamp, **options)
        assert_close(actual, lightweight_conv1d(input, weight, bias, **options))

    @pytest.mark.parametrize("shift", [-3, -1, 2])
    def test_a_whole_offset_shifts_the_input(self, shift):
        input, weight = noise(2, 11, 6), noise(6, 6, 3, seed=1)
        shifted = F.pad(input, (0, 0, -shift, shift))
        expected = F.conv1d(shifted.transpose(1, 2), weight, padding=1).transpose(1, 2)
        offset = torch.full((2, 11, 1, 3), float(shift)).double()
        inner = slice(3, -3)  # at the ends, positions stay within the padding of one step
        assert_close(deformable_conv1d(input, offset, weight, padding=1, clamp=False)[:, inner], expected[:, inner])

    def test_half_an_offset_reads_the_mean_of_two_steps(self):
        input, offset = noise(2, 11, 6), torch.full((2, 11, 6, 2), -0.5)
        kernel = torch.tensor([[0.0, 1.0]]).double().expand(6, 2)
        expected = (input + F.pad(input, (0, 0, 1, -1))) / 2
        assert_close(deformable_depthwise_conv1d(input, offset, kernel, padding="causal"), expected)

    def test_clamped_depthwise_is_a_dynamic_convolution(self):
        input, offset, weight = noise(2, 11, 6), noise(2, 11, 3, 4, seed=1), noise(3, 4, seed=2)
        kernels = deformable_kernels(offset, weight, dilation=2)
        assert kernels.shape == (2, 11, 3, 7)
        assert_close(kernels.sum(-1), weight.sum(-1).expand(2, 11, 3))  # taps move, their weight stays
        assert_close(deformable_depthwise_conv1d(input, offset, weight, dilation=2), dynamic_conv1d(input, kernels))

    def test_modulation_multiplies_the_taps(self):
        input, offset, weight = noise(2, 9, 6), noise(2, 9, 2, 3, seed=1), noise(6, 6, 3, seed=2)
        plain = deformable_conv1d(input, offset, weight, padding=1)
        doubled = deformable_conv1d(input, offset, weight, padding=1, modulation=torch.full_like(offset, 2))
        assert_close(doubled, 2 * plain)


class TestLimits:
    """Taps read nothing beyond their limit, not even in their gradients: NaN there would be seen."""

    @pytest.mark.parametrize("spread", [0.0, 0.4, 1e9], ids=["at zero", "near", "far"])
    def test_clamped_taps_read_their_window_alone(self, spread):
        """What stands outside does not matter, not even to the slopes."""
        input, offset, weight = noise(1, 9, 6), spread * noise(1, 9, 2, 3, seed=1), noise(6, 6, 3, seed=2)
        input[:, 7:] = input[:, :4] = torch.nan
        offset.requires_grad_()
        output = deformable_conv1d(input, offset, weight, padding="causal")[:, 6]  # reads the steps 4, 5 and 6
        assert output.isfinite().all() and torch.autograd.grad(output.sum(), offset)[0][:, 6].isfinite().all()

    @pytest.mark.parametrize("spread", [0.0, 0.4, 1e9], ids=["at zero", "near", "far"])
    def test_clamped_taps_of_the_depthwise_form_read_their_window_alone(self, spread):
        input, offset = noise(1, 9, 6), spread * noise(1, 9, 2, 3, seed=1)
        input, offset = input.requires_grad_(), offset.requires_grad_()
        output = deformable_depthwise_conv1d(input, offset, noise(2, 3, seed=2), padding="causal")[:, 6]
        (slope,) = torch.autograd.grad(output.sum(), input, retain_graph=True)
        assert (slope[:, 7:] == 0).all() and (slope[:, :4] == 0).all() and (slope[:, 4:7] != 0).any()
        slopes = [torch.autograd.grad(output.sum(), offset, retain_graph=True)[0]]
        changed = input.detach().clone()
        changed[:, 7:] = changed[:, :4] = 1e3
        output = deformable_depthwise_conv1d(changed, offset, noise(2, 3, seed=2), padding="causal")[:, 6]
        slopes.append(torch.autograd.grad(output.sum(), offset)[0])
        assert_close(slopes[0], slopes[1])

    def test_free_taps_stay_in_the_padded_sequence(self):
        """Beyond the end the last padded step is read, without padding the last step."""
        input, weight = noise(1, 5, 6), torch.ones(6, 1, 1).double()
        offset = torch.full((1, 5, 1, 1), 100.0)
        output = deformable_conv1d(input, offset, weight, groups=6, clamp=False)
        assert_close(output, input[:, 4:].expand_as(input))
        offset = torch.full((1, 7, 1, 1), 100.0)
        assert (deformable_conv1d(input, offset, weight, groups=6, padding=1, clamp=False) == 0).all()

    def test_free_taps_stay_in_their_rows_real_steps(self):
        input, offset, weight = noise(1, 6, 6), 9 * noise(1, 6, 1, 1, seed=1), torch.ones(6, 1, 1).double()
        padded = F.pad(input, (0, 0, 3, 2))
        mask = torch.tensor([[True] * 3 + [False] * 6 + [True] * 2])
        moved = F.pad(offset, (0, 0, 0, 0, 3, 2))
        actual = deformable_conv1d(padded, moved, weight, groups=6, clamp=False, padding_mask=mask)
        expected = deformable_conv1d(input, offset, weight, groups=6, clamp=False)
        assert_close(actual[:, 3:9], expected)

    def test_slopes_at_whole_positions(self):
        """To the right, but to the left where a tap may go no further, and zero beyond."""
        input = torch.tensor([1.0, 3.0, 4.0, 8.0]).view(1, 4, 1).double()
        weight = torch.ones(1, 1, 3).double()
        for offset, slopes in (([0.0, 0.0, 0.0], [2, 1, 1]), ([-1.0, 0.0, 1.0], [0, 1, 0])):
            moved = torch.tensor(offset).view(1, 1, 1, 3).expand(1, 2, 1, 3).double().requires_grad_()
            output = deformable_conv1d(input, moved, weight)[:, 0]
            assert torch.autograd.grad(output.sum(), moved)[0][0, 0, 0].tolist() == slopes

    def test_offsets_that_are_no_numbers(self):
        """NaN comes out where it went in, and no memory beyond the input is read."""
        input, weight = noise(1, 9, 6), noise(6, 6, 1, seed=1)
        offset = torch.zeros(1, 9, 1, 1).double()
        offset[0, 2], offset[0, 3], offset[0, 4] = torch.nan, torch.inf, -torch.inf
        output = deformable_conv1d(input, offset, weight, clamp=False)
        assert output[0, 2].isnan().all() and output[0, [0, 1, 3, 4, 5]].isfinite().all()
        assert_close(output[0, 3], (input @ weight[..., 0].T)[0, 8])

    @pytest.mark.parametrize("clamp", [True, False], ids=["clamped", "free"])
    def test_positions_are_exact_in_bfloat16_at_the_end_of_a_long_sequence(self, clamp):
        input = (torch.arange(2000) % 7).view(1, 2000, 1).to(torch.bfloat16)
        offset = torch.full((1, 2000, 1, 3), -0.25, dtype=torch.bfloat16)
        kernel = torch.tensor([[0.0, 1.0, 0.0]])
        exact = deformable_depthwise_conv1d(input.double(), offset.double(), kernel.double(), clamp=clamp)
        assert_close(deformable_depthwise_conv1d(input, offset, kernel.bfloat16(), clamp=clamp), exact, 1e-2)
        exact = deformable_conv1d(input.double(), offset.double(), kernel.double()[None], padding=1, clamp=clamp)
        assert_close(deformable_conv1d(input, offset, kernel.bfloat16()[None], padding=1, clamp=clamp), exact, 1e-2)


class TestGolden:
    """dc1d, whose (B, C, L) becomes (B, T, C), and whose offsets (B, G, L, K) become (B, T, G, K)."""

    @pytest.mark.parametrize("name", [f"dc1d_deform_{i:02}" for i in range(1, 5)])
    def test_given_offsets(self, name):
        tensors, header = golden(name)
        leaves = {key: tensors[key].requires_grad_() for key in ("x", "offsets", "modulation") if key in tensors}
        leaves |= parameters(tensors)
        self.check(leaves, leaves["offsets"], leaves.get("modulation"), tensors, header)

    @pytest.mark.parametrize("name", ["dc1d_packed_01", "dc1d_packed_02"])
    def test_predicted_offsets(self, name):
        tensors, header = golden(name)
        leaves = {"x": tensors["x"].requires_grad_()} | parameters(tensors)
        offset, modulation = dc1d_predictor(leaves["x"], leaves, header["args"])
        assert_close(offset, tensors["offsets"])
        if modulation is not None:
            assert_close(modulation, tensors["modulation"])
        self.check(leaves, offset, modulation, tensors, header)

    def check(self, leaves, offset, modulation, tensors, header):
        args = header["args"]
        names = ("stride", "padding", "dilation", "groups", "padding_mode")
        output = deformable_conv1d(
            leaves["x"].transpose(1, 2),
            offset.transpose(1, 2),
            leaves["weight"],
            leaves.get("bias"),
            modulation=None if modulation is None else modulation.transpose(1, 2),
            clamp=not args["unconstrained"],
            **{name: args[name] for name in names},
        )
        assert_close(output, tensors["out"].transpose(1, 2), 1e-10)
        gradients = torch.autograd.grad(output, list(leaves.values()), tensors["cotangent"].transpose(1, 2))
        for key, gradient in zip(leaves, gradients):
            assert_close(gradient, tensors[f"grad.{key}"], 1e-10, key)


def parameters(tensors):
    return {key[6:]: value.requires_grad_() for key, value in tensors.items() if key.startswith("state.")}


def dc1d_predictor(x, state, args):
    """Their network, by its parameters: depthwise convolution, PReLU and a norm over all; then the same, pointwise."""

    def norm(hidden, name):
        variance, mean = torch.var_mean(hidden, dim=(1, 2), keepdim=True, correction=0)
        scaled = (hidden - mean) / variance.clamp(min=1e-9).sqrt()
        return scaled * state[f"{name}.gamma"].transpose(1, 2) + state[f"{name}.beta"].transpose(1, 2)

    def pointwise(name, prelu, gain):
        found = F.prelu(F.conv1d(hidden, state[f"{name}.weight"]), state[f"{prelu}.weight"])
        return norm(found, gain).unflatten(1, (args["offset_groups"], -1)).transpose(2, 3)

    pads = (args["kernel_size"] - 1) * args["dilation"]
    padded = pad_time(x.transpose(1, 2), (pads // 2, pads - pads // 2), args["padding_mode"]).transpose(1, 2)
    hidden = F.conv1d(padded, state["offset_dconv.weight"], dilation=args["dilation"], groups=x.shape[1])
    hidden = norm(F.prelu(hidden, state["odc_prelu.weight"]), "odc_norm")
    offset = pointwise("offset_pconv", "odp_prelu", "odp_norm")
    return offset, pointwise("mask_pconv", "mdp_prelu", "mdp_norm").sigmoid() if args["modulated"] else None


class TestBadInput:
    INPUT, OFFSET, WEIGHT = torch.zeros(2, 9, 6), torch.zeros(2, 7, 1, 3), torch.zeros(4, 6, 3)

    @pytest.mark.parametrize(
        "changes, message",
        [
            ({"input": torch.zeros(9, 6)}, r"input must be a floating-point \(B, T, C\).*got torch.float32 \(9, 6\)"),
            ({"input": torch.zeros(2, 9, 6).long()}, r"input must be a floating-point .*got torch.int64"),
            ({"weight": torch.zeros(4, 5, 3)}, r"weight must be \(O, C // groups, K\).*got \(4, 5, 3\)"),
            ({"weight": torch.zeros(4, 6, 0)}, r"weight must be .*K >= 1.*got \(4, 6, 0\)"),
            ({"weight": torch.zeros(5, 3, 3), "groups": 2}, r"weight must be .*divides C and O, got \(5, 3, 3\)"),
            ({"weight": torch.zeros(4, 6, 3).double()}, r"weight must have the input's dtype.*got torch.float64"),
            ({"bias": torch.zeros(6)}, r"bias must be \(O,\) = \(4,\), got \(6,\)"),
            ({"offset": torch.zeros(2, 9, 1, 3)}, r"offset must be .*\(2, 7, G .*, 3\), got .*\(2, 9, 1, 3\)"),
            ({"offset": torch.zeros(2, 7, 4, 3)}, r"offset must be .*G that divides C = 6.*got .*\(2, 7, 4, 3\)"),
            ({"offset": torch.zeros(2, 7, 1, 3).long()}, r"offset must be floating point.*got torch.int64"),
            ({"modulation": torch.zeros(2, 7, 2, 3)}, r"modulation must .*\(2, 7, 1, 3\), got .*\(2, 7, 2, 3\)"),
            ({"modulation": torch.zeros(2, 7, 1, 3, device="meta")}, "modulation must .* on cpu, .*, got .* on meta"),
            ({"stride": 0}, r"stride must be an int >= 1, got 0"),
            ({"dilation": 1.0}, r"dilation must be an int >= 1, got 1.0"),
            ({"groups": 0}, r"groups must be an int >= 1, got 0"),
            ({"padding": -1}, r"padding must be an int >= 0, .*got -1"),
            ({"padding": "same", "stride": 2}, r'"same", got \'same\' with stride 2'),
            ({"padding_mode": "mirror"}, r"padding_mode must be one of zeros, .*got 'mirror'"),
            (
                {"padding_mode": "reflect", "padding": 9, "offset": torch.zeros(2, 25, 1, 3)},
                r"padding_mode='reflect' pads 9 steps by at most 8, got \(9, 9\)",
            ),
            ({"dilation": 5}, r"a kernel that spans 11 steps does not fit into an input of 9 with padding \(0, 0\)"),
            ({"padding_mask": torch.zeros(2, 8).bool()}, r"padding_mask must be bool \(B, T\) = \(2, 9\), .*got .*8"),
            (
                {"padding_mask": torch.zeros(2, 9).bool(), "padding_mode": "reflect"},
                "a padding_mask needs padding_mode=\"zeros\", got 'reflect'",
            ),
        ],
        ids=str,
    )
    def test_is_refused(self, changes, message):
        arguments = {"input": self.INPUT, "offset": self.OFFSET, "weight": self.WEIGHT} | changes
        with pytest.raises(ValueError, match=message):
            deformable_conv1d(**arguments)

    @pytest.mark.parametrize(
        "changes, message",
        [
            ({"weight": torch.zeros(4, 3)}, r"weight must be \(H, K\).* divides C = 6, got \(4, 3\)"),
            ({"weight": torch.zeros(2, 3, 1)}, r"weight must be \(H, K\).*got \(2, 3, 1\)"),
            ({"bias": torch.zeros(4)}, r"bias must be \(C,\) = \(6,\), got \(4,\)"),
            ({"offset": torch.zeros(2, 9, 1, 3)}, r"offset must be .*\(2, 9, 2, 3\), got .*\(2, 9, 1, 3\)"),
            ({"dilation": 0}, r"dilation must be an int >= 1, got 0"),
            ({"padding": 3}, r"padding must be .*from 0 to \(K-1\)\*dilation = 2, got 3"),
        ],
        ids=str,
    )
    def test_of_the_depthwise_form_is_refused(self, changes, message):
        arguments = {"input": self.INPUT, "offset": torch.zeros(2, 9, 2, 3), "weight": torch.zeros(2, 3)} | changes
        with pytest.raises(ValueError, match=message):
            deformable_depthwise_conv1d(**arguments)
