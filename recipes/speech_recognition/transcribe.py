"""Write down what is said in audio files.

    python recipes/speech_recognition/transcribe.py MODEL_DIR FILE... [--format text|json|srt] [--key value ...]

The same as ``seqdyconv transcribe``.
"""

import seqdyconv.interrupts  # noqa: F401  # Ctrl-C ends the imports quietly too
from seqdyconv.commands.transcribe import main

if __name__ == "__main__":
    main()
