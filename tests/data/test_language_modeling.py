"""Documents of language models: how they are read, cut into rows, and that each token counts once."""

import pytest
from datasets import Dataset, DatasetDict

from seqdyconv.data import language_modeling, libreoffice_help
from seqdyconv.data.language_modeling import (
    DataArguments,
    document_tokens,
    load_documents,
    make_tokenizer,
    tokenize,
    windows,
)
from seqdyconv.data.tables import DataError
from tests.data.test_libreoffice_help import page, pages_of

TEXTS = {"train": "one two\nthree\n\nfour five\n\n\nsix\n", "test": "seven äh\n\none"}


@pytest.fixture
def files(tmp_path):
    for split, text in TEXTS.items():
        (tmp_path / f"{split}.txt").write_text(text)
    return {f"{split}_file": str(tmp_path / f"{split}.txt") for split in TEXTS}


def arguments(files, **options):
    return DataArguments(**{"vocab_size": 282, "validation_fraction": 0, **files, **options})


class TestWindows:
    @pytest.mark.parametrize("length", range(12))
    @pytest.mark.parametrize(("size", "stride"), [(2, 1), (4, 1), (4, 2), (4, 3), (9, 5)])
    def test_each_token_but_the_first_counts_once_after_as_much_past_as_there_is(self, length, size, stride):
        counted = []
        for number, (begin, first, stop) in enumerate(windows(length, size, stride)):
            assert 0 <= begin < first < stop <= length and stop - begin <= size
            assert number == 0 or (first - begin >= min(first, size - stride) and stop - first <= stride)
            counted += range(first, stop)
        assert counted == list(range(1, length))


class TestFiles:
    def test_empty_lines_of_a_text_end_a_document(self, files):
        texts = load_documents(arguments(files))
        assert texts["train"]["text"][:] == ["one two\nthree", "four five", "six"]
        assert texts["test"]["text"][:] == ["seven äh", "one"]

    def test_a_table_has_a_document_in_each_row_that_is_not_empty(self, tmp_path):
        (tmp_path / "train.jsonl").write_text('{"text": "one\\n\\ntwo"}\n{"text": " "}\n{"text": "three"}\n')
        texts = load_documents(arguments({"train_file": str(tmp_path / "train.jsonl")}))
        assert texts["train"]["text"][:] == ["one\n\ntwo", "three"]

    def test_what_is_missing_is_held_out_with_equal_documents_on_one_side(self, tmp_path):
        (tmp_path / "train.txt").write_text("\n\n".join(str(number % 20) for number in range(60)))
        texts = load_documents(
            DataArguments(train_file=str(tmp_path / "train.txt"), validation_fraction=0.2, test_fraction=0.2)
        )
        sides = [set(texts[split]["text"][:]) for split in ("train", "validation", "test")]
        assert sum(map(len, sides)) == len(set.union(*sides)) == 20 and all(sides)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"train_file": "nowhere.txt"}, "train_file is nowhere.txt, which is not a file"),
            ({"dataset": "r8", "train_file": "a.txt"}, "both dataset"),
            ({"dataset": "libreoffice_help", "language": "../x"}, "'../x' is not a language code"),
            ({"dataset": "libreoffice_help", "dataset_config": "en"}, "has no dataset_config"),
            ({"dataset": "r8", "block_size": 1}, "block_size must be at least 2, got 1"),
            ({"dataset": "r8", "stride": 256}, "stride must be less than window 256, .* got 256"),
        ],
        ids=str,
    )
    def test_what_can_not_be_is_one_line(self, options, message):
        with pytest.raises(DataError, match=message):
            load_documents(DataArguments(**options))

    def test_data_sets_that_are_joined_have_the_splits_of_all(self, monkeypatch):
        texts = {
            "r52": {"train": ["a"], "test": ["b"]},
            "r8": {"train": ["c", "d"], "validation": ["e"], "test": ["f"]},
        }

        def load(name):
            splits = {split: {"text": found, "label": ["x"] * len(found)} for split, found in texts[name].items()}
            return DatasetDict({split: Dataset.from_dict(columns) for split, columns in splits.items()})

        monkeypatch.setattr(language_modeling, "load_labelled_texts", load)
        found = load_documents(DataArguments(dataset="r52+r8", validation_fraction=0))
        assert {split: found[split]["text"][:] for split in found} == {"train": ["a", "c", "d"], "test": ["b", "f"]}
        with pytest.raises(DataError, match=r"the data set r52\+r8 has no split 'dev'; it has train, test"):
            load_documents(DataArguments(dataset="r52+r8", validation_split="dev"))

    def test_a_file_without_text(self, tmp_path):
        (tmp_path / "train.txt").write_text("\n \n")
        with pytest.raises(DataError, match="holds no text"):
            load_documents(arguments({"train_file": str(tmp_path / "train.txt")}))

    def test_a_split_that_is_named_must_exist(self, tmp_path):
        (tmp_path / "train.jsonl").write_text('{"text": "one"}\n')
        with pytest.raises(DataError, match="has no split 'tset'; it has train"):
            load_documents(DataArguments(dataset=str(tmp_path), test_split="tset"))


