"""Checkpoints of fairseq: six whole models that fairseq computed, all options, and what is refused."""

import json
import os
import random
import sys
import threading
import types
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedTokenizerFast

from seqdyconv.models import (
    SeqDyConvConfig,
    SeqDyConvForConditionalGeneration,
    SeqDyConvTokenizer,
    fairseq_tokenizer,
    load_fairseq_checkpoint,
)
from tests.helpers import assert_close

GOLDEN = Path(__file__).parents[1] / "golden"
FILES = sorted(path.stem for path in GOLDEN.glob("fairseq_model_*.safetensors"))
PAD, EOS = 1, 2


class Golden:
    """One file of fairseq's numbers, and the checkpoint that its weights make."""

    def __init__(self, name: str) -> None:
        with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
            self.args = json.loads(file.metadata()["args"])
            self.tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def named(self, prefix: str) -> dict[str, Tensor]:
        return {key[len(prefix) :]: value for key, value in self.tensors.items() if key.startswith(prefix)}

    def model(self, folder: Path) -> SeqDyConvForConditionalGeneration:
        return load_fairseq_checkpoint(save(folder, self.named("state."), Namespace(**self.args))).model


def save(folder: Path, state: dict[str, Tensor], args: Any, **more: Any) -> Path:
    path = folder / "checkpoint.pt"
    torch.save({"args": args, "model": state, **more}, path)
    return path


@pytest.fixture(scope="module", params=FILES)
def golden(request: pytest.FixtureRequest) -> Golden:
    return Golden(request.param)


@pytest.fixture(scope="module")
def model(golden: Golden, tmp_path_factory: pytest.TempPathFactory) -> SeqDyConvForConditionalGeneration:
    return golden.model(tmp_path_factory.mktemp("golden"))


def source(golden: Golden) -> dict[str, Tensor]:
    return {"input_ids": golden["src_tokens"], "attention_mask": (golden["src_tokens"] != PAD).long()}


def our_name(key: str) -> str:
    """Of the weights that the files have gradients for."""
    modules = {
        "embed_tokens.": "embedding.tokens.",
        "linear1.": "mixer.in_proj.",
        "conv.weight_linear.": "mixer.conv.generator.",
        "conv.weight": "mixer.conv.weight",
    }
    theirs = next(module for module in modules if module in key)
    return key.replace(theirs, modules[theirs])


def assert_equal(actual: Tensor, expected: Tensor, where: Tensor | None = None) -> None:
    error = (actual - expected).abs()
    error = error if where is None else error[where]
    assert error.max() <= 1e-6


class TestFairseqsNumbers:
    def test_there_are_six_models(self) -> None:
        assert len(FILES) == 6

    def test_dtype_and_mode(self, model: SeqDyConvForConditionalGeneration) -> None:
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}
        assert not model.training

    def test_encoder_and_each_of_its_layers(self, golden: Golden, model: SeqDyConvForConditionalGeneration) -> None:
        output = model.encoder(**source(golden), output_hidden_states=True)
        real = golden["src_tokens"] != PAD
        assert_equal(output.last_hidden_state, golden["encoder_out"].transpose(0, 1), real)
        layers = golden.named("encoder_layer_out.")
        for layer, expected in layers.items():
            if not (golden.args["encoder_normalize_before"] and int(layer) == len(layers) - 1):  # ours is normalised
                assert_equal(output.hidden_states[int(layer) + 1], expected.transpose(0, 1), real)

    def test_logits_by_teacher_forcing(self, golden: Golden, model: SeqDyConvForConditionalGeneration) -> None:
        target = golden["prev_output_tokens"]
        logits = model(**source(golden), decoder_input_ids=target).logits
        assert_equal(logits, golden["out"], target != PAD)

    def test_logits_step_by_step(self, golden: Golden, model: SeqDyConvForConditionalGeneration) -> None:
        target = golden["prev_output_tokens"]
        encoded, cache, logits = model.encoder(**source(golden)), None, []
        for step in target.split(1, dim=1):
            output = model(
                attention_mask=source(golden)["attention_mask"],
                encoder_outputs=encoded,
                decoder_input_ids=step,
                cache=cache,
                use_cache=True,
            )
            cache = output.cache
            logits.append(output.logits)
        assert_equal(torch.cat(logits, 1), golden["out_incremental"], target != PAD)

    def test_targets_shorter_than_a_kernel_are_read_as_in_decoding(
        self, golden: Golden, model: SeqDyConvForConditionalGeneration
    ) -> None:
        """fairseq's own two ways differ here; its token-by-token way, and ours, does not see what comes later."""
        short = golden["prev_output_tokens_short"]
        steps = short.shape[1]
        assert torch.equal(short, golden["prev_output_tokens"][:, :steps])
        logits = model(**source(golden), decoder_input_ids=short).logits
        assert_equal(logits, golden["out"][:, :steps], short != PAD)

    def test_greedy_tokens(self, golden: Golden, model: SeqDyConvForConditionalGeneration) -> None:
        output = model.generate(
            **source(golden),
            max_new_tokens=8,
            suppress_tokens=[PAD, EOS],
            output_logits=True,
            return_dict_in_generate=True,
        )
        assert output.sequences[:, 0].tolist() == [EOS] * len(output.sequences)
        assert torch.equal(output.sequences[:, 1:], golden["greedy_tokens"])
        assert_equal(torch.stack(output.logits, 1), golden["greedy_logits"])

    def test_gradients(self, golden: Golden, model: SeqDyConvForConditionalGeneration) -> None:
        target = golden["prev_output_tokens"]
        logits = model(**source(golden), decoder_input_ids=target).logits
        model.zero_grad()
        (logits * (target != PAD)[..., None] * golden["cotangent"]).sum().backward()
        named = dict(model.named_parameters())
        for name, expected in golden.named("grad.").items():
            actual = named[our_name(name)].grad
            assert ((actual - expected.reshape(actual.shape)).abs().max() / expected.abs().max()) <= 1e-6, name

    def test_padding_on_the_other_side_changes_nothing(
        self, golden: Golden, model: SeqDyConvForConditionalGeneration
    ) -> None:
        rows = [row[row != PAD] for row in golden["src_tokens"]]
        width = golden["src_tokens"].shape[1] + 2
        for left in (True, False):
            padded = torch.full((len(rows), width), PAD)
            for index, row in enumerate(rows):
                padded[index, slice(width - len(row), None) if left else slice(len(row))] = row
            logits = model(
                padded, attention_mask=(padded != PAD).long(), decoder_input_ids=golden["prev_output_tokens"]
            ).logits
            assert_equal(logits, golden["out"], golden["prev_output_tokens"] != PAD)

    def test_saving_and_loading(self, golden: Golden, model: SeqDyConvForConditionalGeneration, tmp_path: Path) -> None:
        model.save_pretrained(tmp_path)
        loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
        again = loaded(**source(golden), decoder_input_ids=golden["prev_output_tokens"]).logits
        assert_close(again, model(**source(golden), decoder_input_ids=golden["prev_output_tokens"]).logits)

    def test_generation_is_left_as_hugging_face_has_it(self, model: SeqDyConvForConditionalGeneration) -> None:
        generation = model.generation_config
        assert generation.decoder_start_token_id == generation.eos_token_id == EOS
        assert (generation.bos_token_id, generation.pad_token_id) == (0, PAD)
        assert generation.forced_eos_token_id is None and generation.suppress_tokens is None


