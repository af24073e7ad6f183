"""The one choice among the backends of an operation, and that the tests go by what a backend declares."""

import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.autograd import forward_ad

from seqdyconv import dynamic_conv1d, lightweight_conv1d, lightweight_conv1d_step
from seqdyconv.functional import conv
from seqdyconv.functional.backends import Backend, choose

INPUT, KERNELS = torch.zeros(2, 9, 6), (3, 4)


def rows(**limits):
    """Two backends that can do all, and between them and the last, one with ``limits``."""
    return {
        "reference": Backend(lambda: "reference"),
        "fast": Backend(lambda: "fast", pays=lambda input, kernels, dilation: kernels[-1] > 3),
        "limited": Backend(lambda: "limited", **limits),
    }


def test_without_a_name_the_last_that_pays_is_chosen():
    assert choose(rows(), None, INPUT, KERNELS).run() == "limited"
    few = {name: backend for name, backend in rows().items() if name != "limited"}
    assert choose(few, None, INPUT, (3, 4)).run() == "fast"
    assert choose(few, None, INPUT, (3, 3)).run() == "reference"
    assert choose(few, "fast", INPUT, (3, 3)).run() == "fast"  # as it was named


@pytest.mark.parametrize(
    "limits, reason",
    [
        ({"devices": ("cuda", "xpu")}, "it runs on cuda, xpu, got cpu"),
        ({"dtypes": (torch.float16,)}, "it takes torch.float16, got torch.float32"),
        ({"limits": lambda input, kernels, dilation: f"K is {kernels[-1]}"}, "K is 4"),
        ({"limits": lambda input, kernels, dilation: "dilated" if dilation > 1 else None}, "dilated"),
    ],
    ids=["device", "dtype", "kernels", "dilation"],
)
def test_one_that_refuses_is_passed_over_or_raises_with_its_reason(limits, reason, caplog):
    caplog.set_level(logging.DEBUG, "seqdyconv")
    assert choose(rows(**limits), None, INPUT, KERNELS, 2).run() == "fast"
    assert caplog.messages == [f"backend 'limited' is not chosen, because {reason}"]
    with pytest.raises(ValueError, match=f"^backend='limited' cannot run here, because {re.escape(reason)}$"):
        choose(rows(**limits), "limited", INPUT, KERNELS, 2)


def test_one_without_transforms_is_not_chosen_under_them():
    backends, chosen = rows(transforms=False), []

    def function(x):
        chosen.append(choose(backends, None, x, KERNELS).run())
        return x

    function(INPUT)
    torch.func.vmap(function)(INPUT[None])
    assert chosen == ["limited", "fast"]
    with pytest.raises(ValueError, match=r"cannot run here, because it does not run under torch\.func"):
        torch.func.vmap(lambda x: choose(backends, "limited", x, KERNELS))(INPUT[None])


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch's own use, on the first forward AD
@pytest.mark.parametrize("op", [lightweight_conv1d, dynamic_conv1d])
def test_what_forward_mode_carries_along_is_not_dropped(op):
    input, weight = torch.randn(2, 9, 6), torch.randn(*((2, 9) if op is dynamic_conv1d else ()), 3, 4)
    tangents = torch.ones_like(input), torch.ones_like(weight)
    with forward_ad.dual_level():
        output = op(forward_ad.make_dual(input, tangents[0]), forward_ad.make_dual(weight, tangents[1]))
        found = forward_ad.unpack_dual(output).tangent
        with pytest.raises(ValueError, match="because it does not run in forward-mode differentiation"):
            choose(rows(transforms=False), "limited", INPUT, KERNELS)
    torch.testing.assert_close(found, op(tangents[0], weight) + op(input, tangents[1]))


def test_a_name_that_is_none_lists_those_that_are():
    with pytest.raises(ValueError, match="backend must be None or one of reference, fast, limited, got 'faster'"):
        choose(rows(), "faster", INPUT, KERNELS)


def test_none_that_can_run_raises():
    with pytest.raises(ValueError, match="none of the backends limited can run here"):
        choose({"limited": Backend(print, devices=("cuda",))}, None, INPUT, KERNELS)


def test_operations_and_steps_go_through_the_choice(monkeypatch):
    monkeypatch.setitem(conv.BACKENDS, "gpu", Backend(print, devices=("cuda",)))
    weight = torch.zeros(3, 4)
    reason = "backend='gpu' cannot run here, because it runs on cuda, got cpu"
    for call in (
        lambda: lightweight_conv1d(INPUT, weight, backend="gpu"),
        lambda: dynamic_conv1d(INPUT, weight.expand(2, 9, 3, 4), backend="gpu"),
        lambda: lightweight_conv1d_step(INPUT, torch.zeros(2, 3, 6), weight, backend="gpu"),
        lambda: lightweight_conv1d(INPUT[:1], weight, cu_seqlens=torch.tensor([0, 4, 9]), backend="gpu"),
    ):
        with pytest.raises(ValueError, match=reason):
            call()
    assert lightweight_conv1d(INPUT, weight).shape == INPUT.shape  # without a name another one runs


def test_blocks_are_refused_in_an_export_of_any_length():
    class Convolution(torch.nn.Module):
        def forward(self, input, weight):
            return lightweight_conv1d(input, weight, backend="blocked")

    shapes = {"input": {1: torch.export.Dim("time")}, "weight": None}
    with pytest.raises(ValueError, match="because its blocks would tie the exported graph to some lengths"):
        torch.export.export(Convolution(), (INPUT, torch.zeros(3, 9)), dynamic_shapes=shapes)


def test_a_backend_that_can_do_little_runs_through_the_tests_with_skips():
    """A row of float32 on the CPU, without second derivatives and torch.func: the tests know what not to ask."""
    folder = Path(__file__).parent
    plugins = ["-p", "tests.functional.toy_backend", "-p", "no:cacheprovider"]
    options = ["-k", "toy and not edges and not compiles", "-rs", *plugins]
    command = [sys.executable, "-m", "pytest", *options, str(folder / "test_conv.py")]
    run = subprocess.run(command, capture_output=True, text=True, cwd=folder.parents[1])
    assert run.returncode == 0, run.stdout
    reasons = set(re.findall(r"backend toy declares no (.*)", run.stdout))
    assert reasons == {
        "second derivatives and no torch.func and no torch.float64",
        "second derivatives and no torch.float64",
        "torch.func",
        "torch.float64",
        "torch.bfloat16",
        "torch.float16",
    }
    passed, skipped = (int(re.search(rf"(\d+) {word}", run.stdout)[1]) for word in ("passed", "skipped"))
    assert passed > 2 * skipped
