"""Short convolutions in decoders of transformers: what they start as, generation with a cache, and the way to disk."""

import copy
import json
import pickle
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import transformers
from transformers import (
    AutoModelForCausalLM,
    CompileConfig,
    DataCollatorWithFlattening,
    DynamicCache,
    StaticCache,
    Trainer,
    TrainingArguments,
)

from seqdyconv import ShortConv1d
from seqdyconv.errors import InputError
from seqdyconv.layers import short
from seqdyconv.swap import (
    ShortConvProjection,
    add_short_conv,
    load_swapped,
    remove_short_conv,
)
from seqdyconv.swap.conv_states import ConvStates
from seqdyconv.swap.decoders import DECODERS, MIXING
from seqdyconv.swap.short_conv_places import PLACES
from seqdyconv.swap.short_conv_projection import Joint, current_call
from tests.helpers import assert_close
from tests.swap.any_decoder import IDS, LEFT, PACKED, check, decoder, with_random_convolutions

transformers.utils.logging.disable_progress_bar()

RIGHT = LEFT.flip(1)


def trained(model_type="llama", settings=None, **options):
    """A model whose convolutions do something."""
    return with_random_convolutions(add_short_conv(decoder(model_type, **(settings or {})), **options))


def everywhere(model_type="llama", **settings):
    """A model with convolutions at all places, of both kinds."""
    return trained(model_type, settings, on=PLACES, static_kernel=True)


def without_cache(model, ids, mask=None, **options):
    return model.generate(ids, attention_mask=mask, use_cache=False, max_new_tokens=8, pad_token_id=0, **options)


def with_cache(model, ids, mask=None, **options):
    return model.generate(ids, attention_mask=mask, max_new_tokens=8, pad_token_id=0, **options)


def assert_refused(model, match, *args, **options):
    before = {name: id(module) for name, module in model.named_modules()}, copy.deepcopy(model.config.to_dict())
    hooks = [len(module._forward_pre_hooks) for module in model.modules()]
    with pytest.raises(ValueError, match=match):
        add_short_conv(model, *args, **options)
    assert before == ({name: id(module) for name, module in model.named_modules()}, model.config.to_dict())
    assert hooks == [len(module._forward_pre_hooks) for module in model.modules()]


OPTIONS = {
    "headwise": {},
    "low rank": {"rank": 3, "generator_bias": True},
    "static": {"dynamic_kernel": False, "static_kernel": True},
    "Jet on values": {"on": ["v"], "generator_reduction": 8, "static_kernel": True, "silu": True, "num_heads": 16},
    "wide kernel, one layer": {"kernel_size": 9, "layers": [1], "on": "kq"},
    "one tap": {"kernel_size": 1},
    "all places": {"on": PLACES, "static_kernel": True, "kernel_size": 3},
    "Canon layers": {"on": "ABCD", "dynamic_kernel": False, "static_kernel": True},
}
every_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


class TestStart:
    def test_outputs_are_those_of_the_model(self):
        model = decoder()
        expected = model(IDS, attention_mask=LEFT).logits
        names = {name for name, _ in model.named_parameters()}
        assert add_short_conv(model, rank=3, static_kernel=True) is model
        assert torch.equal(model(IDS, attention_mask=LEFT).logits[LEFT > 0], expected[LEFT > 0])
        new = {name for name, _ in model.named_parameters()} - names
        assert all(
            ".short_conv." in name or name.endswith("_proj.linear.weight") or "_proj.linear.bias" in name
            for name in new
        )

    @every_option
    def test_the_convolution_is_as_asked(self, options):
        model = add_short_conv(decoder(), **options)
        found = {name: module for name, module in model.named_modules() if isinstance(module, ShortConvProjection)}
        on, layers = options.get("on", "qkv"), options.get("layers", [0, 1])
        behind = ["q", "k", "v", "gate", "up"] if on == "ABCD" else [name for name in on if "input" not in name]
        parts = {name: "mlp" if name in ("gate", "up", "down") else "self_attn" for name in behind}
        assert set(found) == {f"model.layers.{layer}.{parts[name]}.{name}_proj" for layer in layers for name in behind}
        conv = found[f"model.layers.1.self_attn.{behind[0]}_proj"].short_conv
        assert isinstance(conv, ShortConv1d)
        assert (conv.kernel_size, conv.rank) == (options.get("kernel_size", 4), options.get("rank"))
        assert conv.query_dim == (32 if options.get("dynamic_kernel", True) else None)

    def test_heads_are_those_of_the_attention(self):
        attention = add_short_conv(decoder()).model.layers[0].self_attn
        heads = [getattr(attention, name).short_conv.num_heads for name in ("q_proj", "k_proj", "v_proj")]
        assert heads == [4, 2, 2]

    def test_dtype_and_mode_are_those_of_the_model(self):
        model = add_short_conv(decoder().double().train())
        assert {value.dtype for value in model.state_dict().values()} == {torch.float64}
        assert all(module.training for module in model.modules())