def to_fairseq(model: SeqDyConvForConditionalGeneration, names: str) -> dict[str, Tensor]:
    """Our weights under fairseq's names of 2019 ("old"), of 2020 ("middle") or since 2022 ("new")."""
    norms = ["layer_norm1", "layer_norm2"] if names == "new" else ["layer_norms.0", "layer_norms.1"]
    modules = {
        "mixer.in_proj": "linear1",
        "mixer.out_proj": "linear2",
        "mixer.conv.generator": "conv.weight_linear",
        "mixer.conv": "conv",
        "ffn.in_proj": "fc1",
        "ffn.out_proj": "fc2",
        "cross_attention.out_proj": "encoder_attn.out_proj",
        "cross_residual.norm": "encoder_attn_layer_norm",
        "embedding.tokens": "embed_tokens",
        "embedding.positions": "embed_positions",
        "norm": "layer_norm",
    }
    sides = {
        "encoder": {"mixer_residual.norm": norms[0], "ffn_residual.norm": norms[1]},
        "decoder": {"mixer_residual.norm": "conv_layer_norm", "ffn_residual.norm": "final_layer_norm"},
    }
    state, ours = {}, model.state_dict()
    for key, tensor in ours.items():
        module, kind = key.rsplit(".", 1)
        if key == "lm_head.weight":
            if names == "new":
                state["decoder.output_projection.weight"] = tensor
            elif not model.config.tie_word_embeddings:
                state["decoder.embed_out"] = tensor
            continue
        side, module = module.split(".", 1)
        layer = ""
        if module.startswith("layers."):
            _, number, module = module.split(".", 2)
            layer = f"layers.{number}."
        prefix = f"{side}.{layer}"
        if module == "cross_attention.query_proj":
            memory = ours[f"{prefix}cross_attention.memory_proj.{kind}"]
            if names == "old":
                state[f"{prefix}encoder_attn.in_proj_{kind}"] = torch.cat([tensor, memory])
            else:
                for part, value in zip("qkv", (tensor, *memory.chunk(2)), strict=True):
                    state[f"{prefix}encoder_attn.{part}_proj.{kind}"] = value
        elif module != "cross_attention.memory_proj":
            theirs = (modules | sides[side])[module]
            state[f"{prefix}{theirs}.{kind}"] = tensor[:, None] if module == "mixer.conv" else tensor
    for side in ("encoder", "decoder"):
        state[f"{side}.version"] = torch.tensor([3.0])
        if names != "new":
            state[f"{side}.embed_positions._float_tensor"] = torch.zeros(1)
    return state


