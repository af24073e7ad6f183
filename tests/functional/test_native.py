"""What the kernels that are made for the CPU promise beyond what every backend does (``test_conv.py``).

``python -m tests.functional.test_native 1000`` compares as many random calls with the reference, each of its own sizes.
"""

import logging
import os
import random
import resource
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from seqdyconv.functional import dynamic_conv1d, lightweight_conv1d
from seqdyconv.functional.conv import BACKENDS
from seqdyconv.functional.native import library, plan
from tests.helpers import assert_close, assert_matches, results_and_gradients

REFUSAL = BACKENDS["native"].limits(torch.zeros(1, 1, 1), (1, 1), 1)
pytestmark = [
    pytest.mark.usefixtures("nan_filled_memory"),
    pytest.mark.skipif(REFUSAL is not None, reason=f"there are no kernels here, because {REFUSAL}"),
]

OPS = {"dynamic": dynamic_conv1d, "lightweight": lightweight_conv1d}


def make(kind, *, batch=2, time=40, channels=16, heads=2, kernel_size=9, dtype=torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(batch + time + channels)
    shape = ((batch, time) if kind == "dynamic" else ()) + (heads, kernel_size)
    input = torch.randn(batch, time, channels, generator=generator, dtype=torch.float64)
    return input.to(dtype), torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def native(kind, **options):
    return partial(OPS[kind], backend="native", **options)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and a process that has loaded no kernel yet."""
    monkeypatch.setenv("SEQDYCONV_CACHE", str(tmp_path))
    monkeypatch.setattr(library, "loaded", {})
    return tmp_path / "kernels"


@pytest.fixture
def new_host():
    """Forget what is known of this machine before and after the test."""

    def forget():
        library.host.cache_clear()
        library.why_not.cache_clear()

    forget()
    yield
    forget()


@pytest.fixture
def threads():
    yield torch.set_num_threads
    torch.set_num_threads(1)


def first_kernel():
    return plan.convolution(library.host(), "forward", True, "float32", 2, 2, 1, 9)


class TestCache:
    def test_a_kernel_is_made_once_and_then_read(self, cache, monkeypatch):
        library.function(first_kernel())
        (file,) = cache.iterdir()
        assert cache.stat().st_mode & 0o777 == 0o700 and file.stat().st_mode & 0o077 == 0
        monkeypatch.setattr(library, "loaded", {})
        monkeypatch.setattr(library, "compile_for", None)
        library.function(first_kernel())

    @pytest.mark.parametrize("damage", [bytes.upper, lambda data: data[:-1], lambda data: b""])
    def test_a_damaged_file_is_made_again(self, cache, damage, monkeypatch):
        library.function(first_kernel())
        (file,) = cache.iterdir()
        whole = file.read_bytes()
        file.write_bytes(damage(whole))
        monkeypatch.setattr(library, "loaded", {})
        library.function(first_kernel())
        assert file.read_bytes() == whole

    def test_the_file_of_another_kernel_is_not_taken(self, cache, monkeypatch):
        library.function(first_kernel())
        (file,) = cache.iterdir()
        other = replace(first_kernel(), taps=2)
        library.function(other)
        (of_other,) = set(cache.iterdir()) - {file}
        good = of_other.read_bytes()
        of_other.write_bytes(file.read_bytes())
        monkeypatch.setattr(library, "loaded", {})
        library.function(other)
        assert of_other.read_bytes() == good

    def test_a_folder_that_others_can_write_to_is_not_used(self, cache, caplog):
        caplog.set_level(logging.DEBUG, "seqdyconv")
        cache.mkdir()
        cache.chmod(0o777)
        library.function(first_kernel())
        assert not list(cache.iterdir())
        assert caplog.messages == [f"kernels are not kept: others may write to {cache}"]

    def test_without_a_folder_kernels_are_made_all_the_same(self, cache, caplog):
        caplog.set_level(logging.DEBUG, "seqdyconv")
        cache.write_text("a file")
        library.function(first_kernel())
        assert "kernels are not kept: " in caplog.text

    def test_a_full_disk_costs_no_kernel_and_is_not_filled_more(self, cache, caplog):
        caplog.set_level(logging.DEBUG, "seqdyconv")
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        try:
            library.function(first_kernel())
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert "no kernel is kept in" in caplog.text and not list(cache.iterdir())


class TestHosts:
    @pytest.mark.parametrize(
        "change, reason",
        [
            (("importlib.util.find_spec", lambda name: None), r"it needs llvmlite: pip install 'seqdyconv\[native\]'"),
            (("llvmlite.binding.initialize_native_target", lambda: fail()), "doesn't work here"),
            (("llvmlite.binding.get_host_cpu_features", lambda: Features("+sse2")), "it needs AVX2 and FMA"),
            (("llvmlite.binding.get_process_triple", lambda: "riscv64-linux"), "it knows x86-64 and ARM, got riscv64"),
            (("llvmlite.binding.parse_assembly", lambda text: fail()), "its first kernel can't be made"),
        ],
        ids=["no llvmlite", "broken llvmlite", "old processor", "other processor", "no code"],
    )
    def test_that_can_make_no_kernels_use_another_backend(self, new_host, cache, change, reason, monkeypatch, caplog):
        monkeypatch.setattr(*change)
        caplog.set_level(logging.DEBUG, "seqdyconv")
        input, weight = make("dynamic")
        assert_close(dynamic_conv1d(input, weight), dynamic_conv1d(input, weight, backend="blocked"), 1e-6)
        assert caplog.text.count("backend 'native' is not chosen, because ") == 1
        with pytest.raises(ValueError, match=f"backend='native' cannot run here, because .*{reason}"):
            dynamic_conv1d(input, weight, backend="native")

    @pytest.mark.parametrize("register_bytes", [16, 32, 64])
    @pytest.mark.parametrize("channels, heads", [(32, 2), (6, 3)])
    @pytest.mark.parametrize("kind", OPS)
    def test_registers_of_any_size_give_the_same(self, kind, channels, heads, register_bytes, monkeypatch):
        registers = 16 if register_bytes == 32 else 32
        kind_of_host = type("Other", (plan.Host,), {"register_bytes": register_bytes, "registers": registers})
        host = kind_of_host(**vars(library.host()))
        monkeypatch.setattr(library, "host", lambda: host)
        arguments = make(kind, channels=channels, heads=heads, kernel_size=5)
        assert_matches(native(kind), partial(OPS[kind], backend="reference"), *arguments)

    @pytest.mark.parametrize(
        "triple, cpu, features",
        [
            ("x86_64-unknown-linux-gnu", "znver4", "+avx2,+fma,+avx512f,+avx512bw,+avx512dq,+avx512vl"),
            ("x86_64-unknown-linux-gnu", "haswell", "+avx2,+fma,+f16c"),
            ("aarch64-unknown-linux-gnu", "neoverse-n1", "+neon"),
        ],
        ids=["AVX-512", "AVX2", "NEON"],
    )
    def test_kernels_can_be_made_for_other_processors(self, triple, cpu, features):
        from llvmlite import binding

        binding.initialize_all_targets()
        binding.initialize_all_asmprinters()
        host = plan.Host(triple, cpu, features)
        for kernel in (
            plan.convolution(host, "forward", True, "float32", 64, 1, 31, 9),
            plan.weight_gradient(host, True, "bfloat16", 12, 6, 4),
        ):
            assert library.compile_for(host, kernel)[:4] == b"\x7fELF"


def fail():
    raise RuntimeError("it is broken")


class Features(str):
    def flatten(self):
        return str(self)


class TestThreads:
    @pytest.mark.parametrize("kind", OPS)
    def test_results_do_not_depend_on_their_number(self, kind, threads):
        arguments = make(kind, time=1500)
        results = []
        for count in (1, 2, 3):
            threads(count)
            results.append(results_and_gradients(native(kind), *arguments))
        assert all(torch.equal(result[name], results[0][name]) for result in results for name in result)

    def test_several_at_once_make_and_run_kernels(self, cache, threads):
        threads(2)
        calls = [make("dynamic", channels=channels, time=1000) for channels in (16, 32)] * 4
        expected = [dynamic_conv1d(*call, backend="reference") for call in calls]
        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(lambda call: dynamic_conv1d(*call, backend="native"), calls))
        for result, right in zip(results, expected):
            assert_close(result, right, 1e-5)

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
    @pytest.mark.parametrize("worker", [False, True], ids=["raw", "as a worker of a DataLoader"])
    def test_forks_compute(self, worker, threads):
        """Torch's threads stay behind in a fork: whoever waits for them waits for ever."""
        arguments = make("dynamic", time=1000)
        threads(2)
        expected = dynamic_conv1d(*arguments, backend="native")
        for _ in range(5):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # other threads of this process
                child = os.fork()
            if child == 0:
                if worker:
                    torch.set_num_threads(1)
                result = dynamic_conv1d(*arguments, backend="native")
                os._exit(0 if torch.equal(result, expected) else 1)
            assert os.waitpid(child, 0)[1] == 0
        assert torch.equal(dynamic_conv1d(*arguments, backend="native"), expected)

    def test_without_a_team_another_backend_is_chosen_for_several(self, threads, monkeypatch):
        monkeypatch.setattr(library, "team", lambda: None)
        input, weight = make("dynamic", time=1000)
        assert BACKENDS["native"].pays(input, weight.shape, 1)
        threads(2)
        assert not BACKENDS["native"].pays(input, weight.shape, 1)
        assert_close(native("dynamic")(input, weight), dynamic_conv1d(input, weight, backend="reference"), 1e-5)


class TestTorch:
    @pytest.mark.parametrize("kind", OPS)
    def test_operations_are_registered_as_torch_asks(self, kind):
        input, weight = (tensor.requires_grad_() for tensor in make(kind, time=12, channels=4, kernel_size=3))
        torch.library.opcheck(torch.ops.seqdyconv.native_forward.default, (input, weight, 1, 1, 1))
        torch.library.opcheck(torch.ops.seqdyconv.native_input_gradient.default, (input, weight, 12, 1, 1))
        arguments = (input, input, 2, 3, 1, 1, kind == "lightweight")
        torch.library.opcheck(torch.ops.seqdyconv.native_weight_gradient.default, arguments)

    @pytest.mark.parametrize("kind", OPS)
    def test_second_derivatives(self, kind):
        arguments = [x.requires_grad_() for x in make(kind, time=9, channels=4, kernel_size=3, dtype=torch.float64)]
        assert torch.autograd.gradgradcheck(native(kind, dilation=2), arguments)

    def test_exported_graphs_are_without_them(self):
        class Convolution(torch.nn.Module):
            def __init__(self, backend):
                super().__init__()
                self.backend = backend

            def forward(self, input, weight):
                return dynamic_conv1d(input, weight, backend=self.backend)

        graph = torch.export.export(Convolution(None), make("dynamic")).graph
        assert not [node for node in graph.nodes if "seqdyconv" in str(node.target)]
        with pytest.raises(ValueError, match="because its kernels stay on this machine, and an exported graph may not"):
            torch.export.export(Convolution("native"), make("dynamic"))

    def test_a_gradient_that_nobody_asks_for_is_not_computed(self, monkeypatch):
        input, weight = make("dynamic")
        jobs, function = [], library.function
        monkeypatch.setattr(library, "function", lambda kernel: jobs.append(kernel.job) or function(kernel))
        native("dynamic")(input, weight.requires_grad_()).sum().backward()
        assert jobs == ["forward", "weight_gradient"]


class TestLayouts:
    @pytest.mark.parametrize("kind", OPS)
    def test_parts_of_a_projection_and_time_first_are_not_copied(self, kind):
        from benchmarks.ops import peak_memory

        input, weight = make(kind, time=400)
        projection = torch.cat([input, input], dim=-1)[..., :16]
        time_first = input.transpose(0, 1).contiguous().transpose(0, 1)
        for tensor in (projection, time_first):
            expected = OPS[kind](input, weight, backend="native")
            assert torch.equal(OPS[kind](tensor, weight, backend="native"), expected)
            peak = peak_memory(lambda tensor=tensor: native(kind)(tensor, weight), "cpu")
            # Shared kernels are written out for each channel where a vector of the processor has several heads.
            written = 2 * weight.shape[-1] * tensor.shape[-1] * weight.itemsize if kind == "lightweight" else 0
            assert peak in (expected.nbytes, expected.nbytes + written)

    def test_memory_of_training_is_that_of_the_gradients(self):
        from benchmarks.ops import peak_memory

        arguments = [x.requires_grad_() for x in make("dynamic", time=400)]

        def train():
            torch.autograd.grad(native("dynamic")(*arguments).sum(), arguments)

        train()
        output, given = arguments[0].nbytes, sum(argument.nbytes for argument in arguments)
        assert peak_memory(train, "cpu") <= 1.1 * (output + given)


@pytest.mark.parametrize("heads", [1, 2, 4, 8, 16])  # some share vectors, on any processor
@pytest.mark.parametrize("kind", OPS)
def test_infinite_kernels_at_padding_add_nothing(kind, heads):
    input, weight = make(kind, time=6, heads=heads, kernel_size=3)
    finite = native(kind, padding="causal")(input, weight)
    (weight if kind == "lightweight" else weight[:, 0])[..., 0] = torch.inf  # the tap two steps back
    output = native(kind, padding="causal")(input, weight)
    assert torch.equal(output[:, 0], finite[:, 0])
    assert (
        dynamic_conv1d(input, weight.expand(2, 6, heads, 3), padding="causal", backend="reference")[:, 0].isnan().all()
    )


def compare_random_call(seed: int) -> str:
    """With the reference, output and gradients; the call in words."""
    draw = random.Random(seed)
    kind, dtype = draw.choice(list(OPS)), draw.choice([torch.float64, torch.float32, torch.bfloat16])
    heads, size = draw.choice([1, 2, 3, 5, 8, 13]), draw.choice([1, 2, 3, 4, 5, 7, 8, 12, 16, 17, 40, 64])
    kernel_size, dilation = draw.choice([1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 15, 31, 40]), draw.choice([1, 1, 2, 3, 70])
    batch, time = draw.randint(1, 3), draw.choice([1, 2, 5, 13, 64, 130])
    padding = draw.choice(["same", "causal", draw.randint(0, (kernel_size - 1) * dilation)])
    words = f"{kind} {dtype} B={batch} T={time} H={heads} R={size} K={kernel_size} {dilation=} {padding=}"
    sizes = {"batch": batch, "time": time, "channels": heads * size, "heads": heads, "kernel_size": kernel_size}
    op = partial(OPS[kind], padding=padding, dilation=dilation)
    try:
        arguments = make(kind, **sizes, dtype=dtype)
        assert_matches(partial(op, backend="native"), partial(op, backend="reference"), *arguments)
    except AssertionError as error:
        raise AssertionError(f"{words}: {error}") from None
    return words


@pytest.mark.parametrize("seed", range(8))
def test_random_sizes_equal_the_reference(seed):
    compare_random_call(seed)


if __name__ == "__main__":
    for number in range(int(sys.argv[1])):
        print(compare_random_call(1000 + number), flush=True)
