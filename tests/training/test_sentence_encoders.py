"""Vectors of texts: padding and batch mates change nothing; what a folder says of its pooling."""

import copy
import json

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import BertConfig, BertModel

from seqdyconv.data.retrieval import read_retrieval, retrieval_of
from seqdyconv.data.sentence_embedding import DataArguments, load_texts, pairs_of, split_rows
from seqdyconv.data.tables import DataError
from seqdyconv.data.word_tokenizers import train_word_tokenizer
from seqdyconv.models.loading import ModelError
from seqdyconv.swap import swap_self_attention
from seqdyconv.training.sentence_embedding import (
    SentenceTrainer,
    SentenceTrainingArguments,
    Teacher,
    TeachingArguments,
    similarity_loss,
)
from seqdyconv.training.sentence_encoders import (
    Reading,
    embed_rows,
    keep_reading,
    load_sentence_encoder,
    write_sentence_transformer,
)
from seqdyconv.training.sentence_evaluation import TaskArguments, load_tasks

WORDS = [f"w{number}" for number in range(20)]


@pytest.fixture(scope="module")
def tokenizer():
    return train_word_tokenizer([" ".join(WORDS)] * 2, 100, "word")


@pytest.fixture(scope="module")
def model(tokenizer):
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
    model = BertModel(BertConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **sizes)).eval()
    return swap_self_attention(model, kernel_size=5, layers=[1], weights="random")


def rows_of(tokenizer, lengths):
    ids = tokenizer([" ".join(WORDS[:length]) for length in lengths])["input_ids"]
    return Dataset.from_dict({"input_ids": ids, "example": list(range(len(ids)))})


@pytest.mark.parametrize("pooling", ["mean", "max", "first"])
def test_a_text_has_one_vector_whatever_stands_beside_it(model, tokenizer, pooling):
    rows, reading = rows_of(tokenizer, [1, 20, 3, 7]), Reading(pooling, True, 64)
    together, alone = (embed_rows(model, tokenizer, rows, reading, most) for most in (1000, 1))
    np.testing.assert_allclose(together, alone, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)


def test_a_long_text_is_the_mean_of_its_windows(model, tokenizer):
    rows, reading = rows_of(tokenizer, [20, 3]), Reading("mean", True, 64)
    special = rows["input_ids"][1][0], rows["input_ids"][1][-1]
    windows = split_rows(rows, tokenizer, 9)
    assert windows["example"][:] == [0, 0, 0, 1] and max(map(len, windows["input_ids"])) == 9
    assert all((ids[0], ids[-1]) == special for ids in windows["input_ids"])
    body = [token for ids in windows["input_ids"][:3] for token in ids[1:-1]]
    assert body == rows["input_ids"][0][1:-1]
    parts = embed_rows(model, tokenizer, windows.remove_columns("example").add_column("example", range(4)), reading, 99)
    mean = parts[:3].mean(0)
    expected = [mean / np.linalg.norm(mean), parts[3]]
    np.testing.assert_allclose(embed_rows(model, tokenizer, windows, reading, 99), expected, atol=1e-6)
    with pytest.raises(DataError, match="no room beside 2 special ones"):
        split_rows(rows, tokenizer, 2)


def test_a_folder_says_how_it_is_pooled(model, tokenizer, tmp_path):
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert load_sentence_encoder(str(tmp_path))[2] == Reading("mean", True, 256)
    for reading in (Reading("max", False, 33), Reading("first", True, 44)):
        for folder in ("1_Pooling", "2_Normalize"):
            (tmp_path / folder / "config.json").unlink(missing_ok=True)
        write_sentence_transformer(tmp_path, model, reading)
        assert load_sentence_encoder(str(tmp_path))[2] == reading
    (tmp_path / "1_Pooling" / "config.json").write_text('{"pooling_mode": "lasttoken"}')
    with pytest.raises(ModelError, match="it pools by lasttoken, and only mean, max, cls are known"):
        load_sentence_encoder(str(tmp_path))
    modules = json.loads((tmp_path / "modules.json").read_text())
    (tmp_path / "modules.json").write_text(json.dumps([*modules, {"type": "sentence_transformers.models.Dense"}]))
    with pytest.raises(ModelError, match="Dense, and only Transformer, Pooling and Normalize are known"):
        load_sentence_encoder(str(tmp_path))


def test_the_similarity_loss_by_hand():
    torch.manual_seed(0)
    ours, theirs = torch.randn(4, 6), torch.randn(4, 6)
    cosine = torch.nn.functional.cosine_similarity
    pairs = [(i, j) for i in range(4) for j in range(4) if i != j]
    values = torch.tensor([[cosine(x[i], x[j], dim=0) for i, j in pairs] for x in (ours, theirs)])
    expected = (values[0] - values[1]).square().sum() / values[1].square().sum()
    torch.testing.assert_close(similarity_loss(ours, theirs), expected)
    assert similarity_loss(ours[:1], theirs[:1]) == 0


