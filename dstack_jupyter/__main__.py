"""``python -m dstack_jupyter``: the same as ``jupyter dstack``."""

import sys

from .magics.cli import main

sys.exit(main())
