"""Scanpy's settings are changed for a while, and set back."""

from enum import Enum

import pytest
import scanpy as sc

from sc_vaenb._scanpy import override, scanpy_1


def test_settings_are_changed_and_set_back():
    before = sc.settings.verbosity, sc.settings.autoshow
    with override(verbosity="debug", autoshow=not before[1]):
        assert sc.settings.verbosity == 4
        assert sc.settings.autoshow is not before[1]
    assert (sc.settings.verbosity, sc.settings.autoshow) == before


def test_an_error_sets_them_back():
    before = sc.settings.autoshow
    with pytest.raises((KeyError, ValueError)), override(autoshow=not before, verbosity="loud"):
        pass
    assert sc.settings.autoshow is before


def test_results_are_those_of_scanpy_1(monkeypatch):
    presets = Enum("Preset", ["ScanpyV1", "Other"])
    monkeypatch.setattr(sc, "Preset", presets, raising=False)
    settings = type("Settings", (), {"preset": presets.Other})
    monkeypatch.setattr(sc, "settings", settings)
    with scanpy_1():
        assert settings.preset is presets.ScanpyV1
    assert settings.preset is presets.Other
