"""The benchmark of the translation model runs."""

import pytest

from benchmarks import translation
from seqdyconv.layers import MIXERS
from seqdyconv.models import SeqDyConvConfig

SMALL = {"hidden_size": 32, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
SMALL |= {"encoder_kernel_sizes": [3], "decoder_kernel_sizes": [3]}


@pytest.fixture(autouse=True)
def small_models(monkeypatch):
    monkeypatch.setattr(translation, "SeqDyConvConfig", lambda **values: SeqDyConvConfig(**values | SMALL))


def test_prints_a_row_for_each_mixer(capsys):
    translation.main(["--rounds", "1", "--tokens", "40", "--length", "4", "--sentences", "2", "--beams", "2"])
    table = capsys.readouterr().out
    assert [name for name in translation.MIXERS if f"| {name} | " in table] == list(translation.MIXERS)
    assert "(1.00×)" in table


def test_all_prints_a_row_for_each_mixer_of_the_package(capsys):
    options = ["--rounds", "1", "--tokens", "40", "--length", "4", "--sentences", "2", "--beams", "2"]
    translation.main([*options, "--mixers", "all"])
    table = capsys.readouterr().out
    assert table.count("×) |\n") == len(MIXERS) + 1  # and a mixed model
