"""The image classification recipe through its command, and the parts that its figures rest on."""

import json

import pytest
import torch
import yaml
from matplotlib.image import imread

from tests.recipes.commands import RECIPES, check_overwrite, error_of, script

CONFIGS = RECIPES / "image_classification" / "configs"
train = script("image_classification", "train")
LAYERS = train.LAYERS


@pytest.fixture
def words(tmp_path):
    """A command that takes seconds: two seeds, few images, narrow networks."""
    config = yaml.safe_load((CONFIGS / "digits.yaml").read_text())
    config |= {
        "output_dir": str(tmp_path / "run"),
        "seeds": [0, 1],
        "channels": 4,
        "train_size": 64,
        "validation_size": 32,
        "num_train_epochs": 1,
    }
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    return [str(file)]


def test_one_command_compares_all_layers(words, tmp_path, capsys):
    train.main([*words, "--seeds", "0"])
    output_dir = tmp_path / "run"
    names = {"metrics.json", "mixtures.png", "record.json", "results.md", "run.yaml"}
    assert {path.name for path in output_dir.iterdir()} == names
    results = (output_dir / "results.md").read_text()
    assert results.count("\n| ") == len(LAYERS) and results in capsys.readouterr().out
    metrics = json.loads((output_dir / "metrics.json").read_text())
    for layer in LAYERS:
        assert metrics[f"{layer}_test_accuracy"] == metrics[f"{layer}_seed_0_test_accuracy"]
    assert imread(output_dir / "mixtures.png").std() > 0.05
    record = json.loads((output_dir / "record.json").read_text())
    assert record["metrics"] == metrics and record["command"].endswith("--seeds 0")
    assert (record["config"]["seeds"], record["config"]["channels"], "seed" in record["config"]) == ([0], 4, False)


def test_the_networks_learn(words, tmp_path):
    longer = ["--train_size", "899", "--num_train_epochs", "3", "--per_device_train_batch_size", "16"]
    train.main([*words, "--layers", "dyconv", "--seeds", "0", "--validation_size", "400", *longer])
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["dyconv_validation_accuracy"] > 60


def test_a_seed_repeats_and_another_one_differs(words, tmp_path):
    found = []
    for run in ("one", "two"):
        more = ["--train_size", "160", "--per_device_train_batch_size", "8", "--output_dir", str(tmp_path / run)]
        train.main([*words, "--layers", "condconv", *more])
        metrics = json.loads((tmp_path / run / "metrics.json").read_text())
        found.append([metrics[f"condconv_seed_{seed}_test_accuracy"] for seed in (0, 1)])
    assert found[0] == found[1] and found[0][0] != found[0][1]


def test_the_split_is_of_all_images_in_their_order():
    images = train.load_images(899, 449)
    assert [len(part) for part in images.values()] == [899, 449, 449]
    assert [row["labels"].item() for row in images["train"][:10]] == list(range(10))
    whole = torch.stack([row["images"] for part in images.values() for row in part])
    assert whole.shape == (1797, 1, 8, 8) and whole.min() == 0 and whole.max() == 1
    assert len(whole.flatten(1).unique(dim=0)) == 1797  # no image twice, so none is on two sides


def test_static_wide_has_as_many_parameters_as_dyconv():
    models = {layer: train.build_model(layer, channels=8, num_kernels=4) for layer in LAYERS}
    sizes = {layer: sum(weight.numel() for weight in model.parameters()) for layer, model in models.items()}
    assert sizes["static"] < 0.3 * sizes["dyconv"]
    assert sizes["static_wide"] == pytest.approx(sizes["dyconv"], rel=0.05)
    assert sizes["odconv"] == pytest.approx(sizes["dyconv"], rel=0.2)


def test_mixtures_by_digit_are_means_of_those_that_the_network_uses():
    model, used = train.build_model("dyconv", channels=4, num_kernels=3).eval(), []
    for conv in model.convs[1:]:
        conv.register_forward_pre_hook(lambda conv, inputs: used.append(conv.mixture(*inputs).flatten(1)))
    images, labels = torch.rand(5, 1, 8, 8), torch.tensor([0, 0, 2, 2, 2])
    model(images)
    rows = [{"images": image, "labels": label} for image, label in zip(images, labels)]
    means = train.mixtures_by_digit(model, rows)
    assert list(means) == ["convolution 2", "convolution 3"]
    for mean, expected in zip(means.values(), used):
        assert mean.shape == (10, 3) and torch.allclose(mean[2], expected[labels == 2].mean(0))
        assert mean.isnan().all(1).tolist() == [digit not in (0, 2) for digit in range(10)]


def test_summary_and_table():
    runs = [
        {
            "layer": "static",
            "seed": seed,
            "parameters": 1234,
            "megaflops": 0.5,
            "validation_accuracy": 90.0,
            "test_accuracy": test,
            "train_seconds": 2.0,
        }
        for seed, test in enumerate([80.0, 90.0])
    ]
    summary = train.summarise(runs)
    assert summary["static"]["test_accuracy"] == 85 and summary["static"]["test_accuracy_std"] == pytest.approx(50**0.5)
    assert "| 1,234 | 0.50 | 90.00 ± 0.00 | 85.00 ± 7.07 | 2.0 |" in train.table(summary)
    assert train.summarise(runs[:1])["static"]["test_accuracy_std"] == 0
    assert " ± " in train.table(summary) and " ± " not in train.table(train.summarise(runs[:1]))


@pytest.mark.parametrize(
    "more, message",
    [
        (["--layers", "transformer"], "layers must be one of static, static_wide, dyconv, condconv, odconv, got"),
        (["--seeds", "1", "1"], "seeds must be some different values, got [1, 1]"),
        (["--seed", "1"], "seed has no effect here: use seeds"),
        (["--num_kernels", "0"], "num_kernels must be at least 1, got 0"),
        (["--train_size", "0"], "train_size must be at least 1, got 0"),
        (["--annealing_share", "2"], "share must be in (0, 1], got 2.0"),
        (["--train_size", "1700", "--validation_size", "97"], "leave some of the 1797 images to test, got 1700 and 97"),
        (["--chanels", "8"], "chanels"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_bad_arguments(words, more, message, capsys, tmp_path):
    assert message in error_of(train.main, [*words, *more], capsys)
    assert not (tmp_path / "run").exists()


def test_another_run_is_not_overwritten(words, capsys, tmp_path):
    quick = ["--layers", "static", "--seeds", "0"]
    train.main([*words, *quick])
    assert "holds another run: add" in error_of(train.main, [*words, *quick], capsys)
    (tmp_path / "copies").mkdir()
    words = [word for word in words if not word.startswith("--output_dir")]
    check_overwrite(train.main, [*words, *quick], tmp_path / "run", tmp_path / "copies", ["--train_size=1796"], capsys)


@pytest.mark.parametrize("config", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_the_configurations_are_valid_and_carry_their_command(config):
    train.parse_arguments([train.ComparisonArguments, train.DigitsTrainingArguments], [str(config)])
    assert f"python recipes/image_classification/train.py {config.relative_to(RECIPES.parent)}" in config.read_text()