class TestPlaces:
    @pytest.mark.parametrize(
        ("on", "expected"),
        [
            ("qkv", ["q", "k", "v"]),
            (["v_proj", "down_proj", "o"], ["v", "o", "down"]),
            ("down", ["down"]),
            ("o_proj", ["o"]),
            ("AC", ["attention_input", "mlp_input"]),
            (("B", "D", "q"), ["q", "k", "v", "gate", "up"]),
        ],
        ids=str,
    )
    def test_names(self, on, expected):
        assert add_short_conv(decoder(), on=on).config.seqdyconv["short_convs"]["1"]["on"] == expected

    @pytest.mark.parametrize("model_type", ["phi3", "gemma2", "olmo2", "phi", "qwen3_moe", "starcoder2", "bloom"])
    def test_decoders_of_all_kinds(self, model_type):
        """One projection for all three, norms after, a layer in two branches, experts, other names, no positions."""
        check(model_type)

    def test_the_table_tells_of_all_types_that_are_known(self):
        rows = re.findall(r"^\| `(.*)` \| .* \| (yes|refused) \| .* \|$", Path("docs/decoders.md").read_text(), re.M)
        assert dict(rows) == {name: "refused" if name in MIXING else "yes" for name in DECODERS}

    def test_only_what_a_layer_has(self):
        assert_refused(decoder("qwen3_moe"), "layer 0 has no place gate, down; it has attention_input, q, k, v, o, mlp",
                       on=["q", "gate", "down"])  # fmt: skip
        assert_refused(decoder("phi3"), "qkv_proj of layer 0 projects q, k, v at once: add k to on, or leave them all",
                       on=["q", "v"])  # fmt: skip
        without_gate = add_short_conv(decoder("starcoder2"), on="D").config.seqdyconv
        assert without_gate["short_convs"]["0"]["on"] == ["up"]


class TestOneCallForQueriesKeysAndValues:
    OPTIONS = {
        "headwise": {},
        "both": {"static_kernel": True, "silu": True},
        "static": {"static_kernel": True, "dynamic_kernel": False},
        "a generator of two layers": {"generator_reduction": 4},
    }

    @pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
    def test_is_what_the_three_give(self, options, monkeypatch):
        model = trained(**options)
        runs = [with_cache(model, IDS, LEFT, output_logits=True, return_dict_in_generate=True).logits]
        gradients = [torch.autograd.grad(model(IDS, labels=IDS).loss, list(model.parameters()))]
        monkeypatch.setattr(Joint, "modules", lambda *_: ())
        runs.append(with_cache(model, IDS, LEFT, output_logits=True, return_dict_in_generate=True).logits)
        gradients.append(torch.autograd.grad(model(IDS, labels=IDS).loss, list(model.parameters())))
        for joint, separate in zip([*runs[0], *gradients[0]], [*runs[1], *gradients[1]], strict=True):
            assert_close(joint, separate, 1e-5)

    def test_is_one(self, monkeypatch):
        model, calls = trained(static_kernel=True), []
        for name in ("dynamic_conv1d", "lightweight_conv1d"):
            run = getattr(short, name)
            monkeypatch.setattr(
                short,
                name,
                lambda input, *args, run=run, **options: calls.append(input) or run(input, *args, **options),
            )
        model(IDS)
        assert [input.shape[-1] for input in calls] == 2 * 2 * [32 + 16 + 16]

    @pytest.mark.parametrize("options", [{"rank": 3}, {"num_heads": 4}, {"on": "qk"}], ids=str)
    def test_only_where_they_are_alike(self, options):
        assert not hasattr(trained(**options).model.layers[0].self_attn, "short_conv_joint")

    def test_not_where_one_is_watched(self):
        model, seen = trained(), []
        expected = model(IDS, use_cache=False).logits
        model.model.layers[0].self_attn.k_proj.short_conv.register_forward_hook(lambda *_: seen.append(1))
        assert_close(model(IDS, use_cache=False).logits, expected, 1e-5)
        assert seen


