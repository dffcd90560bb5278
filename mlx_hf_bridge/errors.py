"""One tree of errors; each is also a child of the type that transformers raises for the same fault."""


class BridgeError(Exception):
    """Base of every error that this package raises on purpose."""


class BackendError(BridgeError, ImportError):
    """MLX, or a package that one feature needs, cannot be imported."""


class RepositoryError(BridgeError, OSError):
    """A repo or folder cannot be found or read, or lacks a file that is needed."""


class CheckpointError(BridgeError, OSError):
    """A weight file is broken, truncated or in a format that is not read."""


class ConfigError(BridgeError, ValueError):
    """A configuration file has a missing, contradicting or unsupported value."""


class MissingConfigError(RepositoryError, ConfigError):
    """A folder without config.json, which transformers calls an unrecognised model."""


class UnknownDtypeError(ConfigError, AttributeError):
    """A dtype's name that no library knows."""


class UnsupportedModelError(BridgeError, ValueError):
    """The model type, head or module has no implementation here."""


class WeightsError(BridgeError, RuntimeError):
    """Tensors are missing, unexpected or of another shape than the config says."""


class QuantizationError(BridgeError, ValueError):
    """A quantisation recipe is impossible or contradicts what is there."""


class SizeTargetError(QuantizationError):
    """A `target_size_mb` cannot be met by the recipe given."""


class InputError(BridgeError, ValueError):
    """Texts or arguments of a call that cannot be served."""


class ArgumentTypeError(BridgeError, TypeError):
    """An argument that is unknown or of a type that is not taken."""


class EmptyInputError(InputError, IndexError):
    """An empty list where at least one text is needed."""


class TemplateError(InputError, AttributeError):
    """A hypothesis_template that has no place for the label."""


class MaskError(InputError):
    """A text without a mask token, or a tokenizer that has none, where a word is to be filled in."""


class TopKError(InputError, RuntimeError):
    """A top_k of more answers than there are."""


class UnknownNameError(BridgeError, KeyError):
    """A task or option that is not one of the known names."""

    def __str__(self) -> str:
        # KeyError's own would quote the message.
        return " ".join(str(part) for part in self.args)


class TokenRangeError(InputError, IndexError):
    """Ids, segments or positions outside their embedding tables (MLX itself would read foreign memory)."""


class OverlongTextError(InputError):
    """A text has more tokens than the model has positions, and `overlong="error"` was asked."""


class ForkedProcessError(BridgeError, RuntimeError):
    """MLX was used before this process was forked; it would hang."""


class UnservedUseError(BridgeError, NotImplementedError):
    """A use of a model that only torch can serve: training, gradients, hooks, submodules, parameters."""


class FallBackError(BridgeError, RuntimeError):
    """A model would go to torch in zero-change mode, and that was forbidden."""


__all__ = [
    "ArgumentTypeError",
    "BackendError",
    "BridgeError",
    "CheckpointError",
    "ConfigError",
    "EmptyInputError",
    "FallBackError",
    "ForkedProcessError",
    "InputError",
    "MaskError",
    "MissingConfigError",
    "OverlongTextError",
    "QuantizationError",
    "RepositoryError",
    "SizeTargetError",
    "TemplateError",
    "TokenRangeError",
    "TopKError",
    "UnknownDtypeError",
    "UnknownNameError",
    "UnservedUseError",
    "UnsupportedModelError",
    "WeightsError",
]