def to_args(config: SeqDyConvConfig) -> dict[str, Any]:
    """The training arguments of fairseq that describe our configuration."""
    args: dict[str, Any] = {"arch": "lightconv"}
    for side in ("encoder", "decoder"):
        stack = config.stack(side)
        args |= {
            f"{side}_embed_dim": config.hidden_size,
            f"{side}_conv_dim": stack.conv_dim,
            f"{side}_ffn_embed_dim": stack.ffn_dim,
            f"{side}_layers": len(stack.layer_types),
            f"{side}_attention_heads": stack.attention_heads,
            f"{side}_normalize_before": stack.normalize_before,
            f"{side}_learned_pos": stack.position_type == "learned",
            f"{side}_kernel_size_list": stack.kernel_sizes,
            f"{side}_glu": stack.glu,
            f"{side}_conv_type": stack.layer_types[0].removesuffix("_conv"),
        }
    return args | {
        "no_token_positional_embeddings": config.encoder_position_type == "none",
        "share_all_embeddings": config.share_encoder_decoder_embeddings,
        "share_decoder_input_output_embed": config.tie_word_embeddings,
        "max_source_positions": config.max_position_embeddings - 2,
        "max_target_positions": config.max_position_embeddings - 2,
        "decoder_output_dim": config.hidden_size,
        "weight_softmax": config.weight_softmax,
        "dropout": config.dropout,
        "attention_dropout": config.attention_dropout,
        "relu_dropout": config.activation_dropout,
        "input_dropout": config.input_dropout,
        "weight_dropout": config.weight_dropout,
        "adaptive_softmax_cutoff": None,
        "left_pad_source": True,
    }


def random_config(seed: int) -> SeqDyConvConfig:
    """Options that the golden files do not have, different on both sides."""
    draw = random.Random(seed)
    sharing = draw.choice(["all", "output", "none"])
    positions = draw.choice(
        [["none", "none"], ["learned", "learned"], ["sinusoidal", "learned"], ["learned", "sinusoidal"]]
    )
    options: dict[str, Any] = {}
    for side, position_type in zip(("encoder", "decoder"), positions, strict=True):
        layers = draw.randint(1, 3)
        options |= {
            f"{side}_layer_types": [draw.choice(["dynamic_conv", "lightweight_conv"])] * layers,
            f"{side}_kernel_sizes": [draw.choice([1, 3, 5, 9]) for _ in range(layers)],
            f"{side}_attention_heads": draw.choice([1, 2, 4]),
            f"{side}_ffn_dim": draw.choice([8, 24]),
            f"{side}_conv_dim": draw.choice([8, 16, 24]),
            f"{side}_glu": draw.random() < 0.5,
            f"{side}_normalize_before": draw.random() < 0.5,
            f"{side}_position_type": position_type,
        }
    rates = {
        f"{name}dropout": draw.randint(0, 9) / 10 for name in ("", "attention_", "activation_", "input_", "weight_")
    }
    return SeqDyConvConfig(
        **options,
        **rates,
        vocab_size=13,
        encoder_vocab_size=None if sharing == "all" else draw.choice([None, 11]),
        hidden_size=16,
        max_position_embeddings=22,
        position_offset=2,
        share_encoder_decoder_embeddings=sharing == "all",
        tie_word_embeddings=sharing != "none",
        weight_softmax=draw.random() < 0.5,
    )


def random_model(config: SeqDyConvConfig) -> SeqDyConvForConditionalGeneration:
    model = SeqDyConvForConditionalGeneration(config).double().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


def logits(model: SeqDyConvForConditionalGeneration) -> Tensor:
    source = torch.tensor([[4, 5, 6, 7, 8, 2], [1, 1, 9, 10, 4, 2]])
    target = torch.tensor([[2, 4, 5, 12], [2, 6, 11, 3]])
    return model(source, attention_mask=(source != PAD).long(), decoder_input_ids=target).logits


def small(**options: Any) -> SeqDyConvForConditionalGeneration:
    defaults: dict[str, Any] = {
        "vocab_size": 13,
        "hidden_size": 16,
        "position_offset": 2,
        "max_position_embeddings": 22,
        "encoder_kernel_sizes": [3],
        "decoder_kernel_sizes": [3, 5],
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 8,
        "decoder_ffn_dim": 8,
    }
    return random_model(SeqDyConvConfig(**(defaults | options)))