class TestPackedSequences:
    ENDS = torch.tensor([0, 5, 12], dtype=torch.int32)

    @pytest.fixture
    def model(self):
        return everywhere()

    def alone(self, model, *lengths, row=0):
        return torch.cat([model(part, use_cache=False).logits[0] for part in IDS[row : row + 1].split(lengths, dim=1)])

    def test_are_as_alone(self, model):
        expected = self.alone(model, 5, 7)
        assert_close(model(IDS[:1], position_ids=PACKED, use_cache=False).logits[0], expected, 1e-5)
        assert_close(model(IDS[:1], None, PACKED, use_cache=False).logits[0], expected, 1e-5)
        told = {"cu_seq_lens_q": self.ENDS, "cu_seq_lens_k": self.ENDS, "max_length_q": 7, "max_length_k": 7}
        assert_close(model(IDS[:1], position_ids=PACKED, use_cache=False, **told).logits[0], expected, 1e-5)
        assert current_call.call.cu_seqlens is None

    def test_in_several_rows(self, model):
        positions = torch.tensor([[*range(5), *range(7)], [*range(1), *range(1), *range(10)]])
        output = model(IDS, position_ids=positions, use_cache=False).logits
        assert_close(output[0], self.alone(model, 5, 7), 1e-5)
        assert_close(output[1], self.alone(model, 1, 1, 10, row=1), 1e-5)

    @pytest.mark.parametrize("checkpointing", [False, True])
    def test_gradients(self, checkpointing):
        model = everywhere().train()
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        batch = DataCollatorWithFlattening(return_flash_attn_kwargs=True)(
            [{"input_ids": part[0].tolist()} for part in IDS[:1].split([5, 7], dim=1)]
        )
        packed = torch.autograd.grad(model(**batch, use_cache=False).loss * 10, list(model.parameters()))
        losses = [model(part, labels=part, use_cache=False).loss for part in IDS[:1].split([5, 7], dim=1)]
        apart = torch.autograd.grad(losses[0] * 4 + losses[1] * 6, list(model.parameters()))
        for actual, expected in zip(packed, apart):
            assert_close(actual, expected, 1e-4)

    def test_one_sequence_whose_positions_begin_late(self, model):
        late = torch.arange(3, 15)[None]
        model(IDS, position_ids=late, attention_mask=LEFT)
        assert_close(model(IDS, position_ids=late).logits, model(IDS).logits, 1e-4)  # rotations are relative

    @pytest.mark.parametrize(
        ("arguments", "match"),
        [
            ({"position_ids": PACKED}, "packed sequences have no cache: call the model with use_cache=False"),
            ({"position_ids": PACKED, "attention_mask": torch.ones(1, 12)}, "leave out the attention_mask"),
            ({"cu_seq_lens_q": ENDS}, "flash attention alone reads cu_seq_lens_q: give position_ids that begin anew"),
            ({"cu_seq_lens_q": ENDS[:-1]}, "cu_seqlens must rise from 0 to T = 12"),
        ],
        ids=str,
    )
    def test_what_attention_would_mix_is_refused(self, model, arguments, match):
        with pytest.raises(ValueError, match=match):
            model(
                IDS[:1], use_cache="attention_mask" not in arguments and "cu_seq_lens_q" not in arguments, **arguments
            )
        assert current_call.call.cu_seqlens is None

    def test_of_a_model_that_mixes_them_are_refused(self):
        with pytest.raises(InputError, match="the attention of opt mixes packed sequences"):
            trained("opt")(IDS[:1], position_ids=PACKED, use_cache=False)


class TestForward:
    @pytest.mark.parametrize(
        ("model_type", "implementation"), [("llama", "sdpa"), ("llama", "eager"), ("mistral", "sdpa")]
    )
    @every_option
    def test_real_steps_do_not_depend_on_padding(self, model_type, implementation, options):
        model = trained(model_type, {"attn_implementation": implementation}, **options)
        positions = (LEFT.cumsum(1) - 1).clamp(min=0)
        alone = model(IDS[:1, 3:]).logits[0]
        left = model(IDS, attention_mask=LEFT, position_ids=positions).logits[0, 3:]
        right = model(IDS.roll(-3, 1), attention_mask=RIGHT).logits[0, :9]
        assert_close(left, alone, 1e-5)
        assert_close(right, alone, 1e-5)

    def test_does_something(self):
        assert not torch.allclose(trained()(IDS).logits, decoder()(IDS).logits, atol=1e-2)

    def test_is_causal(self):
        model, changed = trained(), IDS.clone()
        changed[:, 7:] = 5
        assert_close(model(changed).logits[:, :7], model(IDS).logits[:, :7], 1e-5)

    def test_reads_the_projection_and_the_hidden_states(self):
        projection = trained().model.layers[0].self_attn.v_proj
        hidden = torch.randn(2, 9, 32)
        assert torch.equal(projection(hidden), projection.short_conv(projection.linear(hidden), query=hidden))

    def test_nothing_of_a_call_stays(self):
        model = trained()
        before = [set(vars(module)) for module in model.modules()]
        model(IDS, attention_mask=LEFT, use_cache=True)
        assert (current_call.call.padding_mask, current_call.call.states) == (None, None)
        assert [set(vars(module)) for module in model.modules()] == before

    def test_nothing_of_a_call_that_raised_stays(self):
        model = trained()
        stop = model.model.layers[0].self_attn.o_proj.register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model(IDS, attention_mask=LEFT, use_cache=True)
        stop.remove()
        assert (current_call.call.padding_mask, current_call.call.states) == (None, None)
        projection, hidden = model.model.layers[0].self_attn.q_proj, torch.randn(2, 12, 32)
        assert torch.equal(projection(hidden), projection.short_conv(projection.linear(hidden), query=hidden))


