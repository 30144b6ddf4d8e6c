"""The config that a run was begun with comes back as the dataclass that it was, or is refused by name."""

from dataclasses import dataclass, field

import pytest

from pmpjax.runs import RunError, open_run, read_json, stored_config, write_json


@dataclass(frozen=True)
class Inner:
    rate: float | None = None
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Config:
    seed: int = 0
    inner: Inner = field(default_factory=Inner)
    other: Inner | None = None


def test_it_comes_back_equal_and_is_none_where_there_is_no_run(tmp_path):
    config = Config(3, Inner(0.5, ("a", "b")), Inner(names=("c",)))
    assert stored_config(tmp_path, Config) is None
    with open_run(tmp_path, "test", config):
        pass
    assert stored_config(tmp_path, Config) == config


@pytest.mark.parametrize("place", [(), ("inner",)])
def test_a_field_of_another_version_is_named(tmp_path, place):
    with open_run(tmp_path, "test", Config()):
        pass
    manifest = read_json(tmp_path / "manifest.json")
    at = manifest["config"]
    for name in place:
        at = at[name]
    at["temper"] = 1
    write_json(tmp_path / "manifest.json", manifest)
    with pytest.raises(RunError, match="no field temper"):
        stored_config(tmp_path, Config)
