"""The errors of this package: one tree, each also a subclass of what transformers raises for the same fault."""

# Messages name values of files and arguments, which may have any length; what was given stands first, advice last.
_MOST_CHARACTERS, _FIRST, _LAST = 1800, 1200, 500


class BridgeError(Exception):
    """Base class of every error that this package raises deliberately.

    Args:
        *args: The message. A long one is shortened in the middle, and characters that no terminal or log can show are
            escaped.
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*(_shown(part) if isinstance(part, str) else part for part in args))


def _shown(message: str) -> str:
    message = _shortened(message)
    if message.isprintable():
        return message
    # Shortened again: an escaped character has up to ten letters.
    return _shortened(
        "".join(
            letter if letter.isprintable() or letter in "\n\t" else letter.encode("unicode_escape").decode("ascii")
            for letter in message
        )
    )


def _shortened(message: str) -> str:
    left_out = len(message) - _FIRST - _LAST
    if len(message) <= _MOST_CHARACTERS:
        return message
    return f"{message[:_FIRST]} [... {left_out} characters ...] {message[-_LAST:]}"


class BackendError(BridgeError, ImportError):
    """Raised when MLX, or a package that an optional feature needs, cannot be imported."""


class RepositoryError(BridgeError, OSError):
    """Raised when a repo or folder cannot be found, read or written, or lacks a file that is needed."""


class CheckpointError(BridgeError, OSError):
    """Raised when a weight file is broken, truncated, or in a format that cannot be read."""


class ConfigError(BridgeError, ValueError):
    """Raised when a configuration file or option has a missing, contradictory or unsupported value."""


class MissingConfigError(RepositoryError, ConfigError):
    """Raised when a folder has no config.json, which transformers calls an unrecognized model."""


class UnknownDtypeError(ConfigError, AttributeError):
    """Raised when a dtype's name is not known to any library."""


class UnsupportedModelError(BridgeError, ValueError):
    """Raised when a model type, head or module is not implemented here."""


class WeightsError(BridgeError, RuntimeError):
    """Raised when tensors are missing, unexpected, or of another shape than the config says."""


class QuantizationError(BridgeError, ValueError):
    """Raised when a quantization recipe is not possible, or contradicts how the weights are already stored."""


class SizeTargetError(QuantizationError):
    """Raised when a `target_size_mb` cannot be met with the given recipe."""


class InputError(BridgeError, ValueError):
    """Raised when the texts, arrays or arguments of a call are not valid."""


class ArgumentTypeError(BridgeError, TypeError):
    """Raised when an argument is unknown, or has a type that is not accepted."""


class ArgumentAttributeError(ArgumentTypeError, AttributeError):
    """Raised when an argument lacks an attribute or method that is needed of it."""


class ArgumentIndexError(InputError, IndexError):
    """Raised when an argument has too few elements or axes."""


class ArgumentRangeError(InputError, OverflowError):
    """Raised when a number is too large for MLX, numpy or the operating system."""


class ArgumentRuntimeError(InputError, RuntimeError):
    """Raised when a library fails at computing with what it was given."""


class EmptyInputError(InputError, IndexError):
    """Raised when a list is empty where at least one text is needed."""


class FixedSettingError(InputError, AttributeError):
    """Raised when a setting is set that a module does not have, such as the maximum length of static embeddings."""


class TemplateError(InputError, AttributeError):
    """Raised when a hypothesis_template has no placeholder for the label."""


class MaskError(InputError):
    """Raised when a text to be filled in has no mask token, or the tokenizer has none."""


class TopKError(InputError, RuntimeError):
    """Raised when top_k is greater than the number of results."""


class UnknownNameError(BridgeError, KeyError):
    """Raised when a task or option is not one of the known names."""

    def __str__(self) -> str:
        # KeyError's __str__ would put the message in quotes.
        return " ".join(str(part) for part in self.args)


class TokenRangeError(InputError, IndexError):
    """Raised when token ids, token type ids or positions are outside their embedding tables (MLX does not check)."""


class OverlongTextError(InputError):
    """Raised when a text has more tokens than the model takes and `overlong="error"` is set."""


class ForkedProcessError(BridgeError, RuntimeError):
    """Raised in a forked process whose parent used MLX before the fork, where MLX would hang."""


class UnservedUseError(BridgeError, NotImplementedError):
    """Raised when a model on MLX is used as only torch allows: training, gradients, hooks, submodules, parameters."""


class NonFiniteError(BridgeError, FloatingPointError):
    """Raised when a model computes NaN or infinity, which is no embedding or score of a text."""


class FallBackError(BridgeError, RuntimeError):
    """Raised when a model would fall back to torch in zero-change mode, and `strict` forbids that."""


class ServingError(BridgeError, RuntimeError):
    """Base class of the errors of mlx_hf_bridge.serving: a request that is not answered."""


class QueueFullError(ServingError):
    """Raised when a server has as many requests waiting as it takes.

    Args:
        *args: The message.
        retry_after: In how many seconds the request may be taken.
    """

    def __init__(self, *args: object, retry_after: int = 1) -> None:
        super().__init__(*args)
        self.retry_after = retry_after


class RequestLimitError(ServingError, ValueError):
    """Raised when a request has more texts, tokens or bytes than a server takes at once."""


class RequestTimeoutError(ServingError, TimeoutError):
    """Raised when a request has not been answered within the time that a server allows."""


class ShuttingDownError(ServingError):
    """Raised when a server that is shutting down is given a new request."""


class ModelLoadError(ServingError):
    """Raised when a request needs a model that cannot be loaded; the cause is the error of loading it.

    Args:
        *args: The message, for whoever runs the server.
        model: The name of the model, for clients.
    """

    def __init__(self, *args: object, model: str = "") -> None:
        super().__init__(*args)
        self.model = model


class UnservedModelError(ServingError, KeyError):
    """Raised when a request names a model that a server does not have, or has for other tasks."""

    def __str__(self) -> str:
        return " ".join(str(part) for part in self.args)


__all__ = [
    "ArgumentAttributeError",
    "ArgumentIndexError",
    "ArgumentRangeError",
    "ArgumentRuntimeError",
    "ArgumentTypeError",
    "BackendError",
    "BridgeError",
    "CheckpointError",
    "ConfigError",
    "EmptyInputError",
    "FallBackError",
    "FixedSettingError",
    "ForkedProcessError",
    "InputError",
    "MaskError",
    "MissingConfigError",
    "ModelLoadError",
    "NonFiniteError",
    "OverlongTextError",
    "QuantizationError",
    "QueueFullError",
    "RepositoryError",
    "RequestLimitError",
    "RequestTimeoutError",
    "ServingError",
    "ShuttingDownError",
    "SizeTargetError",
    "TemplateError",
    "TokenRangeError",
    "TopKError",
    "UnknownDtypeError",
    "UnknownNameError",
    "UnservedModelError",
    "UnservedUseError",
    "UnsupportedModelError",
    "WeightsError",
]
