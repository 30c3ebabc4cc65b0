"""Configurations: composed from conf/, and refused if a name is unknown."""

import pytest

from rlhive.sim_algos import make_config


def test_overrides_and_groups_compose() -> None:
    config = make_config("iql", "my_org/my_data", overrides=["train.batch_size=8", "split=expert+random", "seed=7"])
    assert config["dataset"] == "my_org/my_data"
    assert (config["train"]["batch_size"], config["split"], config["seed"]) == (8, "expert+random", 7)
    assert make_config("bc", "kitchen_knob1")["split"] == "expert"
    assert make_config("iql", "kitchen_knob1")["split"] is None


def test_bad_configurations_name_what_is_expected() -> None:
    with pytest.raises(ValueError, match="expected one of bc, iql, sac"):
        make_config("ppo", "toy_point")
    with pytest.raises(ValueError, match="nm_steps"):
        make_config("bc", "toy_point", overrides=["train.nm_steps=5"])
