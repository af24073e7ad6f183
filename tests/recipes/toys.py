"""Small data and configurations of the recipes, which a run of seconds learns something from."""

import json
import random

import numpy as np
import soundfile
import torch
import yaml
from transformers import BertConfig, BertModel

from seqdyconv.data.word_tokenizers import train_word_tokenizer

# Translation: word by word

WORDS = {"eins": "one", "zwei": "two", "drei": "three", "vier": "four", "und": "and", "oder": "or", "haus": "house"}


def write_pairs(path, number, seed):
    generator = random.Random(seed)
    rows = ["source\ttarget"]
    for _ in range(number):
        words = generator.choices(list(WORDS), k=generator.randint(1, 9))
        rows.append(f"{' '.join(words)}\t{' '.join(WORDS[word] for word in words)}")
    path.write_text("\n".join(rows) + "\n")


def write_translation_data(folder):
    for seed, (split, number) in enumerate({"train": 300, "validation": 12, "test": 20}.items()):
        write_pairs(folder / f"{split}.tsv", number, seed)
    return folder


def write_translation_config(data):
    values = {
        **{f"{split}_file": str(data / f"{split}.tsv") for split in ("train", "validation", "test")},
        "tokenizer_type": "bpe",
        "vocab_size": 290,
        "encoder_kernel_sizes": [3, 5],
        "decoder_kernel_sizes": [3],
        "hidden_size": 32,
        "ffn_dim": 32,
        "attention_heads": 2,
        "weight_dropout": 0.1,
        "max_tokens": 300,
        "max_steps": 13,
        "warmup_steps": 2,
        "learning_rate": "1e-2",
        "bf16": True,
        "logging_steps": 1,
        "eval_strategy": "steps",
        "eval_steps": 4,
        "predict_with_generate": True,
        "generation_examples": 3,
        "sample_translations": 1,
        "save_steps": 5,
        "save_total_limit": 2,
        "average_checkpoints": 2,
        "num_beams": 2,
    }
    path = data / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


# Text classification: by one word of each text

LABELS = {"fruit": ["apple", "pear", "plum"], "bird": ["owl", "crow", "wren"], "tool": ["saw", "drill", "file"]}
FILLERS = ["the", "a", "some", "one", "of", "and", "with", "very", "old", "new"]


def sentence(generator, label):
    words = [*generator.choices(FILLERS, k=generator.randint(2, 10)), generator.choice(LABELS[label])]
    generator.shuffle(words)
    return " ".join(words)


def write_texts(path, number, seed, labels=tuple(LABELS), columns=("text",)):
    """Texts of one label or pairs of texts of one: the first label is the most frequent one."""
    generator = random.Random(seed)
    rows = [",".join([*columns, "label"])]
    for index in range(number):
        label = labels[0] if index % 2 else labels[index // 2 % len(labels)]
        rows.append(",".join([*(sentence(generator, label) for _ in columns), label]))
    path.write_text("\n".join(rows) + "\n")


def write_classification_data(folder):
    for seed, (split, number) in enumerate({"train": 200, "validation": 24, "test": 36}.items()):
        write_texts(folder / f"{split}.csv", number, seed)
    return folder


def write_config(path, data, **values):
    common = {
        **{f"{split}_file": str(data / f"{split}.csv") for split in ("train", "validation", "test")},
        "max_tokens": 200,
        "max_steps": 13,
        "warmup_steps": 2,
        "bf16": True,
        "logging_steps": 1,
        "eval_strategy": "steps",
        "eval_steps": 4,
        "save_strategy": "steps",
        "save_steps": 4,
    }
    path.write_text(yaml.safe_dump(common | values))
    return path


def write_classification_config(data):
    """Texts of up to 13 tokens in windows of 8, so that many have several rows."""
    return write_config(
        data / "config.yaml",
        data,
        tokenizer_type="word",
        encoder_kernel_sizes=[3, 5],
        hidden_size=32,
        ffn_dim=32,
        attention_heads=2,
        word_dropout=0.1,
        weight_dropout=0.1,
        learning_rate="1e-2",
        max_length=8,
        long_texts="windows",
        window_stride=2,
        class_weights="balanced",
    )


def write_tiny_bert(data, folder):
    """A pretrained encoder, as far as anybody can see."""
    tokenizer = train_word_tokenizer((data / "train.csv").read_text().splitlines(), 100, "word")
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 32}
    sizes |= {"initializer_range": 0.2, "max_position_embeddings": 64, "hidden_dropout_prob": 0.0}
    BertModel(BertConfig(vocab_size=len(tokenizer), pad_token_id=1, **sizes)).save_pretrained(folder)
    return folder


