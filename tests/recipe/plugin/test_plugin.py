import importlib
import sys

import pytest

from recipe.cxr_grpo.plugin import change_after_import


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Name of a module that can be imported and is not."""
    (tmp_path / "cxr_grpo_late.py").write_text("value = 1\n\nclass Thing:\n    def method(self):\n        return 2\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "cxr_grpo_late"
    sys.modules.pop("cxr_grpo_late", None)


def test_each_is_called_once_when_the_module_is_there(module):
    called = []

    def change(who):
        return lambda value: called.append((who, value)) or value

    for who in "ab":
        change_after_import(module, "value", change(who))
    assert called == [] and module not in sys.modules
    importlib.import_module(module)
    assert sorted(called) == [("a", 1), ("b", 1)]
    importlib.import_module(module)
    assert len(called) == 2
    change_after_import(module, "value", change("at once"))
    assert called[2:] == [("at once", 1)]


def test_values_and_methods_are_replaced(module):
    change_after_import(module, "value", lambda value: value + 10)
    change_after_import(module, "Thing.method", lambda method: lambda self: 10 * method(self))
    late = importlib.import_module(module)
    assert (late.value, late.Thing().method()) == (11, 20)


def test_a_module_that_is_missing_is_missing():
    change_after_import("cxr_grpo_never", "value", lambda value: value)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("cxr_grpo_never")
