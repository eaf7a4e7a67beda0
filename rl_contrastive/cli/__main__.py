"""`python -m rl_contrastive.cli` is `rlc`."""

import sys

from rl_contrastive.cli import main

sys.exit(main())
