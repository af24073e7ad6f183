"""Swapped models on disk: the way back, what plain loading makes of them, and files that are not right."""

import copy
import json
import pickle
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    pipeline,
)

from seqdyconv.layers import MIXERS
from seqdyconv.swap import load_swapped, swap_self_attention, swapped_attention
from tests.helpers import assert_close
from tests.layers.mixer_cases import option_cases
from tests.swap.zoo import CASES, TEXT

transformers.utils.logging.disable_progress_bar()

IDS = torch.randint(4, 40, (2, 7), generator=torch.Generator().manual_seed(3))


def bert(kind="Model", layers=2, **settings):
    torch.manual_seed(0)
    config = transformers.BertConfig(**{**TEXT, "num_hidden_layers": layers, **settings})
    return getattr(transformers, f"Bert{kind}")(config).eval()


@pytest.fixture
def folder(tmp_path):
    swap_self_attention(bert("ForSequenceClassification"), layers=[1], kernel_size=5).save_pretrained(tmp_path)
    return tmp_path


def edit(folder, **changes):
    path = Path(folder, "config.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edited_swap(folder, *keys, value):
    config = json.loads(Path(folder, "config.json").read_text())
    place = config["seqdyconv"]
    for key in keys[:-1]:
        place = place[key]
    if value is None:
        del place[keys[-1]]
    else:
        place[keys[-1]] = value
    edit(folder, seqdyconv=config["seqdyconv"])


class TestTheWayBack:
    def test_every_layer_has_its_own_options(self, tmp_path):
        model = bert(layers=3)
        swap_self_attention(model, layers=[0], mixer="lightweight_conv", kernel_size=4, glu=True, num_heads=2)
        swap_self_attention(model, layers=[1], kernel_size=(3, 7))
        swap_self_attention(model, layers=[2], kernel_size=7, weight_dropout=0.25, generator_bias=False)
        model.save_pretrained(tmp_path)
        loaded = load_swapped(tmp_path)
        assert str(loaded) == str(model)
        assert loaded.state_dict().keys() == model.state_dict().keys()
        assert_close(loaded(IDS)[0], model(IDS)[0], 1e-5)
        assert not loaded.training

    @pytest.mark.parametrize("mixer", MIXERS)
    def test_every_option_of_a_mixer(self, mixer, tmp_path):
        cases = [options for name, options in option_cases().values() if name == mixer and "conv_dim" not in options]
        model = bert(layers=len(cases))
        for layer, options in enumerate(cases):
            swap_self_attention(model, mixer=mixer, layers=layer, **{"kernel_size": 4} | options)
            assert options.items() <= model.config.seqdyconv["layers"][str(layer)].items()
        model.save_pretrained(tmp_path)
        loaded = load_swapped(tmp_path)
        assert str(loaded) == str(model)
        assert_close(loaded(IDS)[0], model(IDS)[0], 1e-5)

    @pytest.mark.parametrize("name", ["bert", "albert", "t5", "wav2vec2", "vit"])
    def test_saved_again(self, name, tmp_path):
        model = swap_self_attention(CASES[name].model(head=True), kernel_size=5)
        model.save_pretrained(tmp_path / "first")
        load_swapped(tmp_path / "first").save_pretrained(tmp_path / "second")
        first, second = (load_file(tmp_path / place / "model.safetensors") for place in ("first", "second"))
        assert first.keys() == second.keys() and all(first[key].equal(second[key]) for key in first)
        batch = CASES[name].batch()
        assert_close(load_swapped(tmp_path / "second")(**batch)[0], model(**batch)[0], 1e-5)

    def test_in_shards(self, tmp_path):
        model = swap_self_attention(bert())
        model.save_pretrained(tmp_path, max_shard_size="4KB")
        assert len(list(tmp_path.glob("*.safetensors"))) > 2
        assert_close(load_swapped(tmp_path)(IDS)[0], model(IDS)[0], 1e-5)

    def test_in_another_dtype_and_place(self, folder):
        model = load_swapped(folder, dtype=torch.bfloat16, device_map="cpu")
        assert {value.dtype for value in model.state_dict().values() if value.is_floating_point()} == {torch.bfloat16}

    @pytest.mark.parametrize(
        ("options", "expected"),
        [({}, torch.bfloat16), ({"dtype": "auto"}, torch.bfloat16), ({"dtype": "float32"}, torch.float32)],
        ids=str,
    )
    def test_in_the_dtype_it_was_saved_in(self, tmp_path, options, expected):
        swap_self_attention(bert().bfloat16()).save_pretrained(tmp_path)
        assert load_swapped(tmp_path, **options).dtype == expected

    def test_with_a_larger_vocabulary(self, tmp_path):
        model = swap_self_attention(bert(), layers=[0])
        model.resize_token_embeddings(50)
        model.save_pretrained(tmp_path)
        assert_close(load_swapped(tmp_path)(IDS + 8)[0], model(IDS + 8)[0], 1e-5)

    def test_through_pickle(self, folder):
        model = pickle.loads(pickle.dumps(load_swapped(folder)))
        assert_close(model(IDS)[0], load_swapped(folder)(IDS)[0], 1e-5)
        with pytest.raises(ValueError, match="output_attentions=True"):
            model(IDS, output_attentions=True)

    def test_can_be_copied_and_swapped_further(self, folder):
        model = copy.deepcopy(load_swapped(folder))
        swap_self_attention(model, layers=[0], kernel_size=3)
        assert list(swapped_attention(model)) == [0, 1]
        with pytest.raises(ValueError, match="output_attentions=True"):
            model(IDS, output_attentions=True)

    def test_of_an_unknown_family(self, tmp_path):
        torch.manual_seed(0)
        model = transformers.SplinterForQuestionAnswering(transformers.SplinterConfig(**TEXT)).eval()
        swap_self_attention(model, pattern="layer.*.attention.self", layers=[1], kernel_size=3)
        model.save_pretrained(tmp_path)
        loaded = load_swapped(tmp_path)
        assert loaded.config.seqdyconv["pattern"] == "layer.*.attention.self"
        assert_close(loaded(IDS)[0], model(IDS)[0], 1e-5)

    def test_tied_weights_stay_tied(self, tmp_path):
        swap_self_attention(bert("ForMaskedLM")).save_pretrained(tmp_path)
        loaded = load_swapped(tmp_path)
        assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight

    def test_options_of_the_configuration(self, folder):
        with pytest.raises(ValueError, match="can't be loaded"):
            load_swapped(folder, num_labels=5)  # another shape than that of the file
        assert load_swapped(folder, num_labels=5, ignore_mismatched_sizes=True).classifier.weight.shape == (5, 16)
        edited_swap(folder, "layers", "1", "kernel_size", value=9)
        with pytest.raises(ValueError, match="has weights of other shapes than the swap"):
            load_swapped(folder, ignore_mismatched_sizes=True)

    def test_settings_of_the_configuration(self, folder):
        assert load_swapped(folder, hidden_dropout_prob=0.3).bert.embeddings.dropout.p == 0.3


class TestAnotherHead:
    def test_starts_at_random(self, tmp_path):
        model = swap_self_attention(bert("ForMaskedLM"), kernel_size=5)
        model.save_pretrained(tmp_path)
        loaded = load_swapped(tmp_path, model_class=AutoModelForSequenceClassification, num_labels=3)
        assert type(loaded) is transformers.BertForSequenceClassification
        assert loaded(IDS).logits.shape == (2, 3)
        assert_close(loaded.bert(IDS)[0], model.bert(IDS)[0], 1e-5)
        loaded.save_pretrained(tmp_path / "again")
        assert_close(load_swapped(tmp_path / "again")(IDS)[0], loaded(IDS)[0], 1e-5)

    @pytest.mark.parametrize("name", ["bert", "distilbert", "albert", "modernbert", "bart", "t5", "wav2vec2", "vit"])
    def test_on_the_model_without_one(self, name, tmp_path):
        case = CASES[name]
        model = swap_self_attention(case.model(), kernel_size=5)
        model.save_pretrained(tmp_path)
        loaded = load_swapped(tmp_path, model_class=getattr(transformers, case.head))
        assert type(loaded).__name__ == case.head
        numbers = loaded.base_model.state_dict()
        assert all(torch.equal(numbers[key], value) for key, value in model.state_dict().items() if key in numbers)

    @pytest.mark.parametrize("labels", [2, 5])
    def test_of_another_size(self, folder, labels):
        for kind in (AutoModelForTokenClassification, AutoModelForSequenceClassification):
            loaded = load_swapped(folder, model_class=kind, num_labels=labels)
            assert loaded.config.num_labels == len(loaded.config.id2label) == labels
            assert loaded(IDS).logits.shape[-1] == labels

    def test_the_model_without_its_head(self, folder):
        model = load_swapped(folder, model_class=AutoModel)
        assert_close(model(IDS)[0], load_swapped(folder).bert(IDS)[0], 1e-5)

    def test_the_rest_must_be_there(self, folder):
        weights = load_file(folder / "model.safetensors")
        del weights["bert.encoder.layer.0.output.dense.weight"]
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(ValueError, match=r"lacks weights of the model: bert.encoder.layer.0.output.dense.weight$"):
            load_swapped(folder, model_class=AutoModelForTokenClassification)

    @pytest.mark.parametrize(
        ("model_class", "match"),
        [
            (transformers.T5Model, "model_class must be a model or Auto class of transformers for bert, got"),
            (transformers.AutoModelForCTC, "AutoModelForCTC has no model for bert"),
            (dict, "model_class must be"),
        ],
    )
    def test_of_the_wrong_kind(self, folder, model_class, match):
        with pytest.raises(ValueError, match=match):
            load_swapped(folder, model_class=model_class)


class TestPlainLoading:
    """Without the swap the weights do not fit, whoever reads them: no random attention by mistake."""

    REASON = "this model has layers of seqdyconv; load it with seqdyconv.swap.load_swapped"

    @pytest.mark.parametrize("options", [{}, {"ignore_mismatched_sizes": True}, {"num_labels": 5}], ids=str)
    def test_stops(self, folder, options):
        for load in (AutoModel, AutoModelForSequenceClassification, transformers.BertForSequenceClassification):
            with pytest.raises(ValueError, match=f"^Unknown fusion type: {self.REASON}$"):
                load.from_pretrained(folder, **options)
        with pytest.raises(ValueError, match=self.REASON):
            pipeline("text-classification", model=str(folder), tokenizer=transformers.BertTokenizer())

    def test_stops_after_a_second_save(self, folder):
        load_swapped(folder).save_pretrained(folder / "again")
        with pytest.raises(ValueError, match=self.REASON):
            AutoModel.from_pretrained(folder / "again", ignore_mismatched_sizes=True)

    def test_stops_with_torch_too(self, folder):
        weights = load_file(folder / "model.safetensors")
        with pytest.raises(RuntimeError, match=r"size mismatch for bert.encoder.layer.1.attention.self.key.weight"):
            bert("ForSequenceClassification").load_state_dict(weights, strict=False)

    def test_of_swapped_weights_into_a_swapped_model(self, folder):
        model = swap_self_attention(bert("ForSequenceClassification"), layers=[1], kernel_size=5)
        model.load_state_dict(load_file(folder / "model.safetensors"))
        assert_close(model(IDS)[0], load_swapped(folder)(IDS)[0], 1e-5)


class TestTrainer:
    @staticmethod
    def rows():
        ids = torch.randint(4, 40, (12, 7), generator=torch.Generator().manual_seed(5))
        return [{"input_ids": row, "labels": row[0] % 2} for row in ids]

    @staticmethod
    def arguments(path, **options):
        common = {
            "max_steps": 4,
            "save_steps": 2,
            "eval_steps": 2,
            "per_device_train_batch_size": 3,
            "use_cpu": True,
            "disable_tqdm": True,
            "learning_rate": 1e-2,
        }
        return TrainingArguments(str(path), **{**common, **options})

    def trained(self, path, resume=None, **options):
        model = swap_self_attention(bert("ForSequenceClassification"), kernel_size=3)
        trainer = Trainer(
            model, self.arguments(path, **options), train_dataset=self.rows(), eval_dataset=self.rows()[:4]
        )
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    def test_resumes_exactly(self, tmp_path):
        whole = self.trained(tmp_path / "whole").model
        checkpoint = str(tmp_path / "whole" / "checkpoint-2")
        resumed = self.trained(tmp_path / "resumed", resume=checkpoint).model
        for name, value in whole.state_dict().items():
            assert torch.equal(resumed.state_dict()[name], value), name
        loaded = load_swapped(tmp_path / "resumed" / "checkpoint-4")
        assert_close(loaded(IDS)[0], resumed.eval()(IDS)[0], 1e-5)

    def test_loads_the_best_model_at_the_end(self, tmp_path):
        class Spoil(TrainerCallback):
            def on_evaluate(self, args, state, control, model, metrics, **kwargs):
                metrics["eval_loss"] = float(state.global_step)  # the first is the best

        model = swap_self_attention(bert("ForSequenceClassification"), kernel_size=3)
        arguments = self.arguments(
            tmp_path, eval_strategy="steps", load_best_model_at_end=True, metric_for_best_model="loss"
        )
        trainer = Trainer(
            model, arguments, train_dataset=self.rows(), eval_dataset=self.rows()[:4], callbacks=[Spoil()]
        )
        trainer.train()
        assert trainer.state.best_model_checkpoint.endswith("checkpoint-2")
        best = load_swapped(tmp_path / "checkpoint-2")
        assert all(torch.equal(value, best.state_dict()[name]) for name, value in model.state_dict().items())

    def test_of_a_model_that_was_not_swapped_does_not_resume(self, tmp_path):
        self.trained(tmp_path)
        trainer = Trainer(bert("ForSequenceClassification"), self.arguments(tmp_path), train_dataset=self.rows())
        with pytest.raises(RuntimeError, match="size mismatch"):
            trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


class TestFilesThatAreNotRight:
    def test_no_swapped_model(self, tmp_path):
        bert().save_pretrained(tmp_path)
        with pytest.raises(
            ValueError, match=r"is no swapped model, its config.json has no seqdyconv: load it with from"
        ):
            load_swapped(tmp_path)

    def test_no_folder(self, tmp_path):
        with pytest.raises(OSError, match=r"config.json"):
            load_swapped(tmp_path)

    def test_no_weights(self, folder):
        (folder / "model.safetensors").unlink()
        with pytest.raises(OSError, match=r"model.safetensors"):
            load_swapped(folder)

    def test_weights_that_are_missing(self, folder):
        weights = load_file(folder / "model.safetensors")
        for name in [name for name in weights if ".mixer." in name]:
            del weights[name]
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(ValueError, match=r"lacks weights of the model: .*\.mixer\.\S+.* and 1 more$"):
            load_swapped(folder)

    def test_weights_that_are_too_many(self, folder):
        weights = load_file(folder / "model.safetensors")
        weights["bert.encoder.layer.0.attention.self.mixer.in_proj.weight"] = torch.zeros(2)
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        for model_class in (None, AutoModel):
            with pytest.raises(
                ValueError, match=r"has weights that the model lacks: .*encoder.layer.0.*in_proj.weight"
            ):
                load_swapped(folder, model_class=model_class)

    @pytest.mark.parametrize("size", [0, 4, 100, 5000, -8])
    def test_a_truncated_file(self, folder, size):
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:size])
        with pytest.raises(ValueError, match="can't be loaded as a swapped BertForSequenceClassification: "):
            load_swapped(folder)

    def test_a_broken_configuration(self, folder):
        text = (folder / "config.json").read_text()
        (folder / "config.json").write_text(text[:-20])
        with pytest.raises(OSError, match="not a valid JSON"):
            load_swapped(folder)

    @pytest.mark.parametrize(
        ("keys", "value", "match"),
        [
            (("family",), "gpt", "family is 'gpt', not one of bert"),
            (("family",), ["bert"], "family is"),
            (("family",), None, "family is None"),
            (("family",), "t5", "has a model of the family bert, but a swap of t5"),
            (("family",), "unknown", "results is None"),
            (("results",), 2, "results is 2"),
            (("pattern",), 3, "pattern is 3"),
            (("pattern",), "(a+)+", "pattern is the end of a module's name"),
            (("pattern",), "pooler.dense", "no layer 1; the layers are 0"),
            (("pattern",), "layer.*.output", "BertOutput is no self-attention of this family: it has no value"),
            (("code",), "import os", "has the keys"),
            (("layers",), {}, "layers is {}"),
            (("layers",), [1], r"layers is \[1\]"),
            (("layers",), None, "layers is None"),
            (("layers", "one"), {}, "layer 'one' is"),
            (("layers", "²"), {}, "layer '²' is"),
            (("layers", "-1"), {}, "layer '-1' is"),
            (("layers", "0"), "dynamic_conv", "layer '0' is 'dynamic_conv'"),
            (("layers", "1", "mixer"), "os.system", "has the mixer 'os.system', not one of"),
            (("layers", "1", "mixer"), ["dynamic_conv"], "has the mixer"),
            (("layers", "1", "mixer"), None, "has the mixer None"),
            (("layers", "1", "mixer"), "self_attention", "has the options"),
            (("layers", "1", "num_heads"), None, "has no num_heads"),
            (("layers", "1", "num_heads"), 3, "num_heads must divide"),
            (("layers", "1", "num_heads"), "4", "has num_heads='4'"),
            (("layers", "1", "kernel_size"), 10**9, "can't be loaded"),
            (("layers", "1", "kernel_size"), 10**30, "can't be loaded"),
            (("layers", "1", "kernel_size"), 7, "can't be loaded"),
            (("layers", "1", "kernel_size"), -3, "kernel_size must be an int >= 1, got -3"),
            (("layers", "1", "kernel_size"), 2.5, "kernel_size must be an int >= 1, got 2.5"),
            (("layers", "1", "kernel_size"), [3, 3], "can't be loaded"),
            (("layers", "1", "kernel_size"), ["3"], "kernel_size must be an int >= 1, got '3'"),
            (("layers", "1", "kernel_size"), None, "can't be loaded"),
            (("layers", "1", "dilation"), 10**9, "dilation in config.json must be at most 1000000"),
            (("layers", "1", "causal"), True, "has the options"),
            (("layers", "1", "device"), "cuda", "has the options"),
            (("layers", "1", "glu"), True, "can't be loaded"),
        ],
        ids=str,
    )
    def test_a_tampered_swap(self, folder, keys, value, match):
        edited_swap(folder, *keys, value=value)
        with pytest.raises(ValueError, match=match):
            load_swapped(folder)

    @pytest.mark.parametrize(
        ("changes", "match"),
        [
            ({"vocab_size": 10**12}, "can't be loaded"),
            ({"vocab_size": 10**30}, "can't be loaded"),
            ({"vocab_size": -1}, "can't be loaded"),
            ({"vocab_size": "40"}, "can't be loaded.*'vocab_size' expected int, got str"),
            ({"hidden_size": {"a": 1}}, "can't be loaded.*'hidden_size' expected int, got dict"),
            ({"num_hidden_layers": 10**9}, "num_hidden_layers in config.json must be at most 1000, got 1000000000"),
            ({"num_hidden_layers": 3}, "lacks weights of the model"),
            ({"num_labels": 10**9}, "num_labels in config.json must be at most 1000000"),
            ({"max_position_embeddings": 10**12}, "max_position_embeddings in config.json must be at most"),
            ({"text_config": {"num_layers": 5000}}, "num_layers in config.json must be at most 1000"),
            ({"num_attention_heads": 0}, "can't be loaded"),
            ({"id2label": [1]}, "can't be loaded"),
            ({"hidden_act": "os.system"}, "can't be loaded.*'os.system'"),
            ({"dtype": "os"}, "can't be loaded"),
            ({"_attn_implementation": "some/kernel"}, "kernels"),
            ({"model_type": ["bert"]}, "can't be loaded"),
            ({"is_decoder": True, "add_cross_attention": True}, "belongs to a decoder|can't be loaded"),
        ],
        ids=str,
    )
    def test_a_tampered_configuration(self, folder, changes, match):
        edit(folder, **changes)
        with pytest.raises(ValueError, match=match) as caught:
            load_swapped(folder)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("text", ["null", "3", '"seqdyconv"', "[1]", "[" * 100_000], ids=lambda text: text[:9])
    def test_a_configuration_that_is_no_mapping(self, folder, text):
        (folder / "config.json").write_text(text)
        with pytest.raises((ValueError, OSError), match=r"can't be loaded|no swapped model|no config.json"):
            load_swapped(folder)

    @pytest.mark.parametrize(
        ("index", "match"),
        [
            (
                {"metadata": {}, "weight_map": {"a": "../../other.safetensors"}},
                "must name files of its folder, got '../",
            ),
            ({"metadata": {}, "weight_map": {"a": "/other.safetensors"}}, "must name files of its folder, got '/other"),
            ({"metadata": {}, "weight_map": {"a": 3}}, "must name files of its folder, got 3"),
            ({"metadata": {}, "weight_map": {}}, "must have metadata and a weight_map"),
            ({"metadata": {}}, "must have metadata and a weight_map"),
            ({"weight_map": {"a": "b.safetensors"}}, "must have metadata and a weight_map"),
            ([], "must hold a mapping, got list"),
            ("{", "is no JSON"),
        ],
        ids=str,
    )
    def test_an_index_of_shards_that_is_none(self, folder, index, match):
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text(index if isinstance(index, str) else json.dumps(index))
        with pytest.raises(ValueError, match=match):
            load_swapped(folder)

    @pytest.mark.parametrize("number", ["7", "99999999", "999999999999"])
    def test_a_layer_that_is_not_there(self, folder, number):
        entry = json.loads((folder / "config.json").read_text())["seqdyconv"]["layers"]["1"]
        edited_swap(folder, "layers", number, value=entry)
        with pytest.raises(ValueError, match=f"no layer {number}; the layers are 0-1|layer '{number}' is"):
            load_swapped(folder)

    @pytest.mark.parametrize("value", [None, 3, "dynamic_conv", [], {}])
    def test_a_swap_that_is_no_mapping(self, folder, value):
        edit(folder, seqdyconv=value)
        with pytest.raises(ValueError, match=r"seqdyconv in config.json is damaged|is no swapped model"):
            load_swapped(folder)

    @pytest.mark.parametrize("architectures", [["Trainer"], ["T5Model"], ["os"], ["NoSuchModel"], [], None, [3]])
    def test_a_class_that_is_not_of_the_model(self, folder, architectures):
        edit(folder, architectures=architectures)
        with pytest.raises(ValueError, match="no model of transformers for bert: give model_class"):
            load_swapped(folder)

    def test_a_model_type_that_is_not_known(self, folder):
        edit(folder, model_type="no-such-model")
        with pytest.raises(ValueError, match="no-such-model"):
            load_swapped(folder)

    def test_a_layer_that_was_swapped_alone(self, folder):
        edited_swap(folder, "layers", value={"0": {"mixer": "dynamic_conv", "num_heads": 4, "kernel_size": 5}})
        with pytest.raises(ValueError, match=r"can't be loaded|lacks weights|has weights"):
            load_swapped(folder)


