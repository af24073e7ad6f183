"""Classify standard input, line by line, to standard output.

    python recipes/text_classification/predict.py MODEL_DIR [--key value ...] < texts > predictions

The same as ``seqdyconv classify``: every line gives one line, a label, a TAB and its probability.
"""

import seqdyconv.interrupts  # noqa: F401  # Ctrl-C ends the imports quietly too
from seqdyconv.commands.classify import main

if __name__ == "__main__":
    main()
