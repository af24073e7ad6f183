"""Translate standard input to standard output, line by line.

    python recipes/translation/translate.py MODEL_DIR [--key value ...] < in > out

The same as ``seqdyconv translate``.
"""

from seqdyconv.commands.translate import main

if __name__ == "__main__":
    main()
