import importlib
import sys

import pytest

from recipe.cxr_grpo.plugin.after import after_import


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Name of a module that can be imported and is not."""
    (tmp_path / "cxr_grpo_late.py").write_text("value = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    yield "cxr_grpo_late"
    sys.modules.pop("cxr_grpo_late", None)


def test_each_is_called_once_when_the_module_is_there(module):
    called, before = [], len(sys.meta_path)
    for who in "ab":
        after_import(module, lambda who=who: called.append((who, sys.modules[module].value)))
    assert called == [] and module not in sys.modules
    importlib.import_module(module)
    assert sorted(called) == [("a", 1), ("b", 1)] and len(sys.meta_path) == before
    after_import(module, lambda: called.append("at once"))
    assert called[2:] == ["at once"]


def test_a_module_that_is_missing_is_missing(module):
    after_import("cxr_grpo_never", lambda: None)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("cxr_grpo_never")