class TestNoCodeRuns:
    @pytest.fixture
    def trap(self, folder):
        """Code beside the model that tells when it is run."""
        told = folder / "told"
        code = f"from pathlib import Path\nPath({str(told)!r}).touch()\nfrom transformers import *\n"
        for name in ("configuration_own.py", "modeling_own.py"):
            (folder / name).write_text(code + "class OwnConfig(BertConfig): ...\nclass OwnModel(BertModel): ...\n")
        return told

    AUTO_MAP = {"AutoConfig": "configuration_own.OwnConfig", "AutoModel": "modeling_own.OwnModel"}

    def test_of_an_auto_map(self, folder, trap):
        edit(folder, auto_map=self.AUTO_MAP)
        assert type(load_swapped(folder)) is transformers.BertForSequenceClassification
        assert not trap.exists()

    def test_of_an_unknown_model_type(self, folder, trap):
        edit(folder, auto_map=self.AUTO_MAP, model_type="own")
        with pytest.raises(ValueError, match="own"):
            load_swapped(folder)
        assert not trap.exists()

    def test_of_a_pickle(self, folder, tmp_path):
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
        with pytest.raises(OSError, match="safetensors"):
            load_swapped(folder)

    @pytest.mark.parametrize(
        "changes",
        [{"attn_implementation": "some/kernel"}, {"quantization_config": {"quant_method": "own"}}],
        ids=str,
    )
    def test_of_others(self, folder, changes):
        edit(folder, **changes)
        with pytest.raises(ValueError, match="has no quantization and no attn_implementation"):
            load_swapped(folder)

    def test_trust_cannot_be_given(self, folder):
        with pytest.raises(ValueError, match="load_swapped has no option trust_remote_code"):
            load_swapped(folder, trust_remote_code=True)
