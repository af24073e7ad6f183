"""Exported models without torch: numpy, onnxruntime and tokenizers alone (and soundfile for audio files)."""
