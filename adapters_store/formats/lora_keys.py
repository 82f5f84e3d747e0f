"""Every key of PEFT's LoRA configuration, which AdaLoRA's contains."""

from collections.abc import Mapping

from polyad.adapters_store.formats.config_keys import MODULES_TO_SAVE, ConfigKeys, Off

# fan_in_fan_out is among them because PEFT itself sets it by the type of the layer, and A and B are stored the same way
# for both. An initialisation's own config is read only if init_lora_weights names it.
UNUSED: Mapping[str, tuple[type, ...]] = {
    "corda_config": (dict, type(None)),
    "eva_config": (dict, type(None)),
    "fan_in_fan_out": (bool,),
    "loftq_config": (dict, type(None)),
    "lora_dropout": (int, float),
    "lora_ga_config": (dict, type(None)),
    "megatron_core": (str, type(None)),
    "qalora_group_size": (int,),
    "runtime_config": (dict, type(None)),
}

OFF: Off = {
    **MODULES_TO_SAVE,
    "alora_invocation_tokens": ((None,), "adapters that begin at an invocation token (aLoRA) are not supported"),
    "arrow_config": ((None,), "Arrow routing is not supported"),
    "ensure_weight_tying": ((False, None), "adapters on tied embeddings are not supported"),
    "kasa_config": ((None,), "KaSA is not supported"),
    "layer_replication": ((None, []), "it changes the layers of the base model"),
    "megatron_config": ((None,), "Megatron layers are not supported"),
    "monteclora_config": ((None,), "MonteCLoRA is not supported"),
    "target_parameters": ((None, []), "adapters on bare parameters are not supported"),
    "trainable_token_indices": ((None,), "changed token embeddings are not supported"),
    "use_bdlora": ((None, False), "block-diagonal LoRA is not supported"),
    "use_qalora": ((False, None), "QALoRA is not supported"),
    "velora_config": ((None,), "VeLoRA is not supported"),
}

LORA_KEYS = ConfigKeys(
    consumed=frozenset(
        {
            "r",
            "lora_alpha",
            "use_rslora",
            "rank_pattern",
            "alpha_pattern",
            "target_modules",
            "exclude_modules",
            "layers_to_transform",
            "layers_pattern",
            "init_lora_weights",
            "use_dora",
            "lora_bias",
            "bias",
        }
    ),
    unused=UNUSED,
    off=OFF,
)
