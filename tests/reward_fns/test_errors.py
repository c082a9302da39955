import pickle

from reward_fns.errors import ScorerUnavailable, unknown


def test_scorer_unavailable_travels_between_processes():
    error = pickle.loads(pickle.dumps(ScorerUnavailable("gleu", "p7", "returned nan")))
    assert (error.reward, error.sample_id, error.cause) == ("gleu", "p7", "returned nan")
    assert str(error) == "reward 'gleu' failed on sample 'p7': returned nan"


def test_unknown_names_the_nearest_however_far():
    assert "did you mean 'gleu'?" in unknown("reward", "gluee", ["gleu", "box_iou"])
    assert "did you mean" in unknown("reward", "zzz", ["gleu"])


def test_unknown_without_any_valid_name():
    assert unknown("option", "a", []) == "unknown option 'a'; there are none"
