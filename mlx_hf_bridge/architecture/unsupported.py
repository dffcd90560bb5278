"""The encoder types of transformers that have no native implementation, each with its reason."""

from collections.abc import Mapping
from typing import Any

_IMAGE_PARTNER = "it is a model of text and images or sound, and none of its checkpoints hold only the text encoder"
_IMAGES = "it reads images in addition to text"
_TOWER = "the text encoder of a model of text and images or sound, without a released checkpoint of its own"
_SEQ2SEQ = "the encoder of a sequence-to-sequence model, used through its decoder"
_LAYOUT = "it needs the positions of words on a page, or the page's image"
_SPARSE = "its sparse or approximate attention is not implemented"

# model_type -> reason. Every type that transformers 5.24 has for encoding text is here or has a file in models/.
UNSUPPORTED: dict[str, str] = {
    "aimv2": _IMAGE_PARTNER,
    "aimv2_text_model": _TOWER,
    "align": _IMAGE_PARTNER,
    "altclip": _IMAGE_PARTNER,
    "altclip_text_model": _TOWER,
    "bigbird_pegasus": _SEQ2SEQ,
    "blenderbot": _SEQ2SEQ,
    "blenderbot-small": _SEQ2SEQ,
    "blip": _IMAGE_PARTNER,
    "blip_text_model": _TOWER,
    "bridgetower": _IMAGE_PARTNER,
    "bridgetower_text_model": _TOWER,
    "bros": _LAYOUT,
    "chinese_clip": _IMAGE_PARTNER,
    "clap": _IMAGE_PARTNER,
    "clipseg": _IMAGE_PARTNER,
    "clvp": _IMAGE_PARTNER,
    "clvp_encoder": _TOWER,
    "colmodernvbert": _IMAGES,
    "colpali": _IMAGES,
    "embedding_gemma2_text": "it has no released text checkpoint to compare with",
    "encoder-decoder": "it combines two models; convert the encoder separately",
    "esmc": "a protein model without a tokenizer for text",
    "flava": _IMAGE_PARTNER,
    "fsmt": _SEQ2SEQ,
    "groupvit": _IMAGE_PARTNER,
    "layoutlmv2": _LAYOUT,
    "layoutlmv3": _LAYOUT,
    "groupvit_text_model": _TOWER,
    "lilt": _LAYOUT,
    "lxmert": _IMAGES,
    "m2m_100": _SEQ2SEQ,
    "marian": _SEQ2SEQ,
    "metaclip_2": _IMAGE_PARTNER,
    "modernvbert": _IMAGES,
    "mra": _SPARSE,
    "neomme": _IMAGES,
    "nllb-moe": _SEQ2SEQ,
    "nystromformer": _SPARSE,
    "openai_privacy_filter": "a mixture of experts with attention sinks",
    "owlv2": _IMAGE_PARTNER,
    "owlv2_text_model": _TOWER,
    "owlvit": _IMAGE_PARTNER,
    "owlvit_text_model": _TOWER,
    "pegasus": _SEQ2SEQ,
    "pegasus_x": _SEQ2SEQ,
    "perceiver": "it reads through a latent array of fixed size",
    "prophetnet": _SEQ2SEQ,
    "reformer": _SPARSE,
    "sam3_lite": _IMAGE_PARTNER,
    "sam3_lite_text_text_model": _TOWER,
    "seamless_m4t": _SEQ2SEQ,
    "seamless_m4t_v2": _SEQ2SEQ,
    "siglip2": _IMAGE_PARTNER,
    "switch_transformers": "a mixture of experts",
    "t5gemma2": _SEQ2SEQ,
    "t5gemma2_encoder": _SEQ2SEQ,
    "t5gemma2_text": _SEQ2SEQ,
    "tipsv2": _IMAGE_PARTNER,
    "tipsv2_text_model": _TOWER,
    "udop": _LAYOUT,
    "ultrabert": "it has no released checkpoint to compare with",
    "ultravbert": _IMAGES,
    "videoprism": _IMAGE_PARTNER,
    "videoprism_text_model": _TOWER,
    "xclip": _IMAGE_PARTNER,
    "xclip_text_model": _TOWER,
    "xlnet": "its relative-position attention over permutations is not implemented",
    "yoso": _SPARSE,
}

# Key of config.json in repos whose remote code adds one of several LoRA adapters to the weights.
LORA_KEY = "lora_adaptations"

_BRANCHES = "transformers' code branches on tensor values, which a traced graph cannot record"
# Those of UNSUPPORTED that cannot be traced either -> reason. Any other is traced, or conversion reports why not.
UNTRACEABLE: dict[str, str] = {
    "mra": "without its CUDA kernel transformers computes its attention as zeros, so there is no reference output",
    "reformer": _BRANCHES,
    "switch_transformers": "transformers' code casts a module in its forward pass, which torch.export does not support",
}


def remote_code_note(raw_config: Mapping[str, Any]) -> str:
    """Return a sentence for errors about a repo whose auto_map names code of its own; "" for any other.

    Args:
        raw_config: The content of config.json.

    Returns:
        The sentence with a space at its end, or "".
    """
    return "Its auto_map names remote code of the repo, which is never run. " if raw_config.get("auto_map") else ""