class TestThreads:
    """Two threads that run one model at once get what each gets alone."""

    CALLS = ((IDS, LEFT), (IDS.flip(0, 1)[:1, :7], torch.tensor([[0, 0, 0, 1, 1, 1, 1]])))

    @staticmethod
    def at_once(model, run):
        """``run`` of both calls in a thread each, which wait for each other inside every projection."""
        both = threading.Barrier(2, timeout=20)

        def wait(*_):
            both.wait()

        waiting = [
            module.linear.register_forward_hook(wait)
            for module in model.modules()
            if isinstance(module, ShortConvProjection)
        ]
        with ThreadPoolExecutor(2) as pool:
            outputs = list(pool.map(run, *zip(*TestThreads.CALLS)))
        for hook in waiting:
            hook.remove()
        return outputs

    def test_forward(self):
        model = everywhere()

        def run(ids, mask):
            return model(ids, attention_mask=mask).logits

        for actual, expected in zip(self.at_once(model, run), map(run, *zip(*self.CALLS))):
            assert torch.equal(actual, expected)

    @pytest.mark.parametrize("options", [{}, {"num_beams": 2}, {"cache_implementation": "static"}], ids=str)
    def test_generation(self, options):
        model = everywhere()

        def run(ids, mask):
            with torch.random.fork_rng([]):
                return with_cache(model, ids, mask, min_new_tokens=8, **options)

        for actual, expected in zip(self.at_once(model, run), map(run, *zip(*self.CALLS))):
            assert torch.equal(actual, expected)

    def test_gradients_with_activation_checkpointing(self):
        model = everywhere().train()
        model.activation_checkpointing_enable({"use_reentrant": False})

        def run(ids, mask):
            loss = model(ids, labels=ids, attention_mask=mask).loss
            return torch.cat([grad.flatten() for grad in torch.autograd.grad(loss, list(model.parameters()))])

        for actual, expected in zip(self.at_once(model, run), map(run, *zip(*self.CALLS))):
            assert_close(actual, expected, 1e-5)

    def test_a_compiled_model(self):
        torch._dynamo.reset()
        model = everywhere(num_hidden_layers=1)
        compiled = torch.compile(model, backend="eager", fullgraph=True)

        def run(mask):
            with torch.no_grad():
                return compiled(IDS, attention_mask=mask, use_cache=False).logits

        with ThreadPoolExecutor(2) as pool:
            outputs = list(pool.map(run, [LEFT, RIGHT] * 4))
        for actual, mask in zip(outputs, [LEFT, RIGHT] * 4):
            assert_close(actual, model(IDS, attention_mask=mask).logits, 1e-5)

    def test_a_model_compiled_in_pieces(self):
        """Where a graph breaks inside of the attention, some of its pieces are compiled and some are not."""
        torch._dynamo.reset()
        model = everywhere(num_hidden_layers=1)
        model.model.layers[0].self_attn.k_proj.linear.register_forward_hook(lambda *_: torch._dynamo.graph_break())
        compiled = torch.compile(model, backend="eager")
        with torch.no_grad():
            expected = model(IDS, attention_mask=LEFT).logits
            assert_close(compiled(IDS, attention_mask=LEFT, use_cache=False).logits, expected, 1e-5)


class TestGeneration:
    """With a cache the same tokens come out as without."""

    @every_option
    def test_options(self, options):
        model = trained(**options)
        assert torch.equal(with_cache(model, IDS, LEFT), without_cache(model, IDS, LEFT))

    @pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen3"])
    @pytest.mark.parametrize(
        "options",
        [
            {"do_sample": True},
            {"num_beams": 4},
            {"num_beams": 4, "num_return_sequences": 3},
            {"num_beams": 2, "do_sample": True},
        ],
        ids=str,
    )
    def test_sampling_and_beams(self, model_type, options):
        model = everywhere(model_type)
        results = []
        for generate in (with_cache, without_cache):
            torch.manual_seed(0)
            results.append(generate(model, IDS, LEFT, **options))
        assert torch.equal(*results)

    @pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2"])
    def test_static_cache(self, model_type):
        model = everywhere(model_type)
        expected = without_cache(model, IDS, LEFT)
        for _ in range(2):
            assert torch.equal(with_cache(model, IDS, LEFT, cache_implementation="static"), expected)

    @pytest.mark.parametrize("model_type", ["llama", "mistral"])
    def test_assisted_decoding_takes_steps_back(self, model_type):
        model, assistant = everywhere(model_type), decoder(model_type)
        expected = without_cache(model, IDS[:1])
        assert torch.equal(with_cache(model, IDS[:1], assistant_model=assistant), expected)
        assert torch.equal(with_cache(model, IDS[:1], prompt_lookup_num_tokens=3), expected)

    def test_prefill_in_chunks(self):
        model = everywhere()
        assert torch.equal(with_cache(model, IDS, LEFT, prefill_chunk_size=5), without_cache(model, IDS, LEFT))


