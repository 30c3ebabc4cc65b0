"""What a training reads as the observation: which keys of the data, and how their pictures are encoded.

Without the options ``encoder`` and ``obs_keys`` that is ``observation``. With them, the vectors among the keys are
concatenated and normalised together, and pictures go through an encoder (:mod:`rlhive.sim_algos._encoder`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule

from rlhive import keys
from rlhive.data import Field
from rlhive.errors import EnvNotFoundError, InvalidOptionError, ReplayRefusedError
from rlhive.policies import (
    ENV_KWARGS,
    FROZEN,
    PolicyInputs,
    copy_values,
)
from rlhive.rollouts import tasks_by_run
from rlhive.sim_algos._frozen_pictures import FrozenPictures, load_frozen_pictures

if TYPE_CHECKING:
    from rlhive.dataset import RoboHiveDataset

_OBSERVATIONS = (keys.OBSERVATION, (keys.NEXT, keys.OBSERVATION))
_PICTURE_DTYPE = "uint8"

#: Observations that an environment returns without being asked for them by name.
_BY_DEFAULT = (keys.OBSERVATION, keys.PIXELS, keys.DEPTH)

#: Options of a section ``encoder`` about the pictures of collected episodes.
CAMERA_OPTIONS = ("cameras", "image_size", "render_quality")


@dataclass(frozen=True)
class TrainingInputs:
    """Keys of a batch that stand for its observations.

    Attributes:
        vectors: Size of each vector by the column name of its key, in the order in which they are concatenated.
        pictures: Shape of each key of pictures that an encoder is trained for, by its column name.
        feature_dim: Number of features of all pictures together.
        frozen: Pictures that a pretrained encoder turns into some of the vectors.
        policy: What the deployed policy reads; None if that is ``observation``.
        env_kwargs: Arguments with which an environment returns it.
    """

    vectors: Mapping[str, int] = field(default_factory=lambda: {keys.OBSERVATION: 0})
    pictures: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    feature_dim: int = 0
    frozen: tuple[FrozenPictures, ...] = ()
    policy: PolicyInputs | None = None
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def columns(self) -> list[str]:
        """Column names of all keys."""
        return [*self.vectors, *self.pictures]

    def copy_frozen(self, policy: TensorDictModule) -> None:
        """Write the weights of the pretrained encoders into a deployed policy."""
        for index, item in enumerate(self.frozen):
            copy_values(policy.module[0].encoders[index], item.encoder.state_dict())

    def to_json(self) -> dict[str, Any]:
        """Return the entries ``inputs`` and ``env_kwargs`` of ``checkpoint.json``."""
        if self.policy is None:
            return {}
        return {"inputs": self.policy.to_json(), "env_kwargs": dict(self.env_kwargs)}

    def replace_observations(self, in_keys: Iterable[keys.NestedKey]) -> list[keys.NestedKey]:
        """Return keys of a batch with those of the inputs in place of ``observation``."""
        replaced: list[keys.NestedKey] = []
        for key in in_keys:
            is_observation = key in _OBSERVATIONS
            replaced += [_beside(key, column) for column in self.columns] if is_observation else [key]
        return replaced

    def add_pictures(self, in_keys: Iterable[keys.NestedKey]) -> list[keys.NestedKey]:
        """Return keys of a batch with those of the pictures beside ``observation``."""
        in_keys = list(in_keys)
        return [*in_keys, *(_beside(key, name) for key in in_keys if key in _OBSERVATIONS for name in self.pictures)]

    def read(self, batch: TensorDictBase, key: keys.NestedKey) -> torch.Tensor:
        """Return the values of a key of a batch, where ``observation`` stands for the concatenated vectors."""
        if key not in _OBSERVATIONS:
            return batch[key]
        vectors = [batch[_beside(key, column)] for column in self.vectors]
        if len(vectors) == 1:
            return vectors[0]
        return torch.cat(vectors, -1) if vectors else torch.zeros(*batch.batch_size, 0, device=batch.device)


def _beside(observation_key: keys.NestedKey, column: str) -> keys.NestedKey:
    """Return the key of a column at the root or below "next", as the key of an observation is."""
    key = keys.column_to_key(column)
    if observation_key == keys.OBSERVATION:
        return key
    return (keys.NEXT, *((key,) if isinstance(key, str) else key))


def resolve_inputs(
    config: Mapping[str, Any],
    fields: Sequence[Field],
    *,
    env_kwargs: Mapping[str, Any],
    store: Path | None = None,
    context: str,
) -> TrainingInputs | None:
    """Return what a training reads as the observation, by the options ``obs_keys`` and ``encoder``.

    Args:
        config: Configuration.
        fields: What the data or the environment have, the observed fields among them.
        env_kwargs: Arguments with which the environment returns it.
        store: Folder of all datasets for stored data, which have embeddings; None for an environment's own pictures.
        context: Name of the data or the environment, for messages.

    Returns:
        The inputs; None if the training reads ``observation``.

    Raises:
        InvalidOptionError: There are pictures and no encoder; an encoder and no pictures; or a key that does not exist
            or is neither a vector nor pictures.
    """
    obs_keys, encoder = config.get("obs_keys"), config.get("encoder")
    observed = {item.column: item for item in fields if item.observed and item.column != keys.SUCCESS}
    available = [column for column, item in observed.items() if _is_pictures(item)]
    if obs_keys is None and encoder is None:
        if available:
            msg = (
                f"{context} has pictures ({', '.join(available)}), which {config['algorithm']} cannot read without an "
                f"encoder: add encoder=cnn, or obs_keys=[observation] to learn without them"
            )
            raise InvalidOptionError(msg)
        return None
    columns = _list_columns(obs_keys, available, observed, context)
    pictures = {column: observed[column].shape for column in columns if _is_pictures(observed[column])}
    if encoder is None or not pictures:
        if encoder is None and not pictures:
            vectors = {column: _require_vector(observed[column], context) for column in columns}
            return TrainingInputs(vectors, policy=PolicyInputs(vectors, {}), env_kwargs=env_kwargs)
        name = None if encoder is None else encoder["name"]
        advice = "add encoder=cnn" if pictures else f"pictures here: {', '.join(available) or 'none'}"
        msg = f"obs_keys={columns} and encoder={name}: expected pictures together with an encoder; {advice}"
        raise InvalidOptionError(msg)
    vectors = {column: _require_vector(observed[column], context) for column in columns if column not in pictures}
    if encoder["name"] not in FROZEN:
        policy = PolicyInputs(vectors, pictures, encoder)
        with torch.device("meta"):
            feature_dim = sum(network.feature_dim for network in policy.make_encoders())
        return TrainingInputs(vectors, pictures, feature_dim, policy=policy, env_kwargs=env_kwargs)
    frozen = tuple(
        load_frozen_pictures(column, shape, encoder, observed, store, context) for column, shape in pictures.items()
    )
    embedded = {item.embedded: item.encoder.feature_dim for item in frozen}
    section = {name: encoder[name] for name in ("name", "model", "resize")}
    policy = PolicyInputs(vectors, pictures, section)
    return TrainingInputs(vectors | embedded, frozen=frozen, policy=policy, env_kwargs=env_kwargs)


def _list_columns(obs_keys: object, pictures: Sequence[str], observed: Mapping[str, Field], context: str) -> list[str]:
    """Return the columns that ``obs_keys`` names; without it all pictures."""
    if obs_keys is None:
        if not pictures:
            msg = f"{context} has no pictures for the encoder: expected a field uint8 [height, width, 3], got "
            raise InvalidOptionError(msg + ", ".join(observed))
        return list(pictures)
    if not isinstance(obs_keys, list) or not obs_keys or not all(isinstance(name, str) for name in obs_keys):
        msg = f"obs_keys: expected a list of names, for example [pixels,robot_jnt], got {obs_keys!r:.80}"
        raise InvalidOptionError(msg)
    unknown = [name for name in obs_keys if name not in observed]
    if unknown or len(set(obs_keys)) != len(obs_keys):
        problem = f"no observation {unknown[0]!r}" if unknown else "no observation twice"
        msg = f"obs_keys: {context} has {problem}, expected some of {', '.join(observed)}"
        raise InvalidOptionError(msg)
    return obs_keys


def _is_pictures(item: Field) -> bool:
    return item.dtype == _PICTURE_DTYPE and len(item.shape) in (3, 4) and item.shape[-1] == 3


def _require_vector(item: Field, context: str) -> int:
    if len(item.shape) != 1 or item.is_ragged or item.is_string:
        msg = f"obs_keys: {item.column} of {context} is {item.dtype} {list(item.shape)}: expected vectors or pictures"
        raise InvalidOptionError(msg)
    return item.width


def list_observations(row: TensorDictBase) -> list[Field]:
    """Return the fields of a batch that are below "next" as well."""
    following = row.get(keys.NEXT, None)
    names = [] if following is None else list(following.keys(True, True))
    return [
        Field.of_array(keys.key_to_column(key), row[key].numpy(force=True), observed=True)
        for key in row.keys(True, True)
        if key in names and isinstance(row[key], torch.Tensor)
    ]


def find_env_kwargs(config: Mapping[str, Any], dataset: "RoboHiveDataset") -> dict[str, Any]:
    """Return the arguments with which an environment returns what is read of a dataset; none if that is unknown.

    Pictures that nothing reads are not rendered: without a GPU one takes longer than the rest of a step.

    Args:
        config: Configuration: ``obs_keys``, which RoboHive returns by name only if it is asked to, and ``encoder``.
        dataset: The dataset; its first run counts.
    """
    try:
        task = next(iter(tasks_by_run(dataset.manifest).values()))
    except (EnvNotFoundError, ReplayRefusedError):
        return {}
    env_kwargs = {name: value for name, value in task.env_kwargs.items() if name in ENV_KWARGS}
    recorded = dataset.manifest.runs[0].get("env")
    robohive: Mapping[str, Any] = recorded if isinstance(recorded, Mapping) and "model_hash" in recorded else {}
    rendering = robohive.get("rendering")
    if isinstance(rendering, Mapping):
        options = {name: rendering[name] for name in (*CAMERA_OPTIONS, keys.DEPTH) if rendering.get(name)}
        env_kwargs = {"from_pixels": True, **options, **env_kwargs}
    if config.get("encoder") is None and env_kwargs.get("from_pixels"):
        env_kwargs = {name: value for name, value in env_kwargs.items() if name not in (*CAMERA_OPTIONS, keys.DEPTH)}
        env_kwargs["from_pixels"] = False
    if not robohive:
        return env_kwargs
    obs_keys = config.get("obs_keys") or ()
    names = [*env_kwargs.get("obs_keys", ()), *(name for name in obs_keys if name not in _BY_DEFAULT)]
    return env_kwargs | ({"obs_keys": list(dict.fromkeys(names))} if names else {})


def refuse_camera_options(config: Mapping[str, Any], context: str) -> None:
    """Raise InvalidOptionError if a training on stored pictures is told how to render them."""
    encoder = config.get("encoder") or {}
    for name in CAMERA_OPTIONS:
        if encoder.get(name) is not None:
            msg = f"encoder.{name}={encoder[name]}: {context} holds its pictures, expected this option online only"
            raise InvalidOptionError(msg)