class TestTokens:
    @pytest.fixture
    def made(self, files):
        args = arguments(files, block_size=4)
        texts = load_documents(args)
        return args, texts, make_tokenizer(args, texts["train"])

    def test_the_tokenizer_puts_the_end_before_each_text(self, made):
        tokenizer = made[2]
        (ids,) = document_tokens(tokenizer, ["six"])
        assert tokenizer("six")["input_ids"] == ids and ids[0] == tokenizer.eos_token_id == tokenizer.bos_token_id
        assert tokenizer.decode(ids, skip_special_tokens=True) == "six"
        parts = [
            tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in (" one\n", "six ")
        ]
        assert parts == [" one\n", "six "]  # what follows a text can be decoded without it
        assert document_tokens(tokenizer, ["</s>"])[0].count(tokenizer.eos_token_id) == 1  # in a text it is text

    @pytest.mark.parametrize("join", [True, False])
    @pytest.mark.parametrize("stride", [None, 1, 2])
    def test_every_token_and_end_is_a_label_once(self, made, join, stride):
        args, texts, tokenizer = made
        args.join_documents, args.window, args.stride = join, 5, stride
        documents = {split: document_tokens(tokenizer, table["text"][:]) for split, table in texts.items()}
        for split, rows in tokenize(texts, tokenizer, args).items():
            found = [number for row in rows for number in row["labels"][1:] if number != -100]
            expected = [number for ids in documents[split] for number in [*ids[1:], tokenizer.eos_token_id]]
            assert found == expected
            for row in rows:
                assert len(row["input_ids"]) == len(row["labels"]) <= (4 if split == "train" else 5)
                assert all(label in (-100, token) for token, label in zip(row["input_ids"], row["labels"]))
            assert sum(rows["bytes"]) == sum(len(text.encode()) for text in texts[split]["text"])

    def test_there_may_be_any_number_of_rows(self, made):
        args, _, tokenizer = made
        text = Dataset.from_dict({"text": ["seven six " * 12_000]})
        rows = tokenize(DatasetDict({"train": text}), tokenizer, args)["train"]
        (tokens,) = document_tokens(tokenizer, text["text"][:])
        labels = [number for row in rows["labels"] for number in row[1:] if number != -100]
        assert len(rows) > 30_000 and labels == [*tokens[1:], tokenizer.eos_token_id]

    def test_documents_that_are_not_joined_begin_without_a_past(self, made):
        args, texts, tokenizer = made
        args.join_documents = False
        rows = tokenize(texts, tokenizer, args)["test"]
        begins = [row for row in rows if row["bytes"]]
        assert [row["input_ids"][0] for row in begins] == [tokenizer.eos_token_id] * 2
        assert [row["bytes"] for row in begins] == [9, 3]


def test_pages_of_the_help_share_no_paragraph(tmp_path, monkeypatch):
    folder = tmp_path / "usr/share/libreoffice/help/en-US/text"
    folder.mkdir(parents=True)
    names = {split: pages_of(split, 2) for split in ("train", "validation", "test")}
    for split, (one, other) in names.items():
        body = f'<h1 id="hd_1">Same title</h1><p id="par_2">Of {split}.</p><p id="par_3">Of {split}.</p>'
        (folder / one).write_text(page(body))
        (folder / other).write_text(page('<h1 id="hd_1">same  TITLE</h1>'))
    monkeypatch.setattr(libreoffice_help, "fetch_debian_packages", lambda names, cache_dir: tmp_path)
    texts = language_modeling.load_help_pages("en")
    assert texts["train"]["text"][:] in (["Same title\nOf train."], ["same TITLE", "Of train."])
    assert [texts[split]["text"][:] for split in ("test", "validation")] == [["Of test."], ["Of validation."]]
