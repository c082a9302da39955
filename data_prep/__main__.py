"""`python -m data_prep`."""

import signal
import sys

from data_prep.cli import main

# Ends a run that a scheduler stops as Ctrl-C does: through the clean-up of what is half written.
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
sys.exit(main())
