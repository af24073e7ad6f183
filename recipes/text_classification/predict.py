"""Classify standard input, line by line, to standard output.

    python recipes/text_classification/predict.py MODEL_DIR [--key value ...] < texts > predictions

The same as ``seqdyconv classify``: every line gives one line, a label, a TAB and its probability.
"""

from seqdyconv.commands.classify import main

if __name__ == "__main__":
    main()
