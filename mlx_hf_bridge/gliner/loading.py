"""A GLiNER repo loaded: the model with its text encoder, the encoder of labels if it has one, and their tokenizers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_hf_bridge.architecture.family import BASE_TASK
from mlx_hf_bridge.architecture.gliner import FIRST_ADDED_TOKEN, GLINER_FILE, GLINER_KEY, ZERO_SHOT_NER, GLiNERConfig
from mlx_hf_bridge.checkpoints.gliner import read_gliner
from mlx_hf_bridge.checkpoints.sources import HubOptions, locate
from mlx_hf_bridge.conversion.tokenizer_files import load_tokenizer
from mlx_hf_bridge.errors import ConfigError, WeightsError
from mlx_hf_bridge.inference.tokenizer import Tokenizer
from mlx_hf_bridge.loading.load import LoadedModel, load_checkpoint
from mlx_hf_bridge.loading.stored import naming
from mlx_hf_bridge.quantization.recipes import QuantizationLike


@dataclass(frozen=True)
class Part:
    """An encoder with its tokenizer."""

    loaded: LoadedModel
    tokenizer: Tokenizer

    @property
    def max_length(self) -> int:
        """The most tokens of a text."""
        limit = self.loaded.config.max_length
        return min(limit, self.tokenizer.model_max_length or limit)


@dataclass(frozen=True)
class LoadedGLiNER:
    """A GLiNER model that is ready to run.

    Attributes:
        config: The content of gliner_config.json, checked.
        class_token: Id of the token before each label.
        text: The model with its text encoder.
        labels: The encoder of labels; None for a model that reads labels before the text.
    """

    config: GLiNERConfig
    class_token: int
    text: Part
    labels: Part | None = None


def load_gliner(
    name: str | Path, options: HubOptions, quantization_config: QuantizationLike, dtype: Any, show_progress: bool
) -> LoadedGLiNER:
    """Load a GLiNER model, converting its encoders into the cache if that was not done yet.

    Args:
        name: A Hub id, or a folder.
        options: Which files of the Hub to use.
        quantization_config: The recipe for linear layers of the encoders and their token tables; None for float.
        dtype: The dtype that other weights are stored in; "auto" is the checkpoint's own.
        show_progress: Whether to show a progress bar during conversion.

    Returns:
        The model.
    """
    source = locate(name, options)
    with naming(source):
        text, labels = read_gliner(source)
        loaded = load_checkpoint(text, ZERO_SHOT_NER, quantization_config, dtype, show_progress)
        config = GLiNERConfig.from_json(loaded.raw_config[GLINER_KEY])
        of_labels = None
        if labels is not None:
            encoder = load_checkpoint(labels, BASE_TASK, quantization_config, dtype, show_progress)
            of_labels = Part(encoder, _tokenizer(encoder))
        part = Part(loaded, _tokenizer(loaded))
        return LoadedGLiNER(config, _class_token(config, part), part, of_labels)


def _tokenizer(loaded: LoadedModel) -> Tokenizer:
    return load_tokenizer(loaded.folder, loaded.family, loaded.raw_config)


def _class_token(config: GLiNERConfig, part: Part) -> int:
    """Return the id of the token before each label, after adding gliner's tokens where the config says so."""
    tokenizer, rows = part.tokenizer, part.loaded.config.vocab_size
    if config.is_bi_encoder:
        return -1
    if config.adds_tokens:
        tokenizer.add_special_tokens((FIRST_ADDED_TOKEN, config.ent_token, config.sep_token))
        size = len(tokenizer)
        if size != rows:
            raise WeightsError(
                f"the tokenizer has {size} tokens with {config.ent_token} and {config.sep_token}, and the token table "
                f"{rows} rows. Check that the tokenizer belongs to the model."
            )
        return size - 2
    found: int | None = tokenizer.backend.token_to_id(config.ent_token)
    if found is None:
        raise ConfigError(
            f"{GLINER_FILE} has class_token_index={config.class_token_index}, and the tokenizer has no token "
            f"{config.ent_token!r:.80}. Take the tokenizer files of the original checkpoint."
        )
    if found != config.class_token_index:
        raise ConfigError(
            f"{GLINER_FILE} has class_token_index={config.class_token_index}, and {config.ent_token!r:.80} is token "
            f"{found}, so labels would not be found. Take the original files."
        )
    return found