class TestCache:
    @pytest.mark.parametrize("mask", [torch.ones_like(IDS), LEFT], ids=["no padding", "left padding"])
    @pytest.mark.parametrize("chunks", [[1] * 12, [5, 1, 6], [2, 3, 7]], ids=str)
    @pytest.mark.parametrize(
        ("model_type", "kind"),  # without its configuration, a cache made as it is used has no sliding windows
        [("llama", "dynamic"), ("llama", "lazy"), ("llama", "static"), ("mistral", "dynamic"), ("mistral", "static")],
    )
    def test_any_chunking_gives_the_full_forward(self, model_type, kind, chunks, mask):
        model = everywhere(model_type)
        cache = {
            "dynamic": lambda: DynamicCache(config=model.config),
            "lazy": DynamicCache,
            "static": lambda: StaticCache(config=model.config, max_cache_len=20),
        }[kind]()
        outputs, seen = [], 0
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        for chunk in IDS.split(chunks, dim=1):
            seen += chunk.shape[1]
            part = slice(seen - chunk.shape[1], seen)
            outputs.append(
                model(chunk, attention_mask=mask[:, :seen], position_ids=positions[:, part], cache=cache).logits
            )
        assert int(cache.get_seq_length()) == 12
        expected = model(IDS, attention_mask=mask, position_ids=positions).logits
        assert_close(torch.cat(outputs, dim=1)[mask > 0], expected[mask > 0], 1e-4)

    def test_right_padded_prefill_goes_on_from_the_last_real_steps(self):
        model, cache = everywhere(), DynamicCache()
        rows = [IDS[0, :9], IDS[1]]
        model(torch.stack([torch.cat([rows[0], IDS.new_zeros(3)]), rows[1]]), attention_mask=RIGHT, cache=cache)
        mask = torch.cat([RIGHT, torch.ones(2, 1, dtype=torch.long)], dim=1)
        last = torch.tensor([[5], [6]])
        output = model(last, attention_mask=mask, position_ids=torch.tensor([[9], [12]]), cache=cache).logits
        for row, token, logits in zip(rows, last, output):
            assert_close(logits, model(torch.cat([row, token])[None]).logits[0, -1:], 1e-5)

    def prefilled(self, model, ids=IDS):
        cache = DynamicCache(config=model.config)
        model(ids, cache=cache)
        return cache

    def next_logits(self, model, cache):
        batch = cache.layers[0].keys.shape[0]
        return model(torch.full((batch, 1), 7), cache=cache).logits[:, 0]

    def test_is_reordered(self):
        model, order = everywhere(), torch.tensor([1, 1, 0])
        cache = self.prefilled(model)
        cache.reorder_cache(order)
        assert_close(self.next_logits(model, cache), self.next_logits(model, self.prefilled(model))[order], 1e-5)

    @torch.no_grad()
    def test_is_repeated_and_selected(self):
        model = everywhere()
        cache, expected = self.prefilled(model), self.next_logits(model, self.prefilled(model))
        cache.batch_repeat_interleave(2)
        assert_close(self.next_logits(model, copy.deepcopy(cache)), expected[[0, 0, 1, 1]], 1e-5)
        cache.batch_select_indices(torch.tensor([3, 0]))
        assert_close(self.next_logits(model, cache), expected[[1, 0]], 1e-5)

    @pytest.mark.parametrize("kind", ["dynamic", "static"])
    def test_is_reset(self, kind):
        model = everywhere()
        cache = DynamicCache() if kind == "dynamic" else StaticCache(config=model.config, max_cache_len=20)
        first = model(IDS, cache=cache).logits
        cache.reset()
        assert_close(model(IDS, cache=cache).logits, first, 1e-5)

    @pytest.mark.parametrize("steps", [0, 1, 4, 6])
    def test_is_cropped(self, steps):
        model = everywhere()
        cache = self.prefilled(model, IDS[:, :6])
        cache.activate_past_recording()
        model(IDS[:, 6:], cache=cache)
        cache.crop(-steps)
        expected = self.next_logits(model, self.prefilled(model, IDS[:, : 12 - steps]))
        assert_close(self.next_logits(model, cache), expected, 1e-5)

    def test_a_part_of_the_last_call_is_taken_back_unasked(self):
        model = everywhere()
        cache = self.prefilled(model)
        cache.crop(-5)
        assert_close(self.next_logits(model, cache), self.next_logits(model, self.prefilled(model, IDS[:, :7])), 1e-5)

    def test_is_not_cropped_beyond_what_it_remembers(self):
        model = everywhere()
        cache = self.prefilled(model)
        self.next_logits(model, cache)
        with pytest.raises(RuntimeError, match=r"don't remember .* 2 steps back: call .* activate_past_recording\(\)"):
            cache.crop(-2)
        with pytest.raises(RuntimeError, match="minus a number, got 3"):
            cache.layers[-1].crop(3)

    @pytest.mark.parametrize("kind", ["dynamic", "static"])
    def test_of_a_model_without_the_convolutions_is_refused(self, kind):
        model = everywhere()
        cache = DynamicCache() if kind == "dynamic" else StaticCache(config=model.config, max_cache_len=30)
        decoder()(IDS, cache=cache)
        with pytest.raises(ValueError, match="holds steps, but not the states"):
            model(IDS, cache=cache)

    @torch.no_grad()
    def test_a_static_one_is_cropped_where_it_recorded(self):
        model = everywhere()
        cache = StaticCache(config=model.config, max_cache_len=30)
        model(IDS, cache=cache)
        with pytest.raises(RuntimeError, match=r"don't remember .* 2 steps back: call .* activate_past_recording\(\)"):
            cache.layers[-1].crop(-2)
        cache.activate_past_recording()
        model(IDS[:, :4], cache=cache)
        cache.crop(-2)
        whole = model(torch.cat([IDS, IDS[:, :3]], dim=1), use_cache=False).logits[:, -1]
        assert_close(model(IDS[:, 2:3], cache=cache).logits[:, -1], whole, 1e-5)

    def test_of_another_kind_is_refused(self):
        cache = transformers.EncoderDecoderCache(DynamicCache(), DynamicCache())
        with pytest.raises(ValueError, match="a Cache of layers, got EncoderDecoderCache"):
            everywhere()(IDS, cache=cache)

    def test_does_not_grow(self):
        model = everywhere()
        cache = self.prefilled(model, torch.randint(3, 40, (2, 100)))
        states = cache.layers[-1]
        assert isinstance(states, ConvStates) and len(states.inputs) == 2 * 7  # one for q, k and v
        assert {tuple(inputs.shape) for inputs in states.inputs.values()} == {(2, 67, 64), (2, 67, 32), (2, 67, 24)}
        self.next_logits(model, cache)
        assert {tuple(inputs.shape) for inputs in states.inputs.values()} == {(2, 4, 64), (2, 4, 32), (2, 4, 24)}
        assert all(inputs.untyped_storage().nbytes() == inputs.numel() * 4 for inputs in states.inputs.values())

    @torch.no_grad()
    def test_a_static_one_stays_where_it_is(self):
        model = everywhere()
        cache = StaticCache(config=model.config, max_cache_len=20)
        model(IDS, cache=cache)
        before = {key: inputs.data_ptr() for key, inputs in cache.layers[-1].inputs.items()}
        model(IDS[:, :1], cache=cache)
        cache.reset()
        assert before == {key: inputs.data_ptr() for key, inputs in cache.layers[-1].inputs.items()}


