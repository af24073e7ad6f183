from transformers import AutoTokenizer


def test_minilm_has_its_tokenizer(minilm):
    assert AutoTokenizer.from_pretrained(minilm)("Hello")["input_ids"] == [101, 7592, 102]
    assert (minilm / "model.safetensors").is_file()
