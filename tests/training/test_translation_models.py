"""Models of many languages translate into the one that is asked for; and texts longer than the positions of a model."""

import pytest
import torch
from datasets import Dataset
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    M2M100Config,
    M2M100ForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
    MBart50Tokenizer,
    MBartConfig,
    MBartForConditionalGeneration,
    MBartTokenizer,
)

from seqdyconv.commands import translate
from seqdyconv.data.external_tokenizers import set_languages
from seqdyconv.data.sentencepiece_tokenizers import train_sentencepiece_tokenizer
from seqdyconv.models import SeqDyConvConfig, SeqDyConvForConditionalGeneration
from seqdyconv.models.loading import ModelError
from seqdyconv.runtime.options import DecodingArguments
from seqdyconv.training.decoding import generate_batch, most_tokens
from seqdyconv.training.model_arguments import EncoderDecoderArguments
from seqdyconv.training.translation_models import build_model, check_translation, load_translation_model
from tests.commands.folders import SIZES as OUR_SIZES
from tests.recipes.mistakes import ending

SIZES = {"d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
SIZES |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8, "max_position_embeddings": 32}
SPECIAL = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
MODELS = {
    "mbart": (MBartTokenizer, MBartForConditionalGeneration, MBartConfig),
    "mbart50": (MBart50Tokenizer, MBartForConditionalGeneration, MBartConfig),
    "m2m100": (MBart50Tokenizer, M2M100ForConditionalGeneration, M2M100Config),
}


@pytest.fixture(params=MODELS)
def made(request):
    tokenizer_type, model_type, config_type = MODELS[request.param]
    torch.manual_seed(0)
    special = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    tokenizer = tokenizer_type(vocab=[*special, ("▁", -2.0), ("▁das", -3.0), ("▁the", -3.0)])
    return tokenizer, model_type(config_type(vocab_size=len(tokenizer), decoder_start_token_id=2, **SIZES, **SPECIAL))


@pytest.mark.parametrize("target", ["en", "fr_XX"])
def test_it_writes_what_it_was_trained_to_write_after_the_language(made, target, tmp_path):
    tokenizer, model = made
    set_languages(tokenizer, "theirs", "de", target)
    check_translation(model, tokenizer, "theirs")
    language = tokenizer.convert_tokens_to_ids(tokenizer.tgt_lang)
    start = [2, language]
    if hasattr(model, "prepare_decoder_input_ids_from_labels"):  # M2M100 has no such method, and can't be trained here
        labels = tokenizer(text_target=["the"], return_tensors="pt")["input_ids"]
        start = model.prepare_decoder_input_ids_from_labels(labels=labels)[0, :2].tolist()
    assert language in start
    model.save_pretrained(tmp_path)
    loaded = load_translation_model(str(tmp_path))
    source = tokenizer(["das"], return_tensors="pt")["input_ids"]
    written = loaded.generate(source, max_new_tokens=3, num_beams=2)[0].tolist()
    assert written[: 1 + start.index(language)] == start[: 1 + start.index(language)]
    assert written[:2].count(language) == 1
    generate_batch(loaded, tokenizer, source.tolist(), DecodingArguments(num_beams=2))


def test_without_a_language_it_is_refused(made):
    tokenizer, model = made
    with pytest.raises(ModelError, match="many languages: name them with source_lang and target_lang"):
        check_translation(model, tokenizer, "theirs")


IDS = {"vocab_size": 280, "decoder_start_token_id": 2, "forced_eos_token_id": 2, **SPECIAL}
LEARNED = {"encoder_position_type": "learned", "max_position_embeddings": 32}
LIMITED = {
    "bart": lambda: BartForConditionalGeneration(BartConfig(**SIZES, **IDS)),
    "marian": lambda: MarianMTModel(MarianConfig(**SIZES, **IDS)),
    "ours": lambda: SeqDyConvForConditionalGeneration(SeqDyConvConfig(vocab_size=280, **OUR_SIZES, **LEARNED)),
}


@pytest.mark.parametrize("make", LIMITED.values(), ids=LIMITED)
def test_texts_end_with_the_positions_of_a_model(make, tmp_path):
    tokenizer = train_sentencepiece_tokenizer(["eins zwei drei", "one two three"], 280, "bpe")
    model = make().eval()
    assert most_tokens(model) == 32
    (beams,) = generate_batch(model, tokenizer, [[5] * 31 + [2]], DecodingArguments(num_beams=2))
    assert beams[0].tokens <= 32
    with pytest.raises(ModelError, match="a text of 33 tokens, and the model has positions for 32"):
        generate_batch(model, tokenizer, [[5] * 32 + [2]], DecodingArguments())
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    data = {"train": Dataset.from_dict({"input_ids": [[5, 2]], "labels": [[5] * 40]})}
    with pytest.raises(ModelError, match="the train set has a text of 40 tokens"):
        build_model(EncoderDecoderArguments(model_name_or_path=str(tmp_path / "model")), tokenizer, data)
    (tmp_path / "texts").write_text(f"{'eins zwei ' * 50}\neins\n")
    end = ending(translate.main, [str(tmp_path / "model")], tmp_path, str(tmp_path / "texts"))
    assert end.status is None and end.crash is None
    assert end.output.count("\n") == 2 and end.errors == "line 1 is cut to 32 tokens\n"


def test_sines_of_our_models_have_no_end():
    model = SeqDyConvForConditionalGeneration(SeqDyConvConfig(vocab_size=280, **OUR_SIZES, max_position_embeddings=4))
    assert most_tokens(model) == float("inf")