class TestTraining:
    @every_option
    def test_gradients_reach_every_new_parameter(self, options):
        model = trained(**options).train()
        model(IDS, labels=IDS, attention_mask=LEFT).loss.backward()
        assert all(parameter.grad.any() for name, parameter in model.named_parameters() if ".short_conv." in name)

    @pytest.mark.parametrize("reentrant", [False, True])
    def test_gradient_checkpointing(self, reentrant):
        model = everywhere().train()
        expected = torch.autograd.grad(model(IDS, labels=IDS, attention_mask=LEFT).loss, list(model.parameters()))
        model.activation_checkpointing_enable({"use_reentrant": reentrant})
        losses = [model(ids, labels=ids, attention_mask=mask).loss for ids, mask in ((IDS, LEFT), (IDS + 0, RIGHT))]
        losses[0].backward()  # after another call with another mask
        for parameter, gradient in zip(model.parameters(), expected):
            assert_close(parameter.grad, gradient, 1e-5)

    @pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true")
    def test_a_step_of_the_trainer(self, tmp_path):
        model = add_short_conv(decoder())
        before = copy.deepcopy(model.state_dict())
        data = [{"input_ids": row, "labels": row, "attention_mask": mask} for row, mask in zip(IDS, LEFT)]
        arguments = TrainingArguments(tmp_path, max_steps=2, learning_rate=0.1, report_to="none", use_cpu=True)
        Trainer(model, arguments, train_dataset=data).train()
        changed = {name for name, value in model.state_dict().items() if not value.equal(before[name])}
        assert all(name in changed for name, _ in model.named_parameters() if ".short_conv." in name)
        assert_close(load_swapped(tmp_path / "checkpoint-2")(IDS).logits, model.eval()(IDS).logits, 1e-5)

    def test_new_parameters_alone(self):
        model = add_short_conv(decoder().requires_grad_(False))
        assert all(parameter.requires_grad == (".short_conv." in name) for name, parameter in model.named_parameters())


class TestCompile:
    @pytest.mark.parametrize(
        ("use_cache", "mask"), [(False, LEFT), (True, None)], ids=["without a cache, left padding", "with a cache"]
    )
    def test_forward_is_one_graph(self, use_cache, mask):
        torch._dynamo.reset()
        model = everywhere(num_hidden_layers=1)
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        with torch.no_grad():
            output = compiled(IDS, attention_mask=mask, use_cache=use_cache)
            assert_close(output.logits, model(IDS, attention_mask=mask).logits, 1e-5)
            if use_cache:
                more = torch.cat([IDS, IDS[:, :1]], dim=1)
                step = model(IDS[:, :1], cache=output.cache)
                assert_close(step.logits, model(more).logits[:, -1:], 1e-5)

    def test_generation_with_a_static_cache(self):
        """Its steps are one graph, as on a GPU, where transformers compiles them unasked."""
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        model = everywhere(num_hidden_layers=1)
        compile_config = CompileConfig(backend="aot_eager", fullgraph=True, mode=None)
        compile_config._compile_all_devices = True
        tokens = with_cache(model, IDS, LEFT, cache_implementation="static", compile_config=compile_config)
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
        assert torch.equal(tokens, without_cache(model, IDS, LEFT))

    def test_steps_with_a_static_cache(self):
        torch._dynamo.reset()
        model = everywhere(num_hidden_layers=1)
        cache = StaticCache(config=model.config, max_cache_len=20)
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        with torch.no_grad():
            model(IDS[:, :5], cache=cache)
            outputs = [compiled(token, cache=cache).logits for token in IDS[:, 5:].split(1, dim=1)]
        assert_close(torch.cat(outputs, dim=1), model(IDS).logits[:, 5:], 1e-5)


