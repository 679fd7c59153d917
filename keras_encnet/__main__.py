"""`python -m keras_encnet` is `keras-encnet`."""

import sys

from keras_encnet.cli import main

if __name__ == "__main__":
    sys.exit(main())
