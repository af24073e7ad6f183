"""Write down what is said in audio files.

    python recipes/speech_recognition/transcribe.py MODEL_DIR FILE... [--format text|json|srt] [--key value ...]

The same as ``seqdyconv transcribe``.
"""

from seqdyconv.commands.transcribe import main

if __name__ == "__main__":
    main()
