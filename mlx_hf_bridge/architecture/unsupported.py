"""The encoders of transformers that have no implementation here, each with its reason."""

_IMAGE_PARTNER = (
    "its text tower is part of a model with images or sound, and none of its own checkpoints are text alone"
)
_IMAGES = "it reads images beside text"
_TOWER = "the text tower of a model with images or sound, with no released checkpoint of its own"
_SEQ2SEQ = "the encoder of a sequence-to-sequence model, used through its decoder"
_LAYOUT = "it needs the places or images of words on a page"
_SPARSE = "its attention is an approximation of its own that no shared block computes"

# model_type -> why; every type that transformers 5.23 has for encoding text is here or has a file under models/.
UNSUPPORTED: dict[str, str] = {
    "aimv2": _IMAGE_PARTNER,
    "aimv2_text_model": _TOWER,
    "align": _IMAGE_PARTNER,
    "altclip": _IMAGE_PARTNER,
    "altclip_text_model": _TOWER,
    "bart": _SEQ2SEQ,
    "bigbird_pegasus": _SEQ2SEQ,
    "blenderbot": _SEQ2SEQ,
    "blenderbot-small": _SEQ2SEQ,
    "blip": _IMAGE_PARTNER,
    "blip_text_model": _TOWER,
    "bridgetower": _IMAGE_PARTNER,
    "bridgetower_text_model": _TOWER,
    "bros": _LAYOUT,
    "canine": "it reads characters and downsamples them by strided convolution",
    "chinese_clip": _IMAGE_PARTNER,
    "clap": _IMAGE_PARTNER,
    "clipseg": _IMAGE_PARTNER,
    "clvp": _IMAGE_PARTNER,
    "clvp_encoder": _TOWER,
    "colmodernvbert": _IMAGES,
    "colpali": _IMAGES,
    "dpr": "its three encoders share one model_type; convert the BERT inside it",
    "embedding_gemma2_text": "it has no released text checkpoint to check against",
    "encoder-decoder": "two models in one; convert its encoder by itself",
    "esmc": "a protein model without a tokenizer for text",
    "flava": _IMAGE_PARTNER,
    "flava_text_model": _TOWER,
    "fsmt": _SEQ2SEQ,
    "funnel": "it pools tokens between blocks, so that its hidden states have other lengths than its text",
    "groupvit": _IMAGE_PARTNER,
    "layoutlmv2": _LAYOUT,
    "layoutlmv3": _LAYOUT,
    "groupvit_text_model": _TOWER,
    "led": _SEQ2SEQ,
    "lilt": _LAYOUT,
    "longt5": _SPARSE,
    "lxmert": _IMAGES,
    "m2m_100": _SEQ2SEQ,
    "marian": _SEQ2SEQ,
    "markuplm": _LAYOUT,
    "mbart": _SEQ2SEQ,
    "metaclip_2": _IMAGE_PARTNER,
    "modernvbert": _IMAGES,
    "mra": _SPARSE,
    "mvp": _SEQ2SEQ,
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
    "plbart": _SEQ2SEQ,
    "prophetnet": _SEQ2SEQ,
    "reformer": _SPARSE,
    "roc_bert": "it needs the shapes and sounds of Chinese characters beside their ids",
    "sam3_lite": _IMAGE_PARTNER,
    "sam3_lite_text_text_model": _TOWER,
    "seamless_m4t": _SEQ2SEQ,
    "seamless_m4t_v2": _SEQ2SEQ,
    "siglip2": _IMAGE_PARTNER,
    "switch_transformers": "a mixture of experts",
    "t5gemma2": _SEQ2SEQ,
    "t5gemma2_encoder": _SEQ2SEQ,
    "t5gemma2_text": _SEQ2SEQ,
    "tapas": "it needs the rows and columns of a table",
    "tipsv2": _IMAGE_PARTNER,
    "tipsv2_text_model": _TOWER,
    "udop": _LAYOUT,
    "ultrabert": "it has no released checkpoint to check against",
    "ultravbert": _IMAGES,
    "videoprism": _IMAGE_PARTNER,
    "videoprism_text_model": _TOWER,
    "xclip": _IMAGE_PARTNER,
    "xclip_text_model": _TOWER,
    "xlnet": "it encodes relative places and permutations in an attention of its own",
    "xmod": "it needs the language of each text to choose among adapters",
    "yoso": _SPARSE,
}

# Files that their authors' code alone reads, by their model_type -> what transformers has for them.
REMOTE_CODE_TYPES: dict[str, str] = {
    "new": "gte, as in alibaba-nlp-community/gte-multilingual-base",
}
# A key of config.json that says that the repo's code adds one of several LoRAs to the weights.
LORA_KEY = "lora_adaptations"

_ONE_LENGTH = "transformers' code branches on the length, so that a graph of it holds for one length alone"
_BRANCHES = "transformers' code branches on values, which no graph records"
# Those of UNSUPPORTED that tracing does not save -> why. Any other is traced, or the conversion says why not.
UNTRACEABLE: dict[str, str] = {
    "canine": _ONE_LENGTH,
    "funnel": _ONE_LENGTH,
    "led": _BRANCHES,
    "mra": "without its CUDA kernel transformers computes its attention as zeros, so nothing tells right from wrong",
    "reformer": _BRANCHES,
    "switch_transformers": "transformers' code casts a module while it computes, which torch.export refuses",
}
