"""Any model whose forward is one graph: each family of swaps with one of its heads, and every mixer of ours."""

import numpy as np
import pytest
import torch
import transformers

from seqdyconv.deploy import export_model
from seqdyconv.deploy.encoders import task_of, text_examples, write_forward
from seqdyconv.layers import MIXERS
from seqdyconv.models import SeqDyConvConfig, SeqDyConvForQuestionAnswering
from seqdyconv.runtime.folder import Graph
from seqdyconv.swap import swap_self_attention
from tests.swap.zoo import CASES

TEXT_INPUTS = ("input_ids", "token_type_ids", "attention_mask")
# What the recognisers' own graphs do is in test_speech.py.
HEADS = {
    "bert": ("BertForMultipleChoice", "multiple choice", ["logits"]),
    "distilbert": ("DistilBertForQuestionAnswering", "question answering", ["start_logits", "end_logits"]),
    "mpnet": ("MPNetForTokenClassification", "token classification", ["logits"]),
    "albert": ("AlbertForSequenceClassification", "classification", ["logits"]),
    "deberta-v2": ("DebertaV2Model", "encoder", ["last_hidden_state"]),
    "modernbert": ("ModernBertForMaskedLM", "masked language model", ["logits"]),
    "bart": ("BartForSequenceClassification", "classification", ["logits"]),
    "t5": ("T5ForConditionalGeneration", "encoder", ["logits"]),
}


def check(model, examples, batches, folder, outputs, atol=1e-4):
    """Export with some inputs, run with others."""
    write_forward(model, folder, examples)
    graph = Graph(folder / "model.onnx")
    assert list(graph.outputs) == outputs
    for batch in batches:
        with torch.no_grad():
            expected = model(**batch, return_dict=True)
        for name, found in graph.run({name: value.numpy() for name, value in batch.items()}).items():
            np.testing.assert_allclose(found, expected[name].numpy(), atol=atol)


def texts(examples, rows, time):
    """A batch of other sizes: as many rows, the last one padded."""
    batch = {}
    for name, example in examples.items():
        batch[name] = example[:1, ..., :1].expand(rows, *example.shape[1:-1], time).clone()
    ids = torch.randint(4, 40, batch["input_ids"].shape, generator=torch.Generator().manual_seed(time))
    ids[..., time // 2] = 3  # the end, which some heads look for
    batch["input_ids"] = ids
    if rows > 1:
        batch["attention_mask"][-1, ..., time // 2 + 1 :] = 0
        batch["input_ids"] = ids.masked_fill(batch["attention_mask"] == 0, 1)
    if "decoder_input_ids" in batch:
        batch["decoder_input_ids"] = ids[:, :3]
    return batch


@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")
@pytest.mark.parametrize("family", HEADS)
def test_swapped_encoders_give_what_torch_gives_at_any_batch_and_length(family, tmp_path):
    architecture, task, outputs = HEADS[family]
    torch.manual_seed(0)
    config = CASES[family].config()
    for name in ("num_hidden_layers", "n_layers", "encoder_layers", "num_layers"):
        if hasattr(config, name):
            setattr(config, name, 1)  # a second one would double the time of an export, and tell nothing
    model = getattr(transformers, architecture)(config).eval()
    swap_self_attention(model, mixer="dynamic_conv", kernel_size=3)  # convolutions by blocks are in test_graphs.py
    assert task_of(model) == task
    examples = text_examples(model, TEXT_INPUTS)
    batches = [texts(examples, rows, time) for rows, time in ((1, 1), (3, 8), (2, 16), (1, 17), (2, 50))]
    check(model, examples, batches, tmp_path, outputs)


def test_a_folder_of_a_model_of_images(tmp_path):
    model = swap_self_attention(CASES["vit"].model(head=True), mixer="dynamic_conv", kernel_size=9)
    model.save_pretrained(tmp_path / "model")
    transformers.ViTImageProcessorPil(size={"height": 12, "width": 12}).save_pretrained(tmp_path / "model")
    exported = export_model(tmp_path / "model", tmp_path / "exported")
    assert exported.task == "image classification"
    assert (exported.folder / "preprocessor_config.json").is_file()
    images = torch.randn(3, 3, 12, 12)
    found = exported.graph("model").run({"pixel_values": images.numpy()})["logits"]
    with torch.no_grad():
        np.testing.assert_allclose(found, model(images).logits.numpy(), atol=1e-4)


def test_encoders_of_every_mixer_give_what_torch_gives(tmp_path):
    torch.manual_seed(0)
    mixers = list(MIXERS)
    config = SeqDyConvConfig(
        vocab_size=40,
        hidden_size=16,
        is_encoder_decoder=False,
        encoder_layer_types=mixers,
        encoder_kernel_sizes=[9 if mixer == "dynamic_conv" else 3 for mixer in mixers],  # few taps export faster
        encoder_attention_heads=4,
        encoder_ffn_dim=16,
        pad_token_id=1,
    )
    model = SeqDyConvForQuestionAnswering(config).eval()
    examples = text_examples(model, TEXT_INPUTS)
    batches = [texts(examples, rows, time) for rows, time in ((1, 1), (3, 8), (2, 16), (1, 17), (2, 100))]
    check(model, examples, batches, tmp_path, ["start_logits", "end_logits"])
