"""``python -m heliodor``: the same as the ``heliodor`` command."""

import sys

from heliodor.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