class TestOptions:
    @pytest.mark.parametrize("seed", range(20))
    def test_a_model_comes_back_from_fairseqs_names(self, seed: int, tmp_path: Path) -> None:
        model = random_model(random_config(seed))
        names = ["old", "middle", "new"][seed % 3]
        path = save(tmp_path, to_fairseq(model, names), Namespace(**to_args(model.config)))
        converted = load_fairseq_checkpoint(path).model
        assert_close(logits(converted), logits(model))
        learned = "learned" in (model.config.encoder_position_type, model.config.decoder_position_type)
        ignored = {"dtype", "max_position_embeddings" if not learned else ""}
        expected = {key: value for key, value in model.config.to_dict().items() if key not in ignored}
        assert {key: value for key, value in converted.config.to_dict().items() if key not in ignored} == expected

    def test_new_configurations_hold_the_arguments_under_cfg(self, tmp_path: Path) -> None:
        model = small()
        args = to_args(model.config)
        args["_name"] = args.pop("arch")
        for inner in (args, Namespace(**args)):
            path = save(tmp_path, to_fairseq(model, "new"), None, cfg={"_name": None, "model": inner})
            assert_close(logits(load_fairseq_checkpoint(path).model), logits(model))

    def test_arguments_kept_as_text(self, tmp_path: Path) -> None:
        model = small(encoder_glu=False, decoder_conv_dim=24)
        args = to_args(model.config)
        args |= {
            name: str(args[name])
            for name in (
                "encoder_kernel_size_list",
                "encoder_glu",
                "decoder_glu",
                "weight_softmax",
                "dropout",
                "decoder_conv_dim",
            )
        }
        path = save(tmp_path, to_fairseq(model, "old"), Namespace(**args))
        assert_close(logits(load_fairseq_checkpoint(path).model), logits(model))

    def test_one_kernel_size_stands_for_all_layers(self, tmp_path: Path) -> None:
        model = small(decoder_kernel_sizes=[3, 3, 3])
        args = to_args(model.config) | {"decoder_kernel_size_list": [3]}
        path = save(tmp_path, to_fairseq(model, "old"), Namespace(**args))
        assert load_fairseq_checkpoint(path).model.config.decoder_kernel_sizes == [3, 3, 3]

    def test_missing_arguments_have_fairseqs_defaults(self, tmp_path: Path) -> None:
        model = small(attention_dropout=0.2, weight_dropout=0.2, input_dropout=0.1)
        args = to_args(model.config)
        for name in (
            "weight_dropout",
            "input_dropout",
            "encoder_glu",
            "decoder_conv_dim",
            "decoder_embed_dim",
            "decoder_ffn_embed_dim",
            "encoder_learned_pos",
            "encoder_conv_type",
        ):
            del args[name]
        config = load_fairseq_checkpoint(save(tmp_path, to_fairseq(model, "old"), Namespace(**args))).model.config
        assert (config.weight_dropout, config.input_dropout) == (0.2, 0.1)

    @pytest.mark.parametrize("names", ["old", "new"])
    def test_an_output_narrower_than_the_model_is_folded(self, names: str, tmp_path: Path) -> None:
        model = small(share_encoder_decoder_embeddings=False, tie_word_embeddings=False)
        state = to_fairseq(model, names)
        key = "decoder.embed_out" if names == "old" else "decoder.output_projection.weight"
        state[key] = torch.randn(13, 6, dtype=torch.float64)
        state["decoder.project_out_dim.weight"] = torch.randn(6, 16, dtype=torch.float64)
        path = save(tmp_path, state, Namespace(**to_args(model.config) | {"decoder_output_dim": 6}))
        decoded = model.decoder(torch.tensor([[2, 4]]), torch.zeros(1, 3, 16).double()).last_hidden_state
        expected = decoded @ state["decoder.project_out_dim.weight"].T @ state[key].T
        torch.testing.assert_close(load_fairseq_checkpoint(path).model.lm_head(decoded), expected)

    def test_kernels_trained_with_fairseqs_cuda_layer(self, tmp_path: Path) -> None:
        model = small(encoder_layer_types="lightweight_conv", decoder_layer_types="lightweight_conv")
        state = to_fairseq(model, "middle")
        state = {key: tensor.squeeze(1) if key.endswith("conv.weight") else tensor for key, tensor in state.items()}
        path = save(tmp_path, state, Namespace(**to_args(model.config)))
        assert_close(logits(load_fairseq_checkpoint(path).model), logits(model))

    def test_learned_tables_of_different_lengths(self, tmp_path: Path) -> None:
        model = small(encoder_position_type="learned", decoder_position_type="learned")
        state = to_fairseq(model, "new")
        state["decoder.embed_positions.weight"] = state["decoder.embed_positions.weight"][:12]
        converted = load_fairseq_checkpoint(save(tmp_path, state, Namespace(**to_args(model.config)))).model
        assert_close(logits(converted), logits(model))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
    def test_the_dtype_is_kept(self, dtype: torch.dtype, tmp_path: Path) -> None:
        model = small().to(dtype)
        path = save(tmp_path, to_fairseq(model, "old"), Namespace(**to_args(model.config)))
        assert load_fairseq_checkpoint(path).model.dtype == dtype

    def test_no_random_number_is_drawn(self, tmp_path: Path) -> None:
        model = small()
        path = save(tmp_path, to_fairseq(model, "old"), Namespace(**to_args(model.config)))
        before = torch.get_rng_state()
        load_fairseq_checkpoint(path)
        assert torch.equal(torch.get_rng_state(), before)


def fake_class(monkeypatch: pytest.MonkeyPatch, module: str, name: str) -> type:
    """A class as a library that is not installed here would pickle it."""
    made = type(name, (), {"__module__": module})
    for depth in range(module.count(".") + 1):
        part = ".".join(module.split(".")[: depth + 1])
        if part not in sys.modules:
            monkeypatch.setitem(sys.modules, part, types.ModuleType(part))
    monkeypatch.setattr(sys.modules[module], name, made, raising=False)
    return made


class Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.target}",)


