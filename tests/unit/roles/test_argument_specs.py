"""Argument specs and defaults say the same: keys, types, values."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

ROLES = Path(__file__).parents[3] / "roles"
NAMES = sorted(path.name for path in ROLES.iterdir())


def load(role, what):
    return yaml.safe_load((ROLES / role / what).read_text())


def value(raw, monkeypatch):
    """The value of a default as Ansible sees it, with nothing set in the inventory or the environment."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    if not isinstance(raw, str):
        return raw
    return Templar(loader=DataLoader(), variables={}).template(trust_as_template(raw))


@pytest.mark.parametrize("role", NAMES)
def test_defaults_and_specs_have_the_same_keys(role):
    options = load(role, "meta/argument_specs.yml")["argument_specs"]["main"]["options"]
    assert set(load(role, "defaults/main.yml")) == set(options)


@pytest.mark.parametrize("role", NAMES)
def test_defaults_are_what_the_specs_say(role, monkeypatch):
    options = load(role, "meta/argument_specs.yml")["argument_specs"]["main"]["options"]
    for name, raw in load(role, "defaults/main.yml").items():
        assert (value(raw, monkeypatch) or None) == (options[name].get("default") or None), name


@pytest.mark.parametrize("role", NAMES)
def test_defaults_have_the_types_of_the_specs(role, monkeypatch):
    options = load(role, "meta/argument_specs.yml")["argument_specs"]["main"]["options"]
    assert all("type" in option and "description" in option for option in options.values())
    values = {name: value(raw, monkeypatch) for name, raw in load(role, "defaults/main.yml").items()}
    given = {name: found for name, found in values.items() if found is not None}
    bare = {name: {key: word for key, word in option.items() if key != "description"} for name, option in options.items()}
    result = ArgumentSpecValidator(bare).validate(given)
    assert result.error_messages == []
    converted = {name: found for name, found in result.validated_parameters.items() if name in given and options[name]["type"] != "path"}
    assert converted == {name: found for name, found in given.items() if options[name]["type"] != "path"}


@pytest.mark.parametrize("role", NAMES)
def test_every_entry_point_has_a_spec_and_every_spec_an_entry_point(role):
    specs = load(role, "meta/argument_specs.yml")["argument_specs"]
    for name, spec in specs.items():
        assert (ROLES / role / "tasks" / f"{name}.yml").exists()
        assert spec["short_description"]
        assert set(spec["options"]) == set(specs["main"]["options"])


@pytest.mark.parametrize("role", NAMES)
def test_secrets_are_marked_as_such(role):
    for name, option in load(role, "meta/argument_specs.yml")["argument_specs"]["main"]["options"].items():
        if option["type"] == "str" and name.endswith(("_api_key", "_token", "_password")):
            assert option.get("no_log") is True, name
