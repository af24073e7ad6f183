"""The kernels for GPUs, without one: compiled to machine code, and run by Triton's interpreter.

Where there is a GPU, all tests of the operations run over the backend ``"triton"`` there, as over any other.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

triton = pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from seqdyconv import dynamic_conv1d, lightweight_conv1d  # noqa: E402
from seqdyconv.functional import conv, gpu, short  # noqa: E402
from seqdyconv.functional.gpu import kernels, launch, ops  # noqa: E402

TARGETS = {"H200": GPUTarget("cuda", 90, 32), "MI300": GPUTarget("hip", "gfx942", 64)}
POINTERS = {
    torch.float64: "*fp64",
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int32: "*i32",
}
FOLDER = Path(__file__).parent


@pytest.fixture
def launched(monkeypatch):
    """What would be launched for tensors without numbers: (name, arguments, constants)."""
    calls = []

    def record(name, programs, output, *arguments, **constants):
        calls.append((name, arguments, constants))
        return output

    monkeypatch.setattr(launch, "start", record)
    return calls


def empty(*shape, dtype=torch.bfloat16):
    return torch.empty(shape, dtype=dtype, device="meta")


def compiled(name, arguments, constants, target):
    """The kernel as a launch compiles it: for these types, and for numbers that are 1 or multiples of 16."""
    kernel = getattr(kernels, name)
    if not isinstance(kernel, triton.JITFunction):
        pytest.skip("TRITON_INTERPRET=1: nothing is compiled")
    signature, constexprs, attributes = {}, {}, {}
    values = [*arguments, *(constants[parameter.name] for parameter in kernel.params[len(arguments) :])]
    for i, (parameter, value) in enumerate(zip(kernel.params, values, strict=True)):
        free = parameter.do_not_specialize
        if parameter.is_constexpr or value is None or (isinstance(value, int) and value == 1 and not free):
            signature[parameter.name], constexprs[(i,)] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[parameter.name], attributes[(i,)] = POINTERS[value.dtype], [["tt.divisibility", 16]]
        else:
            signature[parameter.name] = "i32" if abs(value) < 2**31 else "i64"
            if value % 16 == 0 and not free:
                attributes[(i,)] = [["tt.divisibility", 16]]
    return triton.compile(ASTSource(kernel, signature, constexprs, attributes), target, {"num_warps": 4})


class TestMachineCode:
    """Not of the numbers, but of what the interpreter cannot see: types, shapes and layouts, and the cores used."""

    @pytest.fixture(autouse=True)
    def cache(self, tmp_path, monkeypatch):
        monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))

    @pytest.mark.parametrize("target", TARGETS)
    def test_tensor_cores(self, launched, target):
        input, weight, shared = empty(2, 512, 512), empty(2, 512, 8, 31), empty(8, 31)
        totals, sequence = empty(2, 512, 8, dtype=torch.float32), empty(512, dtype=torch.int32)
        for adjoint in (False, True):
            launch.convolve(input, weight, sequence, 512, -3, 1, adjoint, totals)
        launch.convolve(input, shared, None, 512, -3, 1, False)
        launch.correlate(input, input, sequence, 8, 31, -3, 1, False, weight, totals, input)
        launch.correlate(input, input, None, 8, 31, -3, 1, True)
        for name, arguments, constants in launched if target == "H200" else launched[-2:]:
            assert name.endswith("_band")
            code = compiled(name, arguments, constants, TARGETS[target]).asm
            assert re.search("mma.sync|wgmma|v_mfma", code["ptx"] if target == "H200" else code["amdgcn"])

    @pytest.mark.parametrize("target", ["H200"])
    def test_loops_over_taps(self, launched, target):
        input, weight, shared = empty(2, 512, 512), empty(2, 512, 512, 4), empty(512, 4)
        totals, sequence = empty(2, 512, 512, dtype=torch.float32), empty(512, dtype=torch.int32)
        launch.convolve(input, weight, sequence, 512, -3, 1, True, totals)
        launch.convolve(input, shared, None, 512, -3, 1, False)
        launch.correlate(input, input, sequence, 512, 4, -3, 1, False, weight, totals, input)
        launch.correlate(input, input, None, 512, 4, -3, 1, True)
        launch.advance(input, empty(2, 3, 512), shared, 1)
        mix, basis = empty(2, 512, 8), empty(8, 512, 4)
        launch.low_rank(input, mix, basis, sequence, 512, -3, False)
        launch.low_rank_backward(input, input, mix, basis, None, -3)
        for name, arguments, constants in launched:
            assert "ld.global.v4.b32" in compiled(name, arguments, constants, TARGETS[target]).asm["ptx"]


@pytest.mark.skipif("cpu" not in gpu.DEVICES, reason="TRITON_INTERPRET=1 is not set")
class TestInInterpreter:
    """What the specification does not ask of every backend."""

    @pytest.mark.parametrize(
        "name, shapes, numbers",
        [
            ("convolve", [(1, 5, 6), (1, 5, 3, 2), None], (5, -1, 1, False)),
            ("convolve", [(1, 5, 6), (3, 2), None], (7, 0, 1, True)),
            ("correlate", [(1, 5, 6), (1, 7, 6), None], (3, 2, 0, 1, False)),
            ("softmax_convolve", [(1, 5, 6), (1, 5, 3, 2), None], (-1, 1)),
            ("low_rank", [(1, 5, 6), (1, 5, 2), (2, 6, 3), None], (-1,)),
            ("advance", [(1, 5, 6), (1, 3, 6), (3, 2)], (3,)),
        ],
    )
    def test_operations_are_registered_as_torch_wants_it(self, name, shapes, numbers):
        generator = torch.Generator().manual_seed(0)
        tensors = [shape and torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
        operation = getattr(ops.OPERATIONS, f"triton_{name}").default
        torch.library.opcheck(operation, (*tensors, *numbers), atol=1e-5, rtol=1e-4)

    @pytest.mark.parametrize("heads, kernel_size", [(2, 9), (8, 3)], ids=["tensor cores", "taps"])
    def test_offsets_beyond_two_billion(self, heads, kernel_size):
        """Of memory that is reserved, and mostly never touched."""
        far = torch.empty_strided((1, 5, 40), (0, 2**29, 1), dtype=torch.float16)
        far.copy_(torch.linspace(-1, 1, 200).view(1, 5, 40))
        weight = torch.linspace(-1, 1, 5 * heads * kernel_size).half().view(1, 5, heads, kernel_size)
        near, weight = far.contiguous(), weight.requires_grad_()
        for input in (far, near):
            output = dynamic_conv1d(input, weight, padding="causal", backend="triton")
            (gradient,) = torch.autograd.grad(output, weight, input)
            if input is far:
                expected = output, gradient
        assert torch.equal(output, expected[0]) and torch.equal(gradient, expected[1])


def test_the_specification_holds_in_the_interpreter():
    """Some of it: all takes minutes. ``TRITON_INTERPRET=1 python -m pytest tests/functional -k triton``."""
    some = (
        "is_the_sum and (4-3-2 or 4-3-causal)",
        "valid_is_the_causal and (3-2-40 or test_short)",
        "many_channels and (torch.float16-lightweight or 35-1-torch.bfloat16-dynamic)",
        "is_a_dynamic_convolution and torch.float32 and causal and 3-4",
        "TestSoftmax and not derivatives[light",
        "packed_sequences or steps_are or has_the_dtype or autocast_computes or TestInInterpreter",
    )
    words = "triton and (" + " or ".join(f"({name})" for name in some) + ")"
    files = [str(FOLDER / name) for name in ("test_conv.py", "test_short.py", "test_triton.py")]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-k", words, *files],
        capture_output=True,
        text=True,
        cwd=FOLDER.parents[1],
        env=os.environ | {"TRITON_INTERPRET": "1"},
    )
    assert run.returncode == 0, run.stdout
    assert int(re.search(r"(\d+) passed", run.stdout)[1]) > 50, run.stdout


def test_it_is_chosen_by_its_name_only():
    shapes = ((3, 4), (2, 9, 3, 31), (2, 9, 6, 4))
    for backends in (conv.BACKENDS, short.BACKENDS):
        assert not any(backends["triton"].pays(torch.zeros(2, 9, 6), shape, 1) for shape in shapes)


def test_an_export_refuses_it():
    class Convolution(torch.nn.Module):
        def forward(self, input, weight):
            return lightweight_conv1d(input, weight, backend="triton")

    reason = "an exported graph holds no kernels" if "cpu" in gpu.DEVICES else "it runs on cuda, got cpu"
    with pytest.raises(ValueError, match=f"backend='triton' cannot run here, because {reason}"):
        torch.export.export(Convolution(), (torch.zeros(2, 9, 6), torch.zeros(3, 4)))
