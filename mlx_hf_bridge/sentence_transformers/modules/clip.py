"""CLIPModel: the text side of a CLIP model, whose embedding is the projection of its pooled output.

Reference: sentence_transformers/sentence_transformer/modules/clip_model.py; get_text_features of
transformers/models/clip/modeling_clip.py. Shapes: B texts, D hidden size, P projection size.
"""

from dataclasses import replace
from typing import ClassVar

import mlx.core as mx

from mlx_hf_bridge.checkpoints.checkpoint import open_weight_files, read_checkpoint
from mlx_hf_bridge.checkpoints.sources import HubOptions, locate
from mlx_hf_bridge.errors import WeightsError
from mlx_hf_bridge.inference.model import EncoderOutput
from mlx_hf_bridge.inference.tokenizer import Tokenizer
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.loading.load import LoadedModel
from mlx_hf_bridge.runtime.executor import run
from mlx_hf_bridge.sentence_transformers.modules.base import SENTENCE_EMBEDDING
from mlx_hf_bridge.sentence_transformers.modules.transformer import Transformer
from mlx_hf_bridge.sentence_transformers.modules.transformer_settings import TransformerSettings

_PROJECTION = "text_projection.weight"


class CLIPModel(Transformer):
    """A text encoder whose pooled output is projected into the space that texts and images share.

    Args:
        loaded: The text encoder with its config and weights.
        tokenizer: The tokenizer of the model.
        settings: The content of sentence_bert_config.json.
        overlong: What happens to texts that are too long: "truncate", with a warning once, or "error".
    """

    reference: ClassVar[str] = "sentence_transformers.sentence_transformer.modules.clip_model.CLIPModel"

    def __init__(
        self, loaded: LoadedModel, tokenizer: Tokenizer, settings: TransformerSettings, overlong: str = "truncate"
    ) -> None:
        super().__init__(loaded, tokenizer, settings, overlong)
        self._projection = run(lambda: _read_projection(loaded))

    def _select_output(self, encoded: EncoderOutput, batch: TokenBatch) -> mx.array:
        return super()._select_output(encoded, batch).astype(self._projection.dtype) @ self._projection.T

    def get_embedding_dimension(self) -> int | None:
        """Return the projection size P.

        Returns:
            The number of rows of the projection.
        """
        return int(self._projection.shape[0])


def clip_settings(settings: TransformerSettings) -> TransformerSettings:
    """Return the settings with what CLIPModel reads of the encoder, and what it makes of it.

    Args:
        settings: The settings of its folder.

    Returns:
        Settings that read the pooled output.
    """
    return replace(settings, output=("pooler_output",), module_output_name=SENTENCE_EMBEDDING)


def _read_projection(loaded: LoadedModel) -> mx.array:
    """Return the projection (P, D) in float32."""
    for file in open_weight_files(read_checkpoint(locate(loaded.folder, HubOptions()))):
        if _PROJECTION in file.tensor_infos:
            found = dict(file.arrays())[_PROJECTION].astype(mx.float32)
            mx.eval(found)
            return found
    raise WeightsError(
        f"{loaded.source.name} has no {_PROJECTION}, which makes the embedding of a text. Give the whole CLIP model."
    )
