"""`python -m keras_encnet`, the same as `keras-encnet`."""

import sys

from keras_encnet.cli import main

if __name__ == "__main__":
    sys.exit(main())
