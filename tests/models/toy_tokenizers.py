"""Tokenizers as users make and as models bring them, tiny: by their model, and by what they put around a text."""

import json
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    BertTokenizer,
    GPT2Tokenizer,
    MarianTokenizer,
    PreTrainedTokenizerFast,
    T5Tokenizer,
    XLMRobertaTokenizer,
)

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
NAMES = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
TEXTS = ("das alte <s>Wort</s> <s> a", "the <pad> old </s> word <s> b", "x<pad>y")
LETTERS = [(letter, -3.0) for letter in "abcdefghijklmnopqrstuvwxyz<>/_0123456789"]


def trained(kind: str, template: str | None = None, **names: Any) -> PreTrainedTokenizerFast:
    """A tokenizer of the library `tokenizers`: unigram, bpe, byte_bpe, word, or joined (without a pre-tokenizer).

    The template says what is put around a text ("<s> $A </s>").
    """
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    options: dict[str, Any] = {"special_tokens": list(SPECIAL), "show_progress": False}
    model, pre_tokenizer, decoder, trainer = {
        "unigram": lambda: (
            models.Unigram(),
            pre_tokenizers.Metaspace(),
            decoders.Metaspace(),
            trainers.UnigramTrainer(vocab_size=60, unk_token="<unk>", **options),
        ),
        "bpe": lambda: (
            models.BPE(unk_token="<unk>"),
            pre_tokenizers.Metaspace(),
            decoders.Metaspace(),
            trainers.BpeTrainer(vocab_size=90, **options),
        ),
        "byte_bpe": lambda: (
            models.BPE(),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
            decoders.ByteLevel(),
            trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, **options),
        ),
        "word": lambda: (
            models.WordLevel(unk_token="<unk>"),
            pre_tokenizers.WhitespaceSplit(),
            None,
            trainers.WordLevelTrainer(**options),
        ),
        "joined": lambda: (
            models.BPE(unk_token="<unk>"),
            None,
            decoders.Fuse(),
            trainers.BpeTrainer(vocab_size=90, **options),
        ),
    }[kind]()
    tokenizer = Tokenizer(model)
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    if decoder is not None:
        tokenizer.decoder = decoder
    tokenizer.train_from_iterator(TEXTS * 20, trainer)
    if template is not None:
        around = [(token, tokenizer.token_to_id(token)) for token in template.split() if token != "$A"]
        tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=around)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **(names or NAMES))


def of_a_model(kind: str) -> Any:
    """The tokenizer of BERT, T5, XLM-RoBERTa or GPT-2."""
    if kind == "bert":
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"ab[]", "the", "old", "word", "das", "alte", "##a"]
        return BertTokenizer(vocab={word: number for number, word in enumerate(words)})
    if kind == "t5":
        return T5Tokenizer(vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *LETTERS], extra_ids=3)
    if kind == "xlm_roberta":
        return XLMRobertaTokenizer(vocab=[*((token, 0.0) for token in SPECIAL), ("▁", -2.0), *LETTERS])
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate([*alphabet, "<|endoftext|>"])}
    return GPT2Tokenizer(vocab=vocabulary, merges=[])


def marian(folder: Path) -> MarianTokenizer:
    """The tokenizer of Marian, which runs SentencePiece itself."""
    (folder / "texts").write_text("\n".join(TEXTS * 20))
    options = "--vocab_size=40 --bos_id=-1 --pad_id=-1 --hard_vocab_limit=false --minloglevel=2"
    sentencepiece.SentencePieceTrainer.train(f"--input={folder}/texts --model_prefix={folder}/spm {options}")
    pieces = sentencepiece.SentencePieceProcessor(model_file=f"{folder}/spm.model")
    names = ["</s>", "<unk>", *(pieces.id_to_piece(number) for number in range(2, len(pieces))), "<pad>"]
    (folder / "vocab.json").write_text(json.dumps({name: number for number, name in enumerate(names)}))
    files = {"source_spm": f"{folder}/spm.model", "target_spm": f"{folder}/spm.model", "vocab": f"{folder}/vocab.json"}
    return MarianTokenizer(**files)


TRAINED = ("unigram", "bpe", "byte_bpe", "word", "joined")
OF_MODELS = ("bert", "t5", "xlm_roberta", "gpt2")


def make(kind: str, folder: Path) -> Any:
    """Any of them."""
    if kind == "marian":
        return marian(folder)
    return trained(kind) if kind in TRAINED else of_a_model(kind)
