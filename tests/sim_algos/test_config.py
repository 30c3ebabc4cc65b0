"""Configurations: composed from conf/, and refused if a name is unknown or the algorithm does not read it."""

import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from rlhive.errors import InvalidOptionError
from rlhive.sim_algos import algorithm_names, make_config
from rlhive.sim_algos._config import GROUPS, check_overrides
from rlhive.sim_algos._registry import CONF_DIR, find_algorithm


def test_overrides_and_groups_compose() -> None:
    config = make_config("iql", "my_org/my_data", overrides=["train.batch_size=8", "split=expert+random", "seed=7"])
    assert config["dataset"] == "my_org/my_data"
    assert (config["train"]["batch_size"], config["split"], config["seed"]) == (8, "expert+random", 7)
    assert make_config("bc", "kitchen_knob1")["split"] == "expert"
    assert make_config("iql", "kitchen_knob1")["split"] is None


def test_groups_may_be_given_with_a_plus_or_without() -> None:
    options = ["network=large", "optim=constant", "evaluation=heldout", "logger=tensorboard"]
    config = make_config("iql", overrides=options)
    assert config["network"]["hidden_sizes"] == [512, 512, 512]
    assert config["network"]["critic_hidden_sizes"] == [128, 128]
    assert (config["optim"]["schedule"], config["evaluation"]["episodes"]) == ("constant", 20)
    assert config == make_config("iql", overrides=[f"+{option}" for option in options])
    plain = make_config("iql")
    assert (plain["evaluation"], plain["exploration"], plain["logger"]) == (None, None, {"name": "csv"})


@pytest.mark.parametrize(
    ("model", "override", "message"),
    [
        ("ppo", "seed=1", r"No algorithm named 'ppo': expected one of bc, "),
        ("bcc", "seed=1", r"Did you mean bc\?"),
        ("bc", "train.nm_steps=5", r"bc has no option train.nm_steps. Similar: train.num_steps"),
        ("bc", "+typo=1", r"bc has no option typo"),
        ("bc", "++typo=1", r"bc has no option typo"),
        ("bc", "optim.actor_lr=1", r"bc has no option optim.actor_lr. Similar: optim.lr"),
        ("bc", "expectile=0.7", r"bc has no option expectile"),
        ("iql", "expectile=0.7", r"iql has no option expectile. Similar: loss.expectile"),
        ("bc", "evaluation.episodes=3", r"bc has no option evaluation.episodes"),
        ("sac", "+exploration=gausian", r"exploration=gausian: expected one of egreedy, gaussian, ou, or null. Did"),
        ("bc", "logger=wandbb", r"Did you mean wandb\?"),
        ("bc", "train.num_steps", r"Error parsing override"),
        ("bc", "train.num_steps=[1", r"Configuration model=bc train.num_steps=\[1"),
    ],
)
def test_names_that_do_not_exist_are_refused_with_similar_ones(model, override, message) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        make_config(model, "toy_point", overrides=[override])


def test_every_combination_of_a_sweep_is_checked() -> None:
    check_overrides(["model=bc,iql", "seed=0,1", "train.num_steps=5,6"])
    with pytest.raises(InvalidOptionError, match=r"iql has no option optim\.lr"):
        check_overrides(["model=bc,iql", "optim.lr=0.1,0.2"])
    with pytest.raises(InvalidOptionError, match=r"optim=linear: expected one of constant, cosine, or null"):
        check_overrides(["model=bc", "optim=cosine,linear"])


def test_every_algorithm_has_a_file_and_every_value_a_comment() -> None:
    assert sorted(path.stem for path in (CONF_DIR / "model").glob("*.yaml")) == algorithm_names()
    for name in algorithm_names():
        assert find_algorithm(name).name == name
        assert make_config(name)["algorithm"] == name


#: Options whose meaning is their name's alone: they stand below a comment of their group or file.
PLAIN = {"name", "num_steps", "lr", "actor_lr", "critic_lr", "weight_decay", "schedule", "algorithm", "split"}


@pytest.mark.parametrize("path", sorted(CONF_DIR.glob("**/*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_option_is_explained(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# ")
    lines = [line for line in text.splitlines() if re.match(r"\s*\w+: .", line) and "hydra" not in line]
    bare = [line.split(":")[0].strip() for line in lines if "#" not in line and not re.match(r"\s*-", line)]
    in_hydra = {"dir", "subdir", "torchrl", "absl"}
    schedules = {"hidden_sizes", "log_every", "eval_every", "batch_size"}
    assert set(bare) <= PLAIN | in_hydra | schedules, bare


def test_every_group_has_files() -> None:
    assert {path.name for path in CONF_DIR.iterdir() if path.is_dir()} == {"model", *GROUPS}
    for group in GROUPS:
        for path in (CONF_DIR / group).glob("*.yaml"):
            assert OmegaConf.load(path)
