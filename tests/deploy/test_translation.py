"""An exported translation model translates as the model does, without torch, and a wrong folder says what is wrong."""

import json
import random
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing

from seqdyconv.deploy.folder import write_manifest
from seqdyconv.deploy.graphs import ExportError
from seqdyconv.deploy.translation import write_translation, write_word_tokenizer
from seqdyconv.models import SeqDyConvConfig, SeqDyConvForConditionalGeneration, SeqDyConvTokenizer
from seqdyconv.models.beams import beam_search
from seqdyconv.runtime.folder import FolderError
from seqdyconv.runtime.translator import Translator

WORDS = ["<s>", "<pad>", "</s>", "<unk>", *"abcdefghijklmnopqrst"]


def build(**options) -> SeqDyConvForConditionalGeneration:
    torch.manual_seed(0)
    sizes = {"hidden_size": 12, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "vocab_size": len(WORDS)}
    sizes |= {"encoder_attention_heads": 3, "decoder_attention_heads": 3, "encoder_kernel_sizes": [9]}
    sizes |= {"decoder_kernel_sizes": [4, 3], "decoder_layer_types": ["dynamic_conv", "self_attention"]}
    model = SeqDyConvForConditionalGeneration(SeqDyConvConfig(**(sizes | options))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.6 * torch.randn_like(parameter))
    return model


def write(model, folder) -> None:
    write_manifest(folder, write_translation(model, folder), "float32")
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    tokenizer.add_special_tokens(WORDS[:4])
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.fixture(scope="module")
def model():
    return build()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    write(model, folder)
    return folder


@pytest.fixture(scope="module")
def translator(folder):
    return Translator(folder)


def texts(*lengths: int) -> list[str]:
    rng = random.Random(0)
    return [" ".join(rng.choices(WORDS[4:], k=length)) for length in lengths]


class TestTranslator:
    @pytest.mark.parametrize("num_beams, nbest, length_penalty", [(1, 1, 1.0), (4, 1, 1.0), (3, 3, 0.5), (5, 2, -1.0)])
    def test_it_finds_what_the_model_finds(self, model, translator, num_beams, nbest, length_penalty):
        inputs = translator.encode(texts(5, 1, 30, 8, 8, 2))
        options = {"num_beams": num_beams, "nbest": nbest, "length_penalty": length_penalty}
        found = translator.search_ids(inputs, **options, max_tokens=60)
        limits = [-(-len(ids) * 3 // 2) + 10 for ids in inputs]
        for ours, theirs in zip(found, beam_search(model, inputs, limits, **options)):
            for translation, output in zip(ours, theirs, strict=True):
                words = [WORDS[token] for token in output.tokens if token > 3]
                assert translation.text.split() == words
                score = None if output.score is None else pytest.approx(output.score, abs=1e-4, rel=1e-5)
                assert translation.score == score

    def test_each_text_has_its_translation_whatever_else_is_translated(self, translator):
        given = texts(3, 9, 0, 1, 5, 0, 12)
        together = translator.translate(given, num_beams=2)
        assert together == [translator.translate([text], num_beams=2)[0] for text in given]
        assert together[2] == together[5] == "" and translator.translate([]) == []

    def test_several_threads_may_translate_at_once(self, translator):
        given = texts(*range(1, 9))
        with ThreadPoolExecutor(4) as pool:
            assert len({tuple(found) for found in pool.map(translator.translate, [given] * 8)}) == 1

    def test_more_outputs_than_beams_are_refused(self, translator):
        with pytest.raises(ValueError, match="nbest must be between 1 and num_beams = 2, got 3"):
            translator.translate(["a"], num_beams=2, nbest=3)
        with pytest.raises(ValueError, match="num_beams is 13, and the model has no more than 24 tokens"):
            translator.translate(["a"], num_beams=13)


class TestFolder:
    @pytest.mark.parametrize(
        "setting, value, message",
        [
            ("ends", [99], "must have ends, of its tokens, got"),
            ("vocabulary", 0, "vocabulary in the settings of .* must be a whole number"),
            ("vocabulary", 20, "does not give the best candidates: it is damaged"),
            ("source_vocabulary", 8, "and the model has 8: it is another model's"),
            ("width", 5, "key_0 of .* must be"),
            ("layers", 3, "must have the outputs .* key_2"),
        ],
        ids=str,
    )
    def test_settings_that_do_not_fit_are_refused(self, folder, tmp_path, setting, value, message):
        wrong = tmp_path / "wrong"
        shutil.copytree(folder, wrong)
        manifest = json.loads((wrong / "export.json").read_text())
        manifest["settings"][setting] = value
        (wrong / "export.json").write_text(json.dumps(manifest))
        with pytest.raises(FolderError, match=message):
            Translator(wrong).translate(texts(9, 9, 9, 9), num_beams=3)

    def test_a_graph_in_the_place_of_another_is_refused(self, folder, tmp_path):
        wrong = tmp_path / "wrong"
        shutil.copytree(folder, wrong)
        shutil.copy(wrong / "encoder.onnx", wrong / "step.onnx")
        with pytest.raises(FolderError, match=r"step\.onnx must have the inputs"):
            Translator(wrong)


class TestWords:
    """A tokenizer of finished tokens, with a vocabulary for each side."""

    def test_the_runtime_reads_and_writes_as_the_tokenizer_does(self, model, folder, tmp_path):
        own = tmp_path / "own"
        shutil.copytree(folder, own)
        target = [*WORDS[:4], *(f"{word}@@" if number % 2 else word * 2 for number, word in enumerate(WORDS[4:]))]
        tokenizer = SeqDyConvTokenizer(WORDS, target)
        manifest = json.loads((own / "export.json").read_text())
        manifest["settings"] |= write_word_tokenizer(tokenizer, own)
        (own / "export.json").write_text(json.dumps(manifest))
        translator, given = Translator(own), ["a b c", "t <pad> new a </s> <unk>"]
        ids = translator.encode(given)
        assert ids == tokenizer(given)["input_ids"]
        limits = [-(-len(each) * 3 // 2) + 10 for each in ids]
        found = [best.tokens for (best,) in beam_search(model, ids, limits, num_beams=2)]
        assert translator.translate(given, 2) == tokenizer.batch_decode(found, skip_special_tokens=True)


class TestExport:
    def test_what_the_search_can_not_do_is_refused(self, tmp_path):
        model = build()
        model.generation_config.repetition_penalty = 1.2
        with pytest.raises(ExportError, match=r"can't do all .*repetition_penalty"):
            write_translation(model, tmp_path)