def write_swap_config(data, tiny_bert):
    return write_config(
        data / "swap.yaml",
        data,
        model_name_or_path=str(tiny_bert),
        max_length=16,
        swap_mixer="dynamic_conv",
        swap_layers="1-2",
        swap_kernel_size=5,
        swap_calibration_batches=2,
        distil_epochs=0.5,
        distil_learning_rate="1e-2",
        distil_parameters="mixers",
        matching_weight=1.0,
        matching_until=0.5,
        word_dropout=0.1,
        learning_rate="1e-3",
        save_steps=3,
    )


# Sentence embeddings: a tiny encoder is the teacher


def write_sentence_config(data, tiny_bert):
    """Documents of the texts of classification, four sentences each, longer than the teacher has positions for."""
    for split in ("train", "validation", "test"):
        texts = [line.rsplit(",", 1)[0] for line in (data / f"{split}.csv").read_text().splitlines()[1:]]
        documents = ["\n".join(texts[start : start + 4]) for start in range(0, len(texts), 4)]
        (data / f"{split}.txt").write_text("\n\n".join(documents))
    queries = [f"{' '.join(text.split()[:3])},{text}" for text in dict.fromkeys(texts)]
    (data / "queries.csv").write_text("\n".join(["query,text", *queries]))
    labelled = data / "labelled"
    labelled.mkdir()
    for split in ("train", "test"):
        (labelled / f"{split}.csv").write_text((data / f"{split}.csv").read_text())
    common = yaml.safe_load(write_swap_config(data, tiny_bert).read_text())
    kept = {name: value for name, value in common.items() if name.startswith(("swap", "eval", "save", "max_", "model"))}
    values = {
        **kept,
        **{f"{split}_file": str(data / f"{split}.txt") for split in ("train", "validation", "test")},
        "piece_words": [6, 30, 100],
        "join_documents": True,
        "max_length": 100,
        "max_pairs": 60,
        "matching_weight": 1.0,
        "matching_until": 0.5,
        "retrieval": [str(data / "queries.csv")],
        "labelled_datasets": [str(labelled)],
        "max_tokens": 300,
        "max_steps": 12,
        "warmup_steps": 2,
        "learning_rate": "5e-3",
        "logging_steps": 1,
    }
    path = data / "sentences.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


# Speech recognition: each letter is a tone of its own, so that they are learnt fast

TINY = {
    "encoder_kernel_sizes": [7, 7],
    "hidden_size": 48,
    "ffn_dim": 96,
    "attention_heads": 4,
    "subsampling_channels": 8,
    "dropout": 0,
    "num_mel_bins": 40,
    "speed_factors": 1.0,
    "num_time_masks": 0,
    "num_frequency_masks": 0,
    "max_batch_seconds": 4,
    "report_to": "none",
    "disable_tqdm": True,
    "save_strategy": "no",
    "eval_strategy": "no",
}
SHARED = ("max_batch_seconds", "report_to", "disable_tqdm", "save_strategy", "eval_strategy")  # not of the architecture


def words_of(options):
    return [word for name, value in options.items() for word in (f"--{name}", *map(str, np.atleast_1d(value)))]


def write_manifest(path):
    """A manifest of eight short recordings, with a configuration beside it for new models and one for others."""
    generator = np.random.default_rng(0)
    rows = []
    for number in range(8):
        text = " ".join("".join(generator.choice(list("abcdef"), 4)) for _ in range(3))
        rate = (16000, 22050)[number % 2]
        time = np.arange(int(0.12 * rate)) / rate
        tones = [np.sin(2 * np.pi * (300 + 250 * "abcdef ".index(letter)) * time) for letter in text]
        samples = np.concatenate([tone * (letter != " ") for tone, letter in zip(tones, text)])
        samples = 0.3 * samples + generator.normal(0, 0.01, len(samples))
        file = path.with_name(f"{number}.{('wav', 'ogg')[number % 2]}")
        soundfile.write(file, samples, rate)
        rows.append({"path": str(file), "text": text, "speaker": "ab"[number % 2]})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = dict.fromkeys(("train_file", "validation_file", "test_file"), str(path))
    path.with_name("tiny.yaml").write_text(yaml.safe_dump(TINY | files))
    shared = {name: value for name, value in TINY.items() if name in SHARED}
    path.with_name("pretrained.yaml").write_text(yaml.safe_dump(shared | files))
    return path
