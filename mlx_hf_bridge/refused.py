"""The encoders of transformers that have no implementation here, each with its reason."""

_IMAGE_PARTNER = (
    "its text tower is part of a model with images or sound, and none of its own checkpoints are text alone"
)
_SEQ2SEQ = "the encoder of a sequence-to-sequence model, used through its decoder"
_LAYOUT = "it needs the places or images of words on a page"
_SPARSE = "its attention is an approximation of its own that no shared block computes"

# model_type -> why; every type that transformers 5.23 has for encoding text is here or has a file under models/.
REFUSED: dict[str, str] = {
    "aimv2": _IMAGE_PARTNER,
    "align": _IMAGE_PARTNER,
    "altclip": _IMAGE_PARTNER,
    "bart": _SEQ2SEQ,
    "blip": _IMAGE_PARTNER,
    "bridgetower": _IMAGE_PARTNER,
    "bros": _LAYOUT,
    "canine": "it reads characters and downsamples them by strided convolution",
    "chinese_clip": _IMAGE_PARTNER,
    "clap": _IMAGE_PARTNER,
    "clipseg": _IMAGE_PARTNER,
    "clvp": _IMAGE_PARTNER,
    "dpr": "its three encoders share one model_type; convert the BERT inside it",
    "embedding_gemma2_text": "it has no released text checkpoint to check against",
    "esmc": "a protein model without a tokenizer for text",
    "flava": _IMAGE_PARTNER,
    "funnel": "it pools tokens between blocks, so that its hidden states have other lengths than its text",
    "groupvit": _IMAGE_PARTNER,
    "layoutlmv2": _LAYOUT,
    "layoutlmv3": _LAYOUT,
    "led": _SEQ2SEQ,
    "lilt": _LAYOUT,
    "longt5": _SPARSE,
    "m2m_100": _SEQ2SEQ,
    "marian": _SEQ2SEQ,
    "markuplm": _LAYOUT,
    "mbart": _SEQ2SEQ,
    "metaclip_2": _IMAGE_PARTNER,
    "mra": _SPARSE,
    "nystromformer": _SPARSE,
    "openai_privacy_filter": "a mixture of experts with attention sinks",
    "owlv2": _IMAGE_PARTNER,
    "owlvit": _IMAGE_PARTNER,
    "pegasus": _SEQ2SEQ,
    "perceiver": "it reads through a latent array of fixed size",
    "prophetnet": _SEQ2SEQ,
    "reformer": _SPARSE,
    "roc_bert": "it needs the shapes and sounds of Chinese characters beside their ids",
    "sam3_lite": _IMAGE_PARTNER,
    "siglip2": _IMAGE_PARTNER,
    "switch_transformers": "a mixture of experts",
    "t5gemma2": _SEQ2SEQ,
    "tapas": "it needs the rows and columns of a table",
    "tipsv2": _IMAGE_PARTNER,
    "udop": _LAYOUT,
    "ultrabert": "it has no released checkpoint to check against",
    "videoprism": _IMAGE_PARTNER,
    "xclip": _IMAGE_PARTNER,
    "xlnet": "it encodes relative places and permutations in an attention of its own",
    "xmod": "it needs the language of each text to choose among adapters",
    "yoso": _SPARSE,
}
