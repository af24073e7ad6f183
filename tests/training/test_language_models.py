"""What a language model costs: perplexity and bits per byte, by hand; rows padded and packed."""

import math
from itertools import chain

import pytest
import torch
from datasets import DatasetDict

from seqdyconv.data.language_modeling import DataArguments, document_tokens, load_documents, make_tokenizer, tokenize
from seqdyconv.models.loading import ModelError
from seqdyconv.training.language_models import (
    ContinuationArguments,
    LanguageModelTrainer,
    LanguageModelTrainingArguments,
    ModelArguments,
    RowCollator,
    build_model,
    cost_of_rows,
    go_on,
)
from tests.helpers import assert_close, randomize

ARCHITECTURE = {
    "decoder_layer_types": ["dynamic_conv", "self_attention"],
    "decoder_kernel_sizes": [3, 1],
    "hidden_size": 8,
    "ffn_dim": 8,
    "attention_heads": 2,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    (folder / "train.txt").write_text("the cat sat\n\na dög ran off\n\nthe end of it")
    args = DataArguments(train_file=str(folder / "train.txt"), vocab_size=285, validation_fraction=0, block_size=6)
    texts = load_documents(args)
    tokenizer = make_tokenizer(args, texts["train"])
    model = randomize(build_model(ModelArguments(**ARCHITECTURE), tokenizer, {}))
    return args, texts, tokenizer, model.float()


def cost_by_hand(model, sequences, size, stride):
    """Nats of each token, read by a window that ends with the stride that it is in, and their number."""
    nats, number = 0.0, 0
    for tokens in sequences:
        for place in range(1, len(tokens)):
            stop = size if place < size else size + math.ceil((place + 1 - size) / stride) * stride
            stop = min(stop, len(tokens))
            past = tokens[max(0, stop - size) : place]
            logits = model(torch.tensor([past])).logits[0, -1].double()
            nats -= logits.log_softmax(-1)[tokens[place]].item()
            number += 1
    return nats, number


@pytest.mark.parametrize("join", [True, False], ids=["joined", "alone"])
@pytest.mark.parametrize("stride", [None, 2])
def test_bits_per_byte_and_perplexity_are_those_by_hand(made, join, stride, tmp_path):
    args, texts, tokenizer, model = made
    args.join_documents, args.window, args.stride = join, 7, stride
    rows = tokenize(DatasetDict({"test": texts["train"]}), tokenizer, args)["test"]
    documents = document_tokens(tokenizer, texts["train"]["text"][:])
    end = [tokenizer.eos_token_id]
    sequences = [[*chain.from_iterable(documents), *end]] if join else [ids + end for ids in documents]
    with torch.no_grad():
        nats, number = cost_by_hand(model, sequences, 7, stride or 6)
    size = len("the cat sat" + "a dög ran off" + "the end of it") + 1  # ö is two bytes
    expected = {
        "loss": nats / number,
        "perplexity": math.exp(nats / number),
        "bits_per_byte": nats / math.log(2) / size,
    }
    assert cost_of_rows(model, rows, 2) == pytest.approx(expected, rel=1e-5)
    settings = LanguageModelTrainingArguments(
        str(tmp_path), use_cpu=True, report_to="none", eval_strategy="no", max_tokens=20
    )
    trainer = LanguageModelTrainer(model=model, args=settings, train_dataset=rows, processing_class=tokenizer)
    assert trainer.measure(rows) == pytest.approx(expected, rel=1e-5)


def test_padded_and_packed_rows_give_the_same_loss_and_number_of_labels(made):
    _, _, tokenizer, model = made
    examples = [{"input_ids": ids, "labels": ids} for ids in document_tokens(tokenizer, ["the cat", "a", "of it all"])]
    padded, packed = (RowCollator(packing)(examples) for packing in (False, True))
    assert_close(model(**padded).loss, model(**packed).loss, 1e-5)
    counts = [(batch["labels"][:, 1:] != -100).sum().item() for batch in (padded, packed)]
    assert counts[0] == counts[1] == sum(len(example["input_ids"]) - 1 for example in examples)


def test_a_text_goes_on_as_generate_does(made):
    _, _, tokenizer, model = made
    greedy = ContinuationArguments(do_sample=False, max_new_tokens=3)
    tokens = tokenizer("the cat", return_tensors="pt")
    expected = model.generate(**tokens, do_sample=False, max_new_tokens=3)[0]
    assert go_on(model, tokenizer, "the cat", greedy) == tokenizer.decode(expected, skip_special_tokens=True)
    assert go_on(model, tokenizer, "", greedy) is not None
    with pytest.raises(ModelError, match="num_beams needs do_sample: false"):
        ContinuationArguments(num_beams=2)


def test_rows_that_are_too_long_for_learned_positions(made):
    args, texts, tokenizer, _ = made
    data = tokenize(texts, tokenizer, args)
    with pytest.raises(ModelError, match="a row has 6 tokens, and the model has positions for 4: set block_size"):
        learned = {"position_type": "learned", "max_position_embeddings": 4}
        build_model(ModelArguments(**ARCHITECTURE, **learned), tokenizer, data)
