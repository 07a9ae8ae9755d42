"""`python -m memit_vc`, for launchers such as torchrun."""

from __future__ import annotations

import sys

from memit_vc.cli import main

sys.exit(main())
