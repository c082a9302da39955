"""The exit status of a command."""

import sys
from collections.abc import Callable

from data_prep.problems import RefusedData
from recipe.cxr_grpo.running.training import RunFailed
from reward_fns.errors import UsageError


def exit_status(command: str, work: Callable[[], int | None]) -> int:
    """Returns the exit status of ``work``: its own or 0, 1 if it fails, 2 for wrong use, 130 if it is interrupted."""
    try:
        return work() or 0
    except UsageError as error:
        print(f"{command}: {error}", file=sys.stderr)
        return 2
    except RunFailed as error:
        print(f"{command}: {error}\nThe same command resumes.", file=sys.stderr)
    except (RefusedData, ValueError, OSError) as error:
        print(f"{command}: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print(f"\n{command}: interrupted, no process is left running; the same command resumes.", file=sys.stderr)
        return 130
    return 1
