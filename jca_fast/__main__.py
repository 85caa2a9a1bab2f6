"""``python -m jca_fast`` is ``jca-fast``."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
