"""Translate standard input to standard output, line by line.

    python recipes/translation/translate.py MODEL_DIR [--key value ...] < in > out

The same as ``seqdyconv translate``.
"""

import seqdyconv.interrupts  # noqa: F401  # Ctrl-C ends the imports quietly too
from seqdyconv.commands.translate import main

if __name__ == "__main__":
    main()
