"""`python -m fedgloss`."""

import sys

from fedgloss.cli import main

sys.exit(main())
