"""Texts without labels: of several data sets, each text as often as it stands there."""

from seqdyconv.data.sentence_embedding import DataArguments, load_texts


def test_a_file_beside_several_data_sets_is_read_once(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    names = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.jsonl").write_text(f'{{"text": "Of {name}."}}\n')
        names.append(str(tmp_path / name))
    (tmp_path / "own.txt").write_text("Held out.\n")
    args = DataArguments(dataset="+".join(names), validation_file=str(tmp_path / "own.txt"), piece_words=[8])
    found = load_texts(args)
    assert found["train"]["text"][:] == ["Of one.", "Of two."] and found["validation"]["text"][:] == ["Held out."]
    assert load_texts(args, ["validation"])["validation"]["text"][:] == ["Held out."]
