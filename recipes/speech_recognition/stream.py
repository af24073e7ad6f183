"""Recognise speech while it is spoken: words are printed as they come.

    python recipes/speech_recognition/stream.py MODEL_DIR FILE [--key value ...]

The same as ``seqdyconv stream``.
"""

import seqdyconv.interrupts  # noqa: F401  # Ctrl-C ends the imports quietly too
from seqdyconv.commands.stream import main

if __name__ == "__main__":
    main()
