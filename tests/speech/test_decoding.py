"""From a recogniser's output to text: greedy and beam search, words with times, whole files."""

import pytest
import soundfile
import torch
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

from seqdyconv.models.loading import ModelError
from seqdyconv.speech import Decoder, Recogniser, SpeechDecodingArguments, load_recogniser
from seqdyconv.speech.decoding import TRAIN_TEXTS


@pytest.fixture(scope="module")
def recogniser(streaming_folder):
    return load_recogniser(str(streaming_folder))


def noise(length):
    return torch.randn(length, generator=torch.Generator().manual_seed(length)) / 10


def test_greedy_texts_do_not_depend_on_the_batch(recogniser):
    decoder = Decoder(recogniser)
    samples = [noise(8000), noise(20000)]
    alone = [decoder.texts([utterance])[0] for utterance in samples]
    assert decoder.texts(samples) == alone and all(alone)
    assert [" ".join(word.text for word in decoder.words(utterance)) for utterance in samples] == alone


@pytest.mark.parametrize("has_mask", [True, False])
def test_an_utterance_shorter_than_what_a_pretrained_model_reads_is_filled_up(recogniser, has_mask):
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"conv_dim": (8, 8), "conv_stride": (20, 16), "conv_kernel": (20, 16)}
    sizes |= {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "feat_extract_norm": "layer"}
    config = Wav2Vec2Config(**sizes, vocab_size=len(recogniser.tokenizer), pad_token_id=0)
    pretrained = Recogniser(
        Wav2Vec2ForCTC(config).eval(), Wav2Vec2FeatureExtractor(return_attention_mask=has_mask), recogniser.tokenizer
    )
    assert pretrained.least_samples == 320 and pretrained.frames(320) == 1
    decoder = Decoder(pretrained)
    filled = torch.cat([noise(5), torch.zeros(315)])
    assert decoder.texts([noise(5)]) == decoder.texts([filled])
    assert decoder.texts([noise(5), noise(4000)]) == decoder.texts([filled, noise(4000)])
    assert decoder.words(noise(5)) == decoder.words(filled)


def test_a_file_is_transcribed_in_segments_with_times(recogniser, tmp_path):
    soundfile.write(tmp_path / "a.flac", noise(3 * 22050).numpy(), 22050)
    decoder = Decoder(recogniser)
    words = decoder.transcribe(tmp_path / "a.flac", segment_seconds=1.0)
    assert len(words) > 1 and 1 < words[-1].end <= 3
    assert all(0 <= word.start <= word.end for word in words)
    assert [word.start for word in words] == sorted(word.start for word in words)


def test_auto_counts_the_training_texts_of_the_run(recogniser, tmp_path):
    args = SpeechDecodingArguments(beam_size=8, language_model="auto", word_list="auto")
    with pytest.raises(ModelError, match=f"auto needs {TRAIN_TEXTS}"):
        Decoder(recogniser, args, tmp_path)
    (tmp_path / TRAIN_TEXTS).write_text("ab ce\nab dg\nfa\n")
    for folder in (tmp_path, tmp_path / "checkpoint-5"):
        text = Decoder(recogniser, args, folder).texts([noise(20000)])[0]
        assert text and set(text.split()) <= {"ab", "ce", "dg", "fa"}


@pytest.mark.parametrize(
    "options, said",
    [
        ({"beam_size": 0}, r"beam_size must be in \[1, 10000\], got 0"),
        ({"language_model": "auto"}, "needs a beam search"),
        ({"beam_size": 4, "word_list": "nowhere.txt"}, "word_list must be none, auto or a file"),
        ({"beam_size": 4, "lm_order": 3}, "lm_order has no effect without language_model: auto"),
        ({"beam_size": 4, "language_model": "auto", "lm_order": 7}, r"lm_order must be in \[2, 6\], got 7"),
        ({"beam_size": 4, "lm_weight": 0.5}, "lm_weight has no effect without a language_model, got 0.5"),
        ({"beam_size": 4, "word_score": 1.0}, "word_score has no effect without a word_list, got 1.0"),
        ({"beam_size": 4, "word_list": "auto", "unit_score": 1.0}, "unit_score has no effect with a word_list"),
        ({"unit_score": 1.0}, "unit_score has no effect without a beam search, got 1.0"),
    ],
)
def test_bad_arguments(options, said):
    with pytest.raises(ValueError, match=said):
        SpeechDecodingArguments(**options)


@pytest.mark.parametrize("option", [{"ctc_weight": 0.3}, {"max_label_length": 9}])
def test_arguments_for_another_kind_of_model(recogniser, option):
    with pytest.raises(ModelError, match=f"{next(iter(option))} is for models with a decoder"):
        Decoder(recogniser, SpeechDecodingArguments(**option))


def test_word_lists_of_other_systems(recogniser, tmp_path):
    words = tmp_path / "words.txt"
    words.write_bytes("\ufeffab\r\n\r\nce\r\nab\r\n".encode())
    args = SpeechDecodingArguments(beam_size=8, word_list=str(words))
    assert set(Decoder(recogniser, args).texts([noise(20000)])[0].split()) <= {"ab", "ce"}
    words.write_bytes(b"ab\n\xe1\n")
    with pytest.raises(ModelError, match=r"word_list is .*words.txt, which is not UTF-8 text"):
        Decoder(recogniser, args)
    words.write_text("\n")
    with pytest.raises(ModelError, match="words must have a word, got none"):
        Decoder(recogniser, args)