class TestDisk:
    def test_the_way_back(self, tmp_path):
        model = trained(rank=3)
        model.save_pretrained(tmp_path)
        loaded = load_swapped(tmp_path)
        assert str(loaded) == str(model) and type(loaded) is type(model)
        assert torch.equal(loaded(IDS, attention_mask=LEFT).logits, model(IDS, attention_mask=LEFT).logits)
        assert torch.equal(with_cache(loaded, IDS, LEFT), with_cache(model, IDS, LEFT))

    def test_layer_after_layer(self, tmp_path):
        model = add_short_conv(trained(layers=[1], kernel_size=3), layers=[0], on="v", num_heads=2)
        assert model.config.seqdyconv["short_convs"] == {
            "0": {"on": ["v"], "kernel_size": 4, "num_heads": 2},
            "1": {"on": ["q", "k", "v"], "kernel_size": 3, "num_heads": None},
        }
        model.save_pretrained(tmp_path)
        assert_close(load_swapped(tmp_path)(IDS).logits, model(IDS).logits, 1e-5)

    def test_in_another_dtype_and_with_another_head(self, tmp_path):
        trained().save_pretrained(tmp_path)
        assert load_swapped(tmp_path, dtype=torch.bfloat16).dtype == torch.bfloat16
        model = load_swapped(tmp_path, model_class=transformers.AutoModelForSequenceClassification, num_labels=3)
        assert model(IDS, attention_mask=LEFT).logits.shape == (2, 3)

    @pytest.mark.parametrize("on", ["q", "k", "v"])
    def test_plain_loading_is_stopped(self, on, tmp_path):
        trained(on=on).save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="load it with seqdyconv"):
            AutoModelForCausalLM.from_pretrained(tmp_path)

    def test_can_be_copied_and_pickled(self):
        model = trained()
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(with_cache(other, IDS, LEFT), with_cache(model, IDS, LEFT))

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            ({"on": "q"}, "layer 0 has short convolutions on 'q'"),
            ({"on": ["q", "q"]}, r"layer 0 has short convolutions on \['q', 'q'\]"),
            ({"on": []}, r"layer 0 has short convolutions on \[\]"),
            ({"kernel": 3}, "layer 0 has the options .*kernel"),
            ({"kernel_size": "4"}, "layer 0 has kernel_size='4'"),
            ({"kernel_size": 0}, "kernel_size must be an int >= 1, got 0"),
            ({"kernel_size": 5}, "ignore_mismatched_sizes"),
            ({"rank": 3}, "ignore_mismatched_sizes"),
        ],
        ids=str,
    )
    def test_a_damaged_configuration(self, change, match, tmp_path):
        trained().save_pretrained(tmp_path)
        config = json.loads(Path(tmp_path, "config.json").read_text())
        config["seqdyconv"]["short_convs"]["0"].update(change)
        Path(tmp_path, "config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match=match):
            load_swapped(tmp_path)

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            (lambda layers: {"short_convs": {"7": layers["0"]}}, "no layer 7; the layers are 0-1"),
            (lambda layers: {"short_convs": {}}, "layers is {}"),
            (lambda layers: {"short_convs": [1]}, r"layers is \[1\]"),
            (lambda layers: {"short_convs": layers, "family": "bert"}, "has the keys"),
            (lambda layers: {"short_convs": {"0": layers["0"]}}, "ignore_mismatched_sizes"),
        ],
        ids=["none there", "none", "no mapping", "a swap too", "fewer"],
    )
    def test_a_configuration_of_other_layers(self, change, match, tmp_path):
        trained().save_pretrained(tmp_path)
        config = json.loads(Path(tmp_path, "config.json").read_text())
        config["seqdyconv"] = change(config["seqdyconv"]["short_convs"])
        Path(tmp_path, "config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match=match):
            load_swapped(tmp_path)


class TestRemoval:
    def test_the_model_is_as_before(self, tmp_path):
        original = decoder()
        model = add_short_conv(copy.deepcopy(original), on=PLACES, rank=3)
        assert remove_short_conv(model) is model
        assert str(model) == str(original) and model.config.to_dict() == original.config.to_dict()
        ours, theirs = model.state_dict(), original.state_dict()
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)
        for part, expected in zip(model.modules(), original.modules(), strict=True):
            assert vars(part).keys() == vars(expected).keys() and part.training == expected.training
            assert len(part._forward_pre_hooks) == len(expected._forward_pre_hooks)
            assert len(part._forward_hooks) == len(expected._forward_hooks)
        assert torch.equal(with_cache(model, IDS, LEFT), with_cache(original, IDS, LEFT))
        model.save_pretrained(tmp_path)
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=False)
        assert torch.equal(loaded(IDS).logits, original(IDS).logits)

    def test_of_some_layers_leaves_the_rest(self, tmp_path):
        model, expected = trained(), trained()
        remove_short_conv(model, layers=[0])
        for projection in (expected.model.layers[0].self_attn.get_submodule(f"{role}_proj") for role in "qkv"):
            projection.short_conv = ShortConv1d(projection.short_conv.channels, 4, query_dim=32)  # the identity
        assert list(model.config.seqdyconv["short_convs"]) == ["1"]
        assert_close(model(IDS, attention_mask=LEFT).logits, expected(IDS, attention_mask=LEFT).logits, 1e-5)
        assert torch.equal(with_cache(model, IDS, LEFT), with_cache(expected, IDS, LEFT))
        model.save_pretrained(tmp_path)
        assert torch.equal(load_swapped(tmp_path)(IDS).logits, model(IDS).logits)

    def test_after_training_the_projections_stay_trained(self):
        model = trained().train()
        model(IDS, labels=IDS).loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.1 * parameter.grad
        weight = model.model.layers[0].self_attn.q_proj.linear.weight
        remove_short_conv(model)
        assert model.model.layers[0].self_attn.q_proj.weight is weight

    def test_and_adding_again(self, tmp_path):
        trained(layers=[1], on="v").save_pretrained(tmp_path)
        model = remove_short_conv(load_swapped(tmp_path))
        assert not hasattr(model.config, "seqdyconv")
        add_short_conv(model, kernel_size=3)
        assert torch.equal(model(IDS).logits, decoder()(IDS).logits)

    @pytest.mark.parametrize(
        ("layers", "match"),
        [
            ("0-1", "layers without short convolutions: 0; those with some are 1"),
            ([2], "there is no layer 2; the layers are 0-1"),
        ],
        ids=str,
    )
    def test_of_layers_without_them(self, layers, match):
        model = trained(layers=[1])
        before = str(model), copy.deepcopy(model.config.seqdyconv)
        with pytest.raises(ValueError, match=match):
            remove_short_conv(model, layers=layers)
        assert before == (str(model), model.config.seqdyconv)

    def test_of_a_model_without_them(self):
        with pytest.raises(ValueError, match="this LlamaForCausalLM has no short convolutions to remove"):
            remove_short_conv(decoder())


