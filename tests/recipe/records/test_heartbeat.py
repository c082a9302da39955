import json

import pytest

from recipe.cxr_grpo.records import heartbeat


class Run:
    """A folder with heartbeats, watched by a clock that the test moves."""

    def __init__(self, folder, startup_limit=1800.0):
        self.now, self.path = 1000.0, folder / heartbeat.FILE
        self.check = heartbeat.watch(folder, startup_limit, clock=lambda: self.now)

    def beat(self, time, silence_limit=120.0, phase="update"):
        beat = {"time": time, "step": 7, "phase": phase, "pid": 4321, "silence_limit": silence_limit}
        self.path.write_text(json.dumps(beat))
        self.check()

    def later(self, seconds):
        self.now += seconds
        self.check()


def test_a_silent_trainer_is_named_with_phase_step_and_process(tmp_path):
    run = Run(tmp_path)
    run.beat(1.0)
    run.later(119)
    with pytest.raises(heartbeat.Silent) as silent:
        run.later(2)
    assert str(silent.value) == (
        "no heartbeat of the trainer for 121 s (phase 'update', step 7, process 4321), so the run was ended"
    )


def test_a_trainer_that_beats_may_take_as_long_as_it_says(tmp_path):
    run = Run(tmp_path)
    for time in range(100):
        run.now += 55
        run.beat(time, silence_limit=5)  # never less than a minute
    run.beat(101, silence_limit=3600)
    run.later(3599)
    run.beat(102, silence_limit=5)
    with pytest.raises(heartbeat.Silent):
        run.later(61)


def test_its_own_clock_does_not_matter(tmp_path):
    """Another machine's may be hours off."""
    run = Run(tmp_path)
    for time in (5e9, 5e9 + 5, 3.0, 8.0):
        run.now += 50
        run.beat(time)


def test_a_file_that_can_not_be_read_is_no_heartbeat(tmp_path):
    run = Run(tmp_path)
    run.beat(1.0)
    run.path.write_text('{"time": ')
    run.later(119)
    with pytest.raises(heartbeat.Silent):
        run.later(2)


def test_start_up_has_a_limit_of_its_own(tmp_path):
    run = Run(tmp_path, startup_limit=900.0)
    run.later(899)
    with pytest.raises(heartbeat.Silent, match=r"in the first 15 minutes.*--startup-limit"):
        run.later(2)
    run = Run(tmp_path, startup_limit=None)
    run.later(1e6)


def test_the_heartbeat_of_an_earlier_attempt_does_not_count(tmp_path):
    Run(tmp_path).beat(1.0, silence_limit=60)
    run = Run(tmp_path, startup_limit=900.0)
    run.later(899)  # not silent for 60 s: it has not begun
    assert not run.path.exists()
