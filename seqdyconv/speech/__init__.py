"""Speech: audio files, features, augmentation and decoding. Needs torchaudio and soundfile (``seqdyconv[speech]``)."""

try:
    import soundfile  # noqa: F401
    import torchaudio  # noqa: F401
except Exception as error:  # torchaudio beside a torch that does not fit raises ImportError, OSError or RuntimeError
    raise ImportError(
        "seqdyconv.speech needs soundfile, and torchaudio with the torch that it fits: 'torch>=2.11,<2.13' with "
        f"'torchaudio==2.11.0'. Install both by: pip install 'seqdyconv[speech]' ({type(error).__name__}: {error})"
    ) from error

from transformers import AutoFeatureExtractor, AutoProcessor, AutoTokenizer

from seqdyconv.models import SeqDyConvSpeechConfig
from seqdyconv.runtime.audio import AudioInfo, audio_info
from seqdyconv.runtime.samples import AudioError
from seqdyconv.runtime.words import AlignedToken, Word, collapse, to_srt
from seqdyconv.speech.alignment import align, align_words
from seqdyconv.speech.audio import read_audio, read_blocks, resample
from seqdyconv.speech.augmentation import AdditiveNoise, SpecAugment, SpeedPerturbation, add_noise, change_speed
from seqdyconv.speech.ctc import CTCBeamSearch, Transcript, ctc_greedy, greedy_transcripts, word_times
from seqdyconv.speech.decoding import Decoder, SpeechDecodingArguments
from seqdyconv.speech.features import (
    FeatureStream,
    SeqDyConvFeatureExtractor,
    global_statistics,
    log_mel_kaldi,
    log_mel_torch,
)
from seqdyconv.speech.language_model import NGramModel, read_vocabulary, train_ngram_model
from seqdyconv.speech.pipeline import SpeechRecognitionPipeline, register_pipeline
from seqdyconv.speech.processing import SeqDyConvSpeechProcessor
from seqdyconv.speech.recogniser import Recogniser, load_recogniser
from seqdyconv.speech.segments import read_segments
from seqdyconv.speech.stream import RecognitionStream
from seqdyconv.speech.tokenization import SeqDyConvCTCTokenizer, train_character_tokenizer, train_subword_tokenizer

AutoFeatureExtractor.register(SeqDyConvSpeechConfig, SeqDyConvFeatureExtractor)
AutoTokenizer.register(SeqDyConvSpeechConfig, fast_tokenizer_class=SeqDyConvCTCTokenizer)
AutoProcessor.register(SeqDyConvSpeechConfig, SeqDyConvSpeechProcessor)
register_pipeline()

__all__ = [
    "AdditiveNoise",
    "AlignedToken",
    "AudioError",
    "AudioInfo",
    "CTCBeamSearch",
    "Decoder",
    "FeatureStream",
    "NGramModel",
    "Recogniser",
    "RecognitionStream",
    "SeqDyConvCTCTokenizer",
    "SeqDyConvFeatureExtractor",
    "SeqDyConvSpeechProcessor",
    "SpecAugment",
    "SpeechDecodingArguments",
    "SpeechRecognitionPipeline",
    "SpeedPerturbation",
    "Transcript",
    "Word",
    "add_noise",
    "align",
    "align_words",
    "audio_info",
    "change_speed",
    "collapse",
    "ctc_greedy",
    "global_statistics",
    "greedy_transcripts",
    "load_recogniser",
    "log_mel_kaldi",
    "log_mel_torch",
    "read_audio",
    "read_blocks",
    "read_segments",
    "read_vocabulary",
    "resample",
    "to_srt",
    "train_character_tokenizer",
    "train_ngram_model",
    "train_subword_tokenizer",
    "word_times",
]
