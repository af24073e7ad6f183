"""Recordings for tests."""

import json

import numpy as np
import soundfile

RATE = 8000


def write_audio(path, seconds=0.5, seed=0, rate=RATE):
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(seed).uniform(-0.5, 0.5, round(seconds * rate))
    soundfile.write(path, samples, rate)
    return samples


def write_manifest(folder, rows):
    """A manifest of rows (path, seconds, text); the recordings are written too."""
    for seed, (name, seconds, _) in enumerate(rows):
        write_audio(folder / name, seconds, seed)
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(json.dumps({"path": name, "text": text}) + "\n" for name, _, text in rows))
    return str(manifest)
