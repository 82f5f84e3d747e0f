"""Every key of PEFT's LoRA configuration: what it may hold here, and why not more.

A key is consumed by peft_config.py, or listed here, or unknown. An unknown key is a feature of a newer PEFT: it is
accepted only while it is off, and off is null, false or empty in every optional feature that PEFT ever added.
"""

from collections.abc import Mapping

from polyad.adapters_store.errors import InvalidAdapter

CONSUMED = frozenset(
    {
        "peft_type",
        "task_type",
        "r",
        "lora_alpha",
        "use_rslora",
        "rank_pattern",
        "alpha_pattern",
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
        "base_model_name_or_path",
    }
)

# Settings of training, of the file's origin, or of a step that another key switches on: served output does not
# depend on them. fan_in_fan_out is among them because PEFT itself sets it by the type of the layer, and A and B are
# stored the same way for both. An initialisation's own config is read only if init_lora_weights names it.
UNUSED: Mapping[str, tuple[type, ...]] = {
    "auto_mapping": (dict, type(None)),
    "corda_config": (dict, type(None)),
    "eva_config": (dict, type(None)),
    "fan_in_fan_out": (bool,),
    "inference_mode": (bool,),
    "loftq_config": (dict, type(None)),
    "lora_dropout": (int, float),
    "lora_ga_config": (dict, type(None)),
    "megatron_core": (str, type(None)),
    "peft_version": (str, type(None)),
    "qalora_group_size": (int,),
    "revision": (str, type(None)),
    "runtime_config": (dict, type(None)),
}

# key -> (values that mean "off", why nothing else is served)
OFF: Mapping[str, tuple[tuple[object, ...], str]] = {
    "alora_invocation_tokens": ((None,), "adapters that begin at an invocation token (aLoRA) are not supported"),
    "arrow_config": ((None,), "Arrow routing is not supported"),
    "bias": (("none",), "changed biases are not supported"),
    "ensure_weight_tying": ((False, None), "adapters on tied embeddings are not supported"),
    "kasa_config": ((None,), "KaSA is not supported"),
    "layer_replication": ((None, []), "it changes the layers of the base model"),
    "lora_bias": ((False, None), "LoRA with a bias is not supported"),
    "megatron_config": ((None,), "Megatron layers are not supported"),
    "modules_to_save": ((None, []), "modules trained in full are not supported"),
    "monteclora_config": ((None,), "MonteCLoRA is not supported"),
    "target_parameters": ((None, []), "adapters on bare parameters are not supported"),
    "trainable_token_indices": ((None,), "changed token embeddings are not supported"),
    "use_bdlora": ((None, False), "block-diagonal LoRA is not supported"),
    "use_dora": ((False, None), "DoRA is not supported"),
    "use_qalora": ((False, None), "QALoRA is not supported"),
    "velora_config": ((None,), "VeLoRA is not supported"),
}

# Those that leave the base weights as they are; the trained A and B then say everything.
_INITIALISATIONS = ("gaussian", "orthogonal", "eva")


def check_other_keys(config: Mapping[str, object]) -> None:
    """Raise InvalidAdapter for the first key that is not consumed and says something that is not served."""
    for key, value in config.items():
        field = f"adapter_config.{key[:100]}"
        if key == "init_lora_weights":
            _check_initialisation(field, value)
        elif key in OFF:
            off, reason = OFF[key]
            if not _is_one_of(value, off):
                raise InvalidAdapter(field, value, f"{' or '.join(map(repr, off))} ({reason})")
        elif key in UNUSED:
            if not isinstance(value, UNUSED[key]):
                raise InvalidAdapter(field, value, " or ".join(kind.__name__ for kind in UNUSED[key]))
        elif key not in CONSUMED and not _is_one_of(value, (None, False, [], {})):
            raise InvalidAdapter(field, value, "no such key, or null: polyad does not know what it does")


def _check_initialisation(field: str, value: object) -> None:
    if isinstance(value, bool) or value in _INITIALISATIONS:
        return
    allowed = "true, false, " + ", ".join(map(repr, _INITIALISATIONS))
    raise InvalidAdapter(
        field,
        value,
        f"{allowed}; others may need changed base weights: "
        "save with PEFT's path_initial_model_for_weight_conversion to get a plain LoRA",
    )


def _is_one_of(value: object, allowed: tuple[object, ...]) -> bool:
    # 0 == False in Python, not in JSON
    return any(type(value) is type(item) and value == item for item in allowed)