class TestReading:
    @pytest.mark.parametrize("zipped", [True, False], ids=["zip", "format before 2020"])
    @pytest.mark.parametrize("place", ["args", "model", "extra_state"])
    def test_code_is_refused_and_does_not_run(self, place: str, zipped: bool, tmp_path: Path) -> None:
        model = small()
        checkpoint = {"args": Namespace(**to_args(model.config)), "model": to_fairseq(model, "old")}
        checkpoint[place] = Malicious(tmp_path / "ran")
        torch.save(checkpoint, tmp_path / "bad.pt", _use_new_zipfile_serialization=zipped)
        with pytest.raises(ValueError, match=r"bad\.pt holds \w+\.system, which is not on the list"):
            load_fairseq_checkpoint(tmp_path / "bad.pt")
        assert not (tmp_path / "ran").exists()

    def test_an_unknown_class_is_named(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        model = small()
        thing = fake_class(monkeypatch, "some_plugin.parts", "Thing")
        path = save(tmp_path, to_fairseq(model, "old"), Namespace(**to_args(model.config), thing=thing()))
        with pytest.raises(ValueError, match=r"holds some_plugin\.parts\.Thing.* pass the training arguments as args="):
            load_fairseq_checkpoint(path)

    @pytest.mark.parametrize("zipped", [True, False], ids=["zip", "format before 2020"])
    def test_meters_of_old_releases_are_read_past(
        self, zipped: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        model = small()
        meter = fake_class(monkeypatch, "fairseq.meters", "AverageMeter")()
        meter.sum = 3
        checkpoint = {
            "args": Namespace(**to_args(model.config)),
            "model": to_fairseq(model, "old"),
            "extra_state": {"train_meters": {"loss": meter}, "epoch": 3},
        }
        torch.save(checkpoint, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
        for name in [name for name in sys.modules if name.split(".")[0] == "fairseq"]:
            monkeypatch.delitem(sys.modules, name)
        assert_close(logits(load_fairseq_checkpoint(tmp_path / "a.pt").model), logits(model))
        assert "fairseq" not in sys.modules

    def test_configurations_of_omegaconf_are_read_without_it(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        model = small()
        container = fake_class(monkeypatch, "omegaconf.dictconfig", "DictConfig")
        leaf = fake_class(monkeypatch, "omegaconf.nodes", "AnyNode")
        items = fake_class(monkeypatch, "omegaconf.listconfig", "ListConfig")

        def wrap(value: Any) -> Any:
            kind = {dict: container, list: items}.get(type(value), leaf)
            node = kind()
            if isinstance(value, dict):
                node._content = {key: wrap(item) for key, item in value.items()}
            elif isinstance(value, list):
                node._content = [wrap(item) for item in value]
            else:
                node._val = value
            return node

        path = save(tmp_path, to_fairseq(model, "new"), None, cfg=wrap({"model": to_args(model.config)}))
        assert_close(logits(load_fairseq_checkpoint(path).model), logits(model))

    def test_arguments_can_be_passed(self, tmp_path: Path) -> None:
        model = small()
        torch.save({"model": to_fairseq(model, "old")}, tmp_path / "weights.pt")
        with pytest.raises(ValueError, match=r"neither 'args' nor 'cfg' .* pass them as args="):
            load_fairseq_checkpoint(tmp_path / "weights.pt")
        for args in (to_args(model.config), Namespace(**to_args(model.config))):
            converted = load_fairseq_checkpoint(tmp_path / "weights.pt", args=args).model
            assert_close(logits(converted), logits(model))

    @pytest.mark.parametrize("zipped", [True, False], ids=["zip", "format before 2020"])
    def test_a_truncated_file(self, zipped: bool, tmp_path: Path) -> None:
        model = small()
        whole, cut = tmp_path / "whole.pt", tmp_path / "cut.pt"
        checkpoint = {"args": Namespace(**to_args(model.config)), "model": to_fairseq(model, "old")}
        torch.save(checkpoint, whole, _use_new_zipfile_serialization=zipped)
        data = whole.read_bytes()
        for size in (0, 1, 100, len(data) // 2, len(data) - 30):
            cut.write_bytes(data[:size])
            with pytest.raises(ValueError, match=r"cut\.pt is no checkpoint or a damaged one") as error:
                load_fairseq_checkpoint(cut)
            assert "\n" not in str(error.value) and "weights_only" not in str(error.value)

    def test_other_files(self, tmp_path: Path) -> None:
        path = tmp_path / "other.pt"
        path.write_text("This is no checkpoint.\n")
        with pytest.raises(ValueError, match="is no checkpoint"):
            load_fairseq_checkpoint(path)
        for content, got in ((torch.zeros(3), "Tensor"), ({"weight": torch.zeros(3)}, "the keys weight"), ([], "list")):
            torch.save(content, path)
            with pytest.raises(ValueError, match=f"under 'model', got {got}"):
                load_fairseq_checkpoint(path)
        torch.save({"model": {"step": 3}, "args": Namespace(arch="lightconv")}, path)
        with pytest.raises(ValueError, match="must hold floating-point tensors by name, got 'step': int"):
            load_fairseq_checkpoint(path)
        with pytest.raises(FileNotFoundError, match=r"no such file: .*none\.pt"):
            load_fairseq_checkpoint(tmp_path / "none.pt")

    def test_damaged_bytes_give_one_clear_line(self, tmp_path: Path) -> None:
        model = small()
        path = save(tmp_path, to_fairseq(model, "old"), Namespace(**to_args(model.config)))
        data, draw = path.read_bytes(), random.Random(0)
        refused = 0
        for _ in range(30):
            damaged = bytearray(data)
            for _ in range(20):
                damaged[draw.randrange(5000)] = draw.randrange(128)
            path.write_bytes(damaged)
            try:
                load_fairseq_checkpoint(path)
            except ValueError as error:
                refused += 1
                assert "\n" not in str(error) and "weights_only" not in str(error)
        assert refused > 20


class TestWhatCannotBeConverted:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"arch": "transformer_wmt_en_de"}, "must be a lightconv translation model, got 'transformer_wmt_en_de'"),
            ({"arch": "lightconv_lm"}, "must be a lightconv translation model, got 'lightconv_lm'"),
            ({"adaptive_softmax_cutoff": [5, 9]}, r"adaptive_softmax_cutoff=\[5, 9\]"),
            ({"decoder_embed_dim": 32}, "encoder_embed_dim and decoder_embed_dim must be equal, got 16 and 32"),
            ({"encoder_conv_type": "deformable"}, "conv_type must be of dynamic, lightweight, got 'deformable'"),
            ({"encoder_glu": "maybe"}, "encoder_glu must be true or false, got 'maybe'"),
            ({"encoder_kernel_size_list": "3 or 5"}, "encoder_kernel_size_list must be a list .* got '3 or 5'"),
            ({"decoder_kernel_size_list": [3, 5, 7]}, r"must have 2 sizes, one for each layer, got \[3, 5, 7\]"),
            ({"encoder_layers": 0.5}, "encoder_layers must be a whole number from 1 to 10000, got 0.5"),
            ({"encoder_layers": 10**12, "encoder_kernel_size_list": [3]}, "from 1 to 10000, got 1000000000000"),
            ({"decoder_ffn_embed_dim": 10**15}, "decoder_ffn_embed_dim must be a whole number from 1 to 2147483647"),
            ({"decoder_ffn_embed_dim": 2**31 - 1}, r"the arguments say \(2147483647, 16\) for decoder"),
            ({"encoder_kernel_size_list": ["9" * 5000]}, "encoder_kernel_size_list must be a list of kernel sizes"),
            ({"dropout": "much"}, "dropout must be a number, got 'much'"),
            ({"dropout": 1.5}, r"dropout must be in \[0, 1\), got 1.5"),
            ({"encoder_attention_heads": 3}, "encoder_attention_heads must divide"),
            ({"encoder_attention_heads": 4}, r"the arguments say \(12, 16\) for encoder.layers.0.mixer.conv.generator"),
            ({"encoder_glu": False}, r"the arguments say \(16, 16\) for encoder.layers.0.mixer.in_proj.weight, got"),
            ({"encoder_layers": 2, "encoder_kernel_size_list": [3]}, r"that are missing: encoder\.layers\.1\."),
            ({"decoder_layers": 1, "decoder_kernel_size_list": [3]}, r"no place for the weights decoder\.layers\.1\."),
            ({"decoder_normalize_before": True}, r"missing: decoder\.norm\.bias, decoder\.norm\.weight"),
            ({"encoder_learned_pos": True}, r"missing: encoder\.embedding\.positions\.weight"),
            ({"encoder_conv_type": "lightweight"}, r"missing: encoder\.layers\.0\.mixer\.conv\.weight"),
            ({"share_all_embeddings": False, "share_decoder_input_output_embed": False}, r"missing: lm_head\.weight"),
        ],
    )
    def test_arguments(self, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
        model = small()
        path = save(tmp_path, to_fairseq(model, "old"), Namespace(**to_args(model.config) | changes))
        with pytest.raises(ValueError, match=message) as error:
            load_fairseq_checkpoint(path)
        assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)

    @pytest.mark.parametrize(
        "key",
        [
            "decoder.adaptive_softmax.head.weight",
            "decoder.layers.0.self_attn.k_proj.weight",
            "encoder.layers.0.conv.weight_linear.bias",
            "encoder.layers.0.layer_norm1.weight",  # beside layer_norms.0
            "encoder.layernorm_embedding.weight",
            "ctc.weight",
        ],
    )
    def test_weights_that_no_lightconv_model_has(self, key: str, tmp_path: Path) -> None:
        model = small()
        state = to_fairseq(model, "old") | {key: torch.zeros(16)}
        with pytest.raises(ValueError, match=key.replace(".", r"\.")):
            load_fairseq_checkpoint(save(tmp_path, state, Namespace(**to_args(model.config))))

    def test_weights_of_another_architecture_without_its_name(self, tmp_path: Path) -> None:
        state = {"encoder.embed_tokens.weight": torch.zeros(9, 4), "encoder.layers.0.fc1.weight": torch.zeros(9, 4)}
        with pytest.raises(ValueError, match="not those of a lightconv translation model"):
            load_fairseq_checkpoint(save(tmp_path, state, {"dropout": 0.1}))

    def test_a_weight_without_its_numbers(self, tmp_path: Path) -> None:
        model = small()
        state = to_fairseq(model, "old")
        state["decoder.layers.0.fc1.bias"] = state["decoder.layers.0.fc1.bias"].to("meta")
        path = save(tmp_path, state, Namespace(**to_args(model.config)))
        with pytest.raises(ValueError, match=r"decoder\.layers\.0\.fc1\.bias is kept without its numbers"):
            load_fairseq_checkpoint(path)

    def test_every_weight_that_is_missing_is_noticed(self, tmp_path: Path) -> None:
        model = small()
        state = to_fairseq(model, "middle")
        for key in state:
            if "version" not in key and "_float_tensor" not in key:
                rest = {other: tensor for other, tensor in state.items() if other != key}
                with pytest.raises(ValueError, match=r"missing|no encoder|no place"):
                    load_fairseq_checkpoint(save(tmp_path, rest, Namespace(**to_args(model.config))))

    def test_embeddings_that_are_not_shared_as_the_arguments_say(self, tmp_path: Path) -> None:
        model = small(share_encoder_decoder_embeddings=False, tie_word_embeddings=False)
        state, args = to_fairseq(model, "new"), to_args(model.config)
        with pytest.raises(ValueError, match="the output shares the embeddings, but"):
            load_fairseq_checkpoint(
                save(tmp_path, state, Namespace(**args | {"share_decoder_input_output_embed": True}))
            )
        with pytest.raises(ValueError, match="say share_all_embeddings, but"):
            load_fairseq_checkpoint(save(tmp_path, state, Namespace(**args | {"share_all_embeddings": True})))


SOURCE = ["das", "neu@@", "este", "ist", "a", "b", "c", "d", "madeupword0000"]  # with the special ones 13
TARGET = ["the", "new@@", "est", "is", "e", "f", "g"]  # 11


def dictionary(path: Path, tokens: list[str]) -> Path:
    path.write_text("".join(f"{token} {100 - index}\n" for index, token in enumerate(tokens)), encoding="utf-8")
    return path


@pytest.fixture
def dictionaries(tmp_path: Path) -> dict[str, Path]:
    return {
        "source_dictionary": dictionary(tmp_path / "dict.de.txt", SOURCE),
        "target_dictionary": dictionary(tmp_path / "dict.en.txt", TARGET),
    }


class TestTokenizer:
    def test_two_dictionaries(self, dictionaries: dict[str, Path]) -> None:
        tokenizer = fairseq_tokenizer(**dictionaries)
        batch = tokenizer(["das neu@@ este", "Haus"], text_target=["the  new@@ est", "f"], padding=True)
        assert batch["input_ids"] == [[4, 5, 6, 2], [3, 2, 1, 1]]
        assert batch["attention_mask"] == [[1, 1, 1, 1], [1, 1, 0, 0]]
        assert batch["labels"] == [[4, 5, 6, 2], [9, 2, 1, 1]]
        assert tokenizer("e")["input_ids"] == [3, 2]  # the source again, which has no such token
        assert (tokenizer.vocab_size, tokenizer.target_vocab_size) == (13, 11)
        assert tokenizer.convert_tokens_to_ids(["<s>", "<pad>", "</s>", "<unk>"]) == [0, 1, 2, 3]

    def test_threads_that_share_it_do_not_take_each_others_dictionary(
        self, dictionaries: dict[str, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tokenizer = fairseq_tokenizer(**dictionaries)
        in_target = threading.Event()
        source_is_read = threading.Event()
        convert = type(tokenizer)._convert_token_to_id

        def convert_and_wait(self: SeqDyConvTokenizer, token: str) -> int:
            if token == "new@@":
                in_target.set()
                assert source_is_read.wait(20)
            return convert(self, token)

        monkeypatch.setattr(type(tokenizer), "_convert_token_to_id", convert_and_wait)
        with ThreadPoolExecutor(1) as pool:
            both = pool.submit(tokenizer, "das", text_target="the new@@ est")
            assert in_target.wait(20)
            assert tokenizer("das neu@@")["input_ids"] == [4, 5, 2]
            source_is_read.set()
            assert both.result(20)["labels"] == [4, 5, 6, 2]

    def test_decoding_reads_the_target_and_joins_subwords(self, dictionaries: dict[str, Path]) -> None:
        tokenizer = fairseq_tokenizer(**dictionaries)
        ids = torch.tensor([[2, 4, 5, 6, 2, 1], [2, 9, 5, 2, 1, 1]])
        assert tokenizer.batch_decode(ids, skip_special_tokens=True) == ["the newest", "f new"]
        assert tokenizer.decode(ids[0]) == "</s> the newest </s> <pad>"
        assert tokenizer.decode(ids[0], skip_special_tokens=True, join_subwords=False) == "the new@@ est"
        assert tokenizer.decode(ids[0], skip_special_tokens=True, use_source_tokenizer=True) == "das neueste"
        assert tokenizer.decode(400) == "<unk>"

    def test_one_joined_dictionary(self, dictionaries: dict[str, Path]) -> None:
        tokenizer = fairseq_tokenizer(dictionaries["source_dictionary"])
        assert tokenizer("das a", text_target="das a")["labels"] == [4, 8, 2]
        assert tokenizer.decode([4, 8, 2], skip_special_tokens=True) == "das a"

    def test_special_tokens_in_texts_are_not_special(self, tmp_path: Path) -> None:
        tokenizer = fairseq_tokenizer(dictionary(tmp_path / "dict.txt", ["a<s>b", "<lua:x>"]))
        assert tokenizer("a<s>b <lua:x> <s> <unk>")["input_ids"] == [4, 5, 3, 3, 2]

    @pytest.mark.parametrize("both", [True, False], ids=["two dictionaries", "one dictionary"])
    def test_saving_and_loading_beside_a_model(self, both: bool, dictionaries: dict[str, Path], tmp_path: Path) -> None:
        folder = tmp_path / "saved"
        fairseq_tokenizer(**dictionaries).save_pretrained(folder)  # whose second vocabulary must not stay behind
        tokenizer = fairseq_tokenizer(*list(dictionaries.values())[: 2 if both else 1])
        small().save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        loaded = AutoTokenizer.from_pretrained(folder)
        assert type(loaded) is SeqDyConvTokenizer
        text = ["das neu@@ este </s> f", "e"]
        assert dict(loaded(text, text_target=text)) == dict(tokenizer(text, text_target=text))
        assert loaded.batch_decode([[4, 5, 6, 2]]) == tokenizer.batch_decode([[4, 5, 6, 2]])
        again = tmp_path / "again"
        loaded.save_pretrained(again)
        assert AutoTokenizer.from_pretrained(again).get_target_vocab() == tokenizer.get_target_vocab()

    def test_added_tokens_are_read_and_written(self, tmp_path: Path) -> None:
        tokenizer = fairseq_tokenizer(dictionary(tmp_path / "dict.txt", ["a"]))
        tokenizer.add_tokens(["<2de>"])
        assert tokenizer("<2de> a")["input_ids"] == [5, 4, 2]
        assert tokenizer.decode([5, 4]) == "<2de> a"

    def test_folders_with_another_tokenizer_load_that_one(self, tmp_path: Path) -> None:
        small().save_pretrained(tmp_path)
        words = Tokenizer(WordLevel({"<unk>": 0, "a": 1}, unk_token="<unk>"))
        PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>").save_pretrained(tmp_path)
        assert AutoTokenizer.from_pretrained(tmp_path)("a")["input_ids"] == [1]

    def test_repeated_tokens_count_and_have_the_later_id_where_that_is_meant(self, tmp_path: Path) -> None:
        path = tmp_path / "dict.txt"
        path.write_text("a 3\n<unk> 2 #fairseq:overwrite\na 1 #fairseq:overwrite\n")
        tokenizer = fairseq_tokenizer(path)
        assert tokenizer.vocab_size == 7
        assert tokenizer("a")["input_ids"] == [6, 2]
        assert tokenizer.decode([4, 6]) == "a a"

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"a 3\na 2\n", "line 2 repeats 'a'"),
            (b"a 3\n<pad> 2\n", "line 2 repeats '<pad>'"),
            (b"a 3\nb\n", "line 2 must be 'token count', got 'b'"),
            (b"a 3\n\nb 2\n", "line 2 must be 'token count', got ''"),
            (b"a three\n", "line 1 must be 'token count', got 'a three'"),
            (b"\xff\xfe 3\n", "must be UTF-8"),
        ],
    )
    def test_bad_dictionaries(self, content: bytes, message: str, tmp_path: Path) -> None:
        path = tmp_path / "dict.txt"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            fairseq_tokenizer(path)

    def test_a_checkpoint_and_its_dictionaries_in_one_call(self, dictionaries: dict[str, Path], tmp_path: Path) -> None:
        model = small(vocab_size=11, encoder_vocab_size=13, share_encoder_decoder_embeddings=False)
        path = save(tmp_path, to_fairseq(model, "old"), Namespace(**to_args(model.config)))
        converted, tokenizer = load_fairseq_checkpoint(path, **dictionaries)
        assert tokenizer is not None
        batch = tokenizer(["das ist a", "neu@@ este"], text_target=["f", "g"], padding=True, return_tensors="pt")
        assert converted(**batch).logits.shape == (2, 2, 11)
        translated = converted.generate(batch["input_ids"], attention_mask=batch["attention_mask"], max_new_tokens=3)
        assert len(tokenizer.batch_decode(translated, skip_special_tokens=True)) == 2

    @pytest.mark.parametrize(("source", "target"), [(13, 11), (12, 11), (13, 10)])
    def test_dictionaries_of_another_size(self, source: int, target: int, tmp_path: Path) -> None:
        model = small(vocab_size=11, encoder_vocab_size=13, share_encoder_decoder_embeddings=False)
        path = save(tmp_path, to_fairseq(model, "old"), Namespace(**to_args(model.config)))
        files = {
            "source_dictionary": dictionary(tmp_path / "a", SOURCE[: source - 4]),
            "target_dictionary": dictionary(tmp_path / "b", TARGET[: target - 4]),
        }
        if (source, target) == (13, 11):
            assert load_fairseq_checkpoint(path, **files).tokenizer is not None
            return
        message = "source dictionary has 12 tokens.* 13 source" if source == 12 else "target .* has 10 .* 11 target"
        with pytest.raises(ValueError, match=message):
            load_fairseq_checkpoint(path, **files)

    def test_a_target_dictionary_alone_is_refused(self, dictionaries: dict[str, Path], tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="target_dictionary needs source_dictionary"):
            load_fairseq_checkpoint(tmp_path / "any.pt", target_dictionary=dictionaries["target_dictionary"])
