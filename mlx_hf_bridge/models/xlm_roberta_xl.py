"""XLM-R XL and XXL (Goyal et al., arXiv 2105.00572); reference: models/xlm_roberta_xl/modeling_xlm_roberta_xl.py.

Differs from XLM-RoBERTa: norms before each block and after the last layer instead of after each block and the
embeddings.
"""

import dataclasses

from mlx_hf_bridge.architecture.config import OffsetPositionsConfig
from mlx_hf_bridge.layers.encoder import Encoder
from mlx_hf_bridge.models import bert, xlm_roberta


def encoder(config: OffsetPositionsConfig) -> Encoder:
    """Return the encoder."""
    return Encoder(
        bert.embeddings(config, pad_token_id=config.padding_idx, normed=False),
        bert.pre_norm_layers(config),
        final_norm=bert.layer_norm(config),
    )


NAMES = {
    **{hf: path for hf, path in bert.PRE_NORM_NAMES.items() if path != "embeddings.norm"},
    "encoder.layer.{i}.attention.self_attn_layer_norm": "layers.{i}.attention_norm",
    "encoder.layer.{i}.LayerNorm": "layers.{i}.feed_forward_norm",
    "encoder.LayerNorm": "final_norm",
}

FAMILY = dataclasses.replace(
    xlm_roberta.FAMILY,
    model_type="xlm-roberta-xl",
    encoder=encoder,
    names=NAMES,
    hf_prefix="XLMRobertaXL",
    tokenizer="PreTrainedTokenizerFast",
)
