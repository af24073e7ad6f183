"""The translation pipeline; transformers 5 has none of its own left."""

import copy
import math
from typing import Any

from transformers import AutoModelForSeq2SeqLM, Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from seqdyconv.models.control_tokens import read_as_text

TASK = "seq2seq-translation"


class Seq2SeqTranslationPipeline(Pipeline):
    """``pipeline("seq2seq-translation", model=dir)``: texts in, translations out.

    Works with any encoder-decoder that ``AutoModelForSeq2SeqLM`` loads. Keywords of the call: ``num_return_sequences``
    and all others of ``generate()``; without a limit of its own an output has at most 1.5 tokens for each token of the
    source, and 10 more.

    Returns:
        For each text ``{"translation_text": ...}``, or a list of these with ``num_return_sequences`` above 1.

    Example::

        translate = pipeline("seq2seq-translation", model="outputs/translation_quickstart")
        translate("Klicken Sie auf das Symbol.", num_beams=4)  # {'translation_text': 'Click the icon.'}
    """

    _load_tokenizer: Any = True
    _load_processor: Any = False
    _load_image_processor: Any = False
    _load_feature_extractor: Any = False
    model: Any
    tokenizer: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        read_as_text(self.tokenizer)

    def _sanitize_parameters(self, **generate_kwargs: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        return {}, generate_kwargs, {}

    def preprocess(self, input_: str, **kwargs: Any) -> Any:
        if not isinstance(input_, str):
            raise ValueError(f"a translation pipeline takes a str or a list of them, got {type(input_).__name__}")
        return self.tokenizer([input_], return_tensors="pt", split_special_tokens=True)  # a "</s>" in a text is text

    def _forward(self, input_tensors: Any, **generate_kwargs: Any) -> Any:
        source = {name: input_tensors[name] for name in ("input_ids", "attention_mask")}
        limits, config = ("max_new_tokens", "max_length"), generate_kwargs.get("generation_config")
        if not any(generate_kwargs.get(limit) or getattr(config, limit, None) for limit in limits):
            most = math.ceil(1.5 * source["input_ids"].shape[1]) + 10
            if config is None:
                generate_kwargs["max_new_tokens"] = most
            else:
                generate_kwargs["generation_config"] = config = copy.deepcopy(config)
                config.max_new_tokens = most
        output = self.model.generate(**source, **generate_kwargs)
        # One row for each source, so that a batch falls apart into its sources again.
        return {"output_ids": output.unflatten(0, (source["input_ids"].shape[0], -1))}

    def postprocess(self, model_outputs: Any) -> Any:  # type: ignore[override]
        texts = self.tokenizer.batch_decode(model_outputs["output_ids"].flatten(0, -2), skip_special_tokens=True)
        results = [{"translation_text": text} for text in texts]
        return results if len(results) > 1 else results[0]


PIPELINE_REGISTRY.register_pipeline(TASK, Seq2SeqTranslationPipeline, pt_model=AutoModelForSeq2SeqLM, type="text")