class TestData:
    @pytest.fixture
    def args(self, tmp_path):
        for split in ("train", "validation", "test"):
            text = "One two three. Four five.\nSix seven eight nine.\n\nTen eleven."
            (tmp_path / f"{split}.txt").write_text(text)
        files = {f"{split}_file": str(tmp_path / f"{split}.txt") for split in ("train", "validation", "test")}
        return lambda **more: DataArguments(**files, **more)

    def test_documents_are_cut_into_neighbouring_sentences(self, args):
        found = load_texts(args(piece_words=[4, 8]))
        texts = ["One two three.", "Four five.", "Six seven eight nine.", "Ten eleven."]
        longer = ["One two three. Four five.", "Six seven eight nine.", "Ten eleven."]
        assert found["train"]["text"][:] == [*texts, "One two three. Four five."]  # each once
        assert found["test"]["text"][:] == [*texts, *longer]
        assert found["test"]["document"][:] == [0, 0, 0, 1, 2, 2, 3]
        joined = load_texts(args(piece_words=[8], join_documents=True))["test"]["text"][:]
        assert joined == ["One two three. Four five.", "Six seven eight nine. Ten eleven."]

    def test_half_of_the_pairs_are_neighbours(self, args):
        given = args(piece_words=[2], max_pairs=6)
        texts, pairs = pairs_of(load_texts(given)["test"], given)
        documents = np.array(texts["document"][:])[pairs]
        assert len(pairs) == 6 and (documents[:3, 0] == documents[:3, 1]).all()
        assert sorted(set(pairs.flatten())) == list(range(len(texts)))
        np.testing.assert_array_equal(pairs_of(load_texts(given)["test"], given)[1], pairs)

    def test_headings_that_stand_twice_ask_nothing(self, tmp_path):
        rows = [
            ("See also", "train"),
            ("see also", "test"),
            ("Fish", "test"),
            ("Birds", "validation"),
            ("Dogs", "train"),
        ]
        columns = {"heading": [heading for heading, _ in rows], "split": [split for _, split in rows]}
        texts = [f"{number} is what this long text says" for number in range(5)]
        found = retrieval_of(Dataset.from_dict({**columns, "text": texts}))
        assert (found.queries, found.texts, found.right) == (["Fish", "Birds"], texts, [[2], [3]])
        (tmp_path / "bad.csv").write_text("query,answer\na,b\n")
        with pytest.raises(DataError, match="has no column text"):
            read_retrieval(str(tmp_path / "bad.csv"))
        (tmp_path / "bad.csv").write_text("query,text\na,b\nc,\n")
        with pytest.raises(DataError, match=r"row 2 of .*bad.csv must have a query and a text, got no text"):
            read_retrieval(str(tmp_path / "bad.csv"))

    def test_a_query_with_several_texts_has_a_row_for_each(self, tmp_path):
        (tmp_path / "asked.csv").write_text("query,text\na,one\nb,two\na,three\na,one\n")
        found = read_retrieval(str(tmp_path / "asked.csv"))
        assert (found.queries, found.texts, found.right) == (["a", "b"], ["one", "two", "three"], [[0, 2], [1]])

    def test_tasks_whose_metrics_would_have_the_same_names_are_refused(self):
        for kind in ("retrieval", "labelled_datasets"):
            with pytest.raises(DataError, match=r"one/faq.csv and two/faq.tsv are both faq in the metrics"):
                load_tasks(TaskArguments(**{kind: ["one/faq.csv", "two/faq.tsv"]}), "en")


def test_a_student_without_dropout_learns_as_it_is_used(model, tokenizer, tmp_path):
    student = copy.deepcopy(model)
    for module in student.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    keep_reading(student, Reading("mean", True, 64))
    trainer = SentenceTrainer(
        model=student,
        args=SentenceTrainingArguments(output_dir=str(tmp_path), eval_strategy="no", max_steps=1),
        processing_class=tokenizer,
        pairs=None,
        teaching=TeachingArguments(matching_weight=1.0),
        teacher=Teacher(model, tokenizer, Reading("mean", True, 64), 64),
        dropout=False,
    )
    trainer.state.max_steps = 1
    ids = torch.tensor(rows_of(tokenizer, [7, 7])["input_ids"][:])
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.eye(2, 8)}
    found = trainer.compute_loss(student.train(), dict(batch)).item()
    assert found == trainer.compute_loss(student.train(), dict(batch)).item()
    trainer.dropout = True
    assert found != trainer.compute_loss(student.train(), dict(batch)).item()
