"""Models of many languages translate into the language that is asked for; the others are in tests/commands."""

import pytest
import torch
from transformers import (
    M2M100Config,
    M2M100ForConditionalGeneration,
    MBart50Tokenizer,
    MBartConfig,
    MBartForConditionalGeneration,
    MBartTokenizer,
)

from seqdyconv.data.external_tokenizers import set_languages
from seqdyconv.models.loading import ModelError
from seqdyconv.training.decoding import DecodingArguments, generate_batch
from seqdyconv.training.translation_models import check_translation, load_translation_model

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
