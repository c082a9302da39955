import pytest

from data_prep.problems import RefusedData
from recipe.cxr_grpo.running.training import RunFailed, StoppedEarly, exit_status
from reward_fns.errors import UsageError


@pytest.mark.parametrize(
    ("outcome", "status", "message"),
    [
        (UsageError("no file"), 2, "launch: no file\n"),
        (RunFailed("grpo ended"), 1, "launch: grpo ended\nThe same command resumes.\n"),
        (RefusedData("row 3"), 1, "launch: row 3\n"),
        (OSError("disk full"), 1, "launch: disk full\n"),
        (StoppedEarly("saved at step 3"), 75, "launch: saved at step 3; the same command goes on\n"),
        (KeyboardInterrupt(), 130, "\nlaunch: interrupted, no process is left running; the same command resumes.\n"),
        (None, 0, ""),
        (1, 1, ""),
    ],
)
def test_status_and_message(outcome, status, message, capsys):
    def work():
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    assert exit_status("launch", work) == status
    assert capsys.readouterr().err == message