class TestModelsAndOptionsThatDoNotWork:
    def test_twice(self):
        model = add_short_conv(decoder(), layers=[0], on="v")
        assert_refused(model, "layers that have short convolutions already: 0", on="q")
        add_short_conv(model, layers=[1])
        assert_refused(model, "layers that have short convolutions already: 0, 1")

    def test_an_unknown_family(self):
        config = transformers.BertConfig(
            vocab_size=40, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=24
        )
        assert_refused(
            transformers.BertModel(config),
            r"causal decoders such as llama or qwen3, got 'bert'",
        )
        with pytest.raises(ValueError, match="must be a PreTrainedModel of transformers, got Linear"):
            add_short_conv(torch.nn.Linear(2, 2))

    def test_a_decoder_that_attends_in_both_directions(self):
        model = decoder("gemma")
        for layer in model.model.layers:
            layer.self_attn.is_causal = False
        assert_refused(model, "layer 0 attends in both directions")

    def test_wrapped_projections(self):
        model = decoder()
        model.model.layers[1].self_attn.v_proj = torch.nn.Sequential(model.model.layers[1].self_attn.v_proj)
        assert_refused(model, "v_proj of layer 1 is Sequential, not a plain nn.Linear")

    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({"on": ""}, "on must be of attention_input, q, k, .*, at least one, got ''"),
            ({"on": ["w"]}, r"on must be of .*, or of the Canon layers A, B, C, D, at least one, got \['w'\]"),
            ({"layers": [5]}, "no layer 5; the layers are 0-1"),
            ({"kernel_size": 0}, "kernel_size must be an int >= 1, got 0"),
            ({"num_heads": 5}, "num_heads must divide channels, got 5 heads and channels=32"),
            ({"num_heads": 32}, "num_heads must divide channels, got 32 heads and channels=16"),
            ({"kernel": 3}, "a short convolution has no option kernel here; it has kernel_size, num_heads, dynamic"),
            ({"padding": "same"}, "a short convolution has no option padding"),
            ({"rank": "3"}, "rank must be a number, a bool or None, got '3'"),
            ({"rank": 0}, "rank must be an int >= 1, got 0"),
            ({"dynamic_kernel": False}, "a short convolution has a kernel"),
        ],
        ids=str,
    )
    def test_options(self, options, match):
        assert_refused(decoder(), match, **options)
