"""The benchmark of packed rows runs."""

import pytest

from benchmarks import packing


def test_prints_and_writes_a_row_for_each_order_of_each_model(tmp_path, capsys):
    packing.main(["--quick", "--data", "r8", "--mixer", "dynamic_conv", "--output", str(tmp_path / "table.md")])
    table = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("|")[1:5]] for line in table.splitlines() if "float32" in line]
    assert rows == [["r8", "float32", "dynamic_conv", order] for order in packing.ORDERS]
    assert (tmp_path / "table.md").read_text() == table


@pytest.mark.parametrize("order", packing.ORDERS)
@pytest.mark.parametrize("name", packing.DATA)
def test_padded_and_packed_batches_have_the_same_texts(name, order):
    values, lengths = packing.recipe_of(name, packing.parse(["--quick"]))
    model = packing.build(values, "dynamic_conv", len(lengths[0]) == 2, packing.parse([])).eval()
    for batch in packing.batches(lengths, order, values, model, 3):
        padded, packed = batch["padded"], batch["packed"]
        real = padded["input_ids"][padded["attention_mask"] == 1]
        assert real.tolist() == packed["input_ids"][0].tolist()
        assert packing.real_tokens(packed) == len(real) + (padded["labels"] != -100).sum() * (len(lengths[0]) == 2)
        assert model(**padded).loss.item() == pytest.approx(model(**packed).loss.item(), rel=1e-5)
        assert 0 <= packing.padding(batch) < 1
