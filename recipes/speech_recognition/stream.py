"""Recognise speech while it is spoken: words are printed as they come.

    python recipes/speech_recognition/stream.py MODEL_DIR FILE [--key value ...]

The same as ``seqdyconv stream``.
"""

from seqdyconv.commands.stream import main

if __name__ == "__main__":
    main()
