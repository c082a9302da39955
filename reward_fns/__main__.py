"""`python -m reward_fns`."""

import sys

from reward_fns.commands.cli import main

if __name__ == "__main__":
    sys.exit(main())
