"""Policies on disk: the networks that are saved, and checkpoints that are written whole and loaded without pickle."""

from typing import TYPE_CHECKING

from rlhive._lazy import attach

if TYPE_CHECKING:
    from rlhive.normalization import Normalizer as Normalizer
    from rlhive.policies._checkpoint import (
        CHECKPOINT_FILE as CHECKPOINT_FILE,
        ENV_KWARGS as ENV_KWARGS,
        check_writable as check_writable,
        load_policy as load_policy,
        read_checkpoint as read_checkpoint,
        read_env_kwargs as read_env_kwargs,
        save_checkpoint as save_checkpoint,
    )
    from rlhive.policies._files import replace_file as replace_file
    from rlhive.policies._frozen import (
        DEFAULT_MODELS as DEFAULT_MODELS,
        DEFAULT_SIZES as DEFAULT_SIZES,
        FROZEN as FROZEN,
        Embedding as Embedding,
        FrozenEncoder as FrozenEncoder,
        copy_values as copy_values,
        describe_embedding as describe_embedding,
        load_frozen_encoder as load_frozen_encoder,
        parse_embedding as parse_embedding,
        save_frozen_weights as save_frozen_weights,
    )
    from rlhive.policies._inputs import (
        InputEncoder as InputEncoder,
        PolicyInputs as PolicyInputs,
        make_picture_encoder as make_picture_encoder,
    )
    from rlhive.policies._mlp import make_mlp as make_mlp, require_activation as require_activation
    from rlhive.policies._networks import (
        ALGORITHM_ENTRY_POINTS as ALGORITHM_ENTRY_POINTS,
        make_actor as make_actor,
        make_deployed_policy as make_deployed_policy,
        make_network as make_network,
        register_network as register_network,
    )
    from rlhive.policies._pictures import CNN as CNN, PictureCNN as PictureCNN
    from rlhive.policies._transformer import (
        predict_actions as predict_actions,
        require_transformer as require_transformer,
        transformer_shapes as transformer_shapes,
    )
else:
    __getattr__, __dir__, __all__ = attach(__name__, __file__)
