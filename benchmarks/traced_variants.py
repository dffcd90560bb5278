"""The 108 variants of transformers' text encoders that benchmarks/traced_models.py traces, one tiny module each."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers

STD = 0.3
SHARED: dict[str, Any] = {
    "vocab_size": 120,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
ROPED = {**SHARED, "num_key_value_heads": 2, "head_dim": 8, **SPECIAL}
T5 = {"vocab_size": 120, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
BART = {
    "vocab_size": 120,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 128,
    "decoder_start_token_id": 1,
    **SPECIAL,
}
TOWER = {**SHARED, "projection_dim": 24, **SPECIAL}

Inputs = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Variant:
    """One row of the table: a config, its model class, and its inputs in addition to ids and mask.

    reason: why transformers' module cannot be traced, or only for one length; "" means that it must pass.
    unchecked: True if its output on a CPU is meaningless, so that it is not tried.
    """

    name: str
    config: Callable[[], Any]
    classes: str
    extra: Callable[[int, int], Inputs] = field(default=lambda batch, length: {})
    reason: str = ""
    unchecked: bool = False

    def module(self, seed: int = 0) -> Any:
        """Return the module with random weights of standard deviation STD, except frozen sinusoids."""
        config = self.config()
        file = importlib.import_module(type(config).__module__.replace("configuration", "modeling"))
        torch.manual_seed(seed)
        module = getattr(file, self.classes)(config).eval()
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.requires_grad:
                    parameter.normal_(0, STD)
        return module


def config_of(config: str, shared: dict[str, Any] = SHARED, **changed: Any) -> Callable[[], Any]:
    """Return a function that builds a config of transformers from {**shared, **changed}."""
    return lambda: getattr(transformers, config)(**{**shared, **changed})


def part_of(config: str, part: str, **changed: Any) -> Callable[[], Any]:
    """Return a function that builds the config of one part of a larger model."""
    return lambda: getattr(importlib.import_module(getattr(transformers, config).__module__), part)(**changed)


def boxes(batch: int, length: int) -> Inputs:
    return {"bbox": torch.randint(0, 60, (batch, length, 2)).sort(dim=2).values.repeat(1, 1, 2)}


def unit_boxes(batch: int, length: int) -> Inputs:
    return {"bbox": boxes(batch, length)["bbox"] / 60}


def characters(batch: int, length: int) -> Inputs:
    names = ("input_shape_ids", "input_pronunciation_ids")
    return {name: torch.randint(0, 20, (batch, length)) for name in names}


def paths(batch: int, length: int) -> Inputs:
    return {name: torch.randint(0, 12, (batch, length, 3)) for name in ("xpath_tags_seq", "xpath_subs_seq")}


def languages(batch: int, length: int) -> Inputs:
    return {"lang_ids": torch.randint(0, 2, (batch,))}


def cells(batch: int, length: int) -> Inputs:
    """Return the seven columns of TAPAS' token types: a question of three tokens, then cells of two tokens."""
    types = torch.randint(0, 2, (batch, length, 7))
    place = torch.clamp((torch.arange(length) - 3) // 2 + 1, min=0)
    types[..., 1], types[..., 2] = place % 3, place // 3
    return {"token_type_ids": types}


def entities(batch: int, length: int) -> Inputs:
    return {
        "entity_ids": torch.randint(1, 9, (batch, 3)),
        "entity_attention_mask": torch.tensor([[1, 1, 0]]).repeat(batch, 1),
        "entity_token_type_ids": torch.randint(0, 2, (batch, 3)),
        # -1 after the end of a mention.
        "entity_position_ids": torch.where(torch.arange(5) < 3, torch.randint(0, length, (batch, 3, 5)), -1),
    }


_XLM = {"vocab_size": 120, "emb_dim": 32, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 128}
_DEBERTA = {**SHARED, "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "type_vocab_size": 0}
_MODERN = {**SHARED, "num_hidden_layers": 3, "local_attention": 8, "global_attn_every_n_layers": 2, **SPECIAL}
_FUNNEL = {"vocab_size": 120, "d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 48, "block_sizes": [1, 1]}
_REFORMER = {
    **SHARED, "attention_head_size": 8, "feed_forward_size": 48, "axial_pos_shape": [8, 16],
    "axial_pos_embds_dim": [16, 16], "local_attn_chunk_length": 4, "lsh_attn_chunk_length": 4, "num_buckets": 4,
    "is_decoder": False, "num_hashes": 1,
}  # fmt: skip
_LONG = {**SHARED, "attention_window": 8}
_GEMMA = {**ROPED, "sliding_window": 8, "query_pre_attn_scalar": 8, "max_position_embeddings": 128}
_PATHS = {
    "max_depth": 3, "xpath_unit_hidden_size": 6, "max_xpath_tag_unit_embeddings": 14, "tag_pad_id": 13,
    "max_xpath_subs_unit_embeddings": 16, "subs_pad_id": 12,
}  # fmt: skip
_ONE_LENGTH = "its graph holds for one length only: transformers' code branches on the length"
_BRANCHES = "its forward branches on values (.item(), nonzero), which no graph records"

VARIANTS = [
    Variant("albert", config_of("AlbertConfig", embedding_size=16), "AlbertModel"),
    Variant("bert", config_of("BertConfig"), "BertModel"),
    Variant("big_bird:full", config_of("BigBirdConfig", attention_type="original_full"), "BigBirdModel"),
    Variant(
        "big_bird:block_sparse",
        config_of("BigBirdConfig", attention_type="block_sparse", block_size=2, num_random_blocks=1),
        "BigBirdModel",
        reason=_ONE_LENGTH,
    ),
    Variant("camembert", config_of("CamembertConfig"), "CamembertModel"),
    Variant(
        "canine", config_of("CanineConfig", num_hash_buckets=60, downsampling_rate=2), "CanineModel", reason=_ONE_LENGTH
    ),
    Variant("convbert", config_of("ConvBertConfig", embedding_size=16, conv_kernel_size=3), "ConvBertModel"),
    Variant("data2vec-text", config_of("Data2VecTextConfig"), "Data2VecTextModel"),
    Variant("deberta", config_of("DebertaConfig", _DEBERTA, position_biased_input=False), "DebertaModel"),
    Variant(
        "deberta-v2:v2",
        config_of("DebertaV2Config", _DEBERTA, conv_kernel_size=3, conv_act="gelu", max_relative_positions=16),
        "DebertaV2Model",
    ),
    Variant(
        "deberta-v2:v3",
        config_of(
            "DebertaV2Config",
            _DEBERTA,
            position_buckets=8,
            max_relative_positions=32,
            share_att_key=True,
            norm_rel_ebd="layer_norm",
            position_biased_input=False,
        ),
        "DebertaV2Model",
    ),
    Variant(
        "distilbert",
        config_of("DistilBertConfig", {}, vocab_size=120, dim=32, n_layers=2, n_heads=4, hidden_dim=48),
        "DistilBertModel",
    ),
    Variant("electra", config_of("ElectraConfig", embedding_size=16), "ElectraModel"),
    Variant("ernie", config_of("ErnieConfig", use_task_id=True), "ErnieModel"),
    Variant("esm:absolute", config_of("EsmConfig", pad_token_id=1, mask_token_id=3), "EsmModel"),
    Variant(
        "esm:rotary(esm2)",
        config_of("EsmConfig", pad_token_id=1, mask_token_id=3, position_embedding_type="rotary", token_dropout=True),
        "EsmModel",
    ),
    Variant("esmc", config_of("EsmcConfig", pad_token_id=1), "EsmcModel"),
    Variant("eurobert", config_of("EuroBertConfig", ROPED), "EuroBertModel"),
    Variant("flaubert", config_of("FlaubertConfig", _XLM), "FlaubertModel"),
    Variant(
        "flaubert:prenorm",
        config_of("FlaubertConfig", _XLM, pre_norm=True),
        "FlaubertModel",
        reason="transformers' own forward fails (EncoderDecoderCache is not subscriptable)",
    ),
    Variant("fnet", config_of("FNetConfig"), "FNetModel"),
    Variant("funnel", config_of("FunnelConfig", _FUNNEL), "FunnelModel", reason=_ONE_LENGTH),
    Variant("funnel:base", config_of("FunnelConfig", _FUNNEL), "FunnelBaseModel", reason=_ONE_LENGTH),
    Variant("gte", config_of("GteConfig"), "GteModel"),
    Variant("ibert", config_of("IBertConfig"), "IBertModel"),
    Variant(
        "ibert:quant",
        config_of("IBertConfig", quant_mode=True),
        "IBertModel",
        reason="it computes in numpy inside forward",
    ),
    Variant("jina_embeddings_v3", config_of("JinaEmbeddingsV3Config"), "JinaEmbeddingsV3Model"),
    Variant("longformer", config_of("LongformerConfig", _LONG), "LongformerModel", reason=_BRANCHES),
    Variant(
        "longformer:noglobal",
        config_of("LongformerConfig", _LONG, attention_window=4),
        "LongformerModel",
        reason=_BRANCHES,
    ),
    Variant("luke:text", config_of("LukeConfig", entity_vocab_size=9, entity_emb_size=8), "LukeModel"),
    Variant("luke:entities", config_of("LukeConfig", entity_vocab_size=9, entity_emb_size=8), "LukeModel", entities),
    Variant("megatron-bert", config_of("MegatronBertConfig"), "MegatronBertModel"),
    Variant(
        "mobilebert", config_of("MobileBertConfig", embedding_size=16, intra_bottleneck_size=16), "MobileBertModel"
    ),
    Variant(
        "mobilebert:ln",
        config_of("MobileBertConfig", embedding_size=16, intra_bottleneck_size=16, normalization_type="layer_norm"),
        "MobileBertModel",
    ),
    Variant("modernbert", config_of("ModernBertConfig", _MODERN), "ModernBertModel"),
    Variant("mpnet", config_of("MPNetConfig"), "MPNetModel"),
    Variant(
        "mra",
        config_of("MraConfig", block_per_row=2),
        "MraModel",
        reason="zeros without its CUDA kernel",
        unchecked=True,
    ),
    Variant("nomic_bert", config_of("NomicBertConfig"), "NomicBertModel"),
    Variant(
        "nystromformer:approx,nomask",
        config_of("NystromformerConfig", num_landmarks=4, segment_means_seq_len=12),
        "NystromformerModel",
        reason="transformers' own landmark branch fails once there is a mask",
    ),
    Variant("nystromformer", config_of("NystromformerConfig"), "NystromformerModel"),
    Variant(
        "openai_privacy_filter",
        config_of("OpenAIPrivacyFilterConfig", ROPED, num_local_experts=4, num_experts_per_tok=2, sliding_window=8),
        "OpenAIPrivacyFilterModel",
    ),
    Variant(
        "perceiver:text",
        config_of(
            "PerceiverConfig",
            {},
            vocab_size=120,
            d_model=32,
            d_latents=24,
            num_latents=6,
            num_blocks=1,
            num_self_attends_per_block=2,
            num_self_attention_heads=4,
            num_cross_attention_heads=4,
            max_position_embeddings=64,
        ),
        "PerceiverModel",
    ),
    Variant(
        "reformer:local",
        config_of("ReformerConfig", _REFORMER, attn_layers=["local", "local"]),
        "ReformerModel",
        reason=_ONE_LENGTH,
    ),
    Variant(
        "reformer:lsh",
        config_of("ReformerConfig", _REFORMER, attn_layers=["lsh", "local"]),
        "ReformerModel",
        reason=_BRANCHES,
    ),
    Variant("rembert", config_of("RemBertConfig", input_embedding_size=16, output_embedding_size=16), "RemBertModel"),
    Variant("roberta", config_of("RobertaConfig"), "RobertaModel"),
    Variant("roberta-prelayernorm", config_of("RobertaPreLayerNormConfig"), "RobertaPreLayerNormModel"),
    Variant(
        "roc_bert",
        config_of(
            "RoCBertConfig",
            shape_embed_dim=8,
            pronunciation_embed_dim=8,
            shape_vocab_size=20,
            pronunciation_vocab_size=20,
        ),
        "RoCBertModel",
        characters,
    ),
    Variant("roformer", config_of("RoFormerConfig", embedding_size=16), "RoFormerModel"),
    Variant("splinter", config_of("SplinterConfig"), "SplinterModel"),
    Variant("squeezebert", config_of("SqueezeBertConfig", embedding_size=32), "SqueezeBertModel"),
    Variant("tapas", config_of("TapasConfig"), "TapasModel", cells),
    Variant("ultrabert", config_of("UltrabertConfig", ROPED), "UltrabertModel"),
    Variant("xlm", config_of("XLMConfig", _XLM), "XLMModel"),
    Variant("xlm-roberta", config_of("XLMRobertaConfig"), "XLMRobertaModel"),
    Variant("xlm-roberta-xl", config_of("XLMRobertaXLConfig"), "XLMRobertaXLModel"),
    Variant(
        "xlnet", config_of("XLNetConfig", {}, vocab_size=120, d_model=32, n_layer=2, n_head=4, d_inner=48), "XLNetModel"
    ),
    Variant(
        "xmod", config_of("XmodConfig", languages=["en_XX", "de_DE"], default_language="de_DE"), "XmodModel", languages
    ),
    Variant("yoso", config_of("YosoConfig", use_expectation=True), "YosoModel"),
    Variant(
        "yoso:lsh",
        config_of("YosoConfig", use_expectation=False),
        "YosoModel",
        reason="its hashing needs a CUDA kernel",
    ),
    Variant("bert-generation", config_of("BertGenerationConfig"), "BertGenerationEncoder"),
    Variant("dpr:question", config_of("DPRConfig"), "DPRQuestionEncoder"),
    Variant("embedding_gemma2_text", config_of("EmbeddingGemma2TextConfig", _GEMMA), "EmbeddingGemma2TextModel"),
    Variant(
        "gemma3_text:bidirectional",
        config_of("Gemma3TextConfig", _GEMMA, use_bidirectional_attention=True),
        "Gemma3TextModel",
    ),
    Variant("bros", config_of("BrosConfig", hidden_size=64), "BrosModel", lambda b, n: {"bbox": torch.rand(b, n, 4)}),
    Variant("layoutlm", config_of("LayoutLMConfig", max_2d_position_embeddings=64), "LayoutLMModel", boxes),
    Variant(
        "layoutlmv3:text",
        config_of(
            "LayoutLMv3Config", max_2d_position_embeddings=64, coordinate_size=6, shape_size=4, visual_embed=False
        ),
        "LayoutLMv3Model",
        boxes,
    ),
    Variant("lilt", config_of("LiltConfig", hidden_size=48, max_2d_position_embeddings=64), "LiltModel", boxes),
    Variant("markuplm", config_of("MarkupLMConfig", **_PATHS), "MarkupLMModel", paths),
    Variant("udop:encoder", config_of("UdopConfig", T5, max_2d_position_embeddings=64), "UdopEncoderModel", unit_boxes),
    Variant("t5:encoder", config_of("T5Config", T5), "T5EncoderModel"),
    Variant("t5v1.1:encoder", config_of("T5Config", T5, feed_forward_proj="gated-gelu"), "T5EncoderModel"),
    Variant("mt5:encoder", config_of("MT5Config", T5), "MT5EncoderModel"),
    Variant("umt5:encoder", config_of("UMT5Config", T5), "UMT5EncoderModel"),
    Variant("longt5:local", config_of("LongT5Config", T5, local_radius=4), "LongT5EncoderModel"),
    Variant(
        "longt5:tglobal",
        config_of("LongT5Config", T5, local_radius=4, encoder_attention_type="transient-global", global_block_size=4),
        "LongT5EncoderModel",
        reason=_ONE_LENGTH,
    ),
    Variant(
        "switch_transformers:encoder",
        config_of("SwitchTransformersConfig", T5, num_experts=4),
        "SwitchTransformersEncoderModel",
        reason="it casts a module inside forward, which torch.export refuses",
    ),
    Variant(
        "t5gemma:encoder",
        lambda: transformers.T5GemmaConfig(
            encoder=transformers.T5GemmaModuleConfig(**_GEMMA),
            decoder=transformers.T5GemmaModuleConfig(**_GEMMA),
            is_encoder_decoder=False,
        ),
        "T5GemmaEncoderModel",
    ),
    Variant(
        "t5gemma2:text_encoder",
        part_of("T5Gemma2Config", "T5Gemma2TextConfig", **_GEMMA, dropout_rate=0.0),
        "T5Gemma2TextEncoder",
    ),
    Variant("bart:encoder", config_of("BartConfig", BART), "BartModel"),
    Variant("mbart:encoder", config_of("MBartConfig", BART), "MBartModel"),
    Variant("m2m_100:encoder", config_of("M2M100Config", BART), "M2M100Model"),
    Variant("pegasus:encoder", config_of("PegasusConfig", BART), "PegasusModel"),
    Variant("marian:encoder", config_of("MarianConfig", BART), "MarianModel"),
    Variant(
        "led:encoder",
        config_of("LEDConfig", BART, attention_window=8, max_encoder_position_embeddings=128),
        "LEDModel",
        reason=_BRANCHES,
    ),
    Variant(
        "prophetnet:encoder",
        config_of(
            "ProphetNetConfig",
            {**SPECIAL},
            vocab_size=120,
            hidden_size=32,
            num_encoder_layers=2,
            num_decoder_layers=1,
            num_encoder_attention_heads=4,
            num_decoder_attention_heads=4,
            encoder_ffn_dim=48,
            decoder_ffn_dim=48,
            max_position_embeddings=128,
        ),
        "ProphetNetModel",
    ),
    Variant("clip_text_model", config_of("CLIPTextConfig", TOWER), "CLIPTextModel"),
    Variant("clip:text_proj", config_of("CLIPTextConfig", TOWER), "CLIPTextModelWithProjection"),
    Variant("chinese_clip:text", config_of("ChineseCLIPTextConfig"), "ChineseCLIPTextModel"),
    Variant("align:text", config_of("AlignTextConfig"), "AlignTextModel"),
    Variant(
        "altclip:text", part_of("AltCLIPConfig", "AltCLIPTextConfig", **SHARED, project_dim=24), "AltCLIPTextModel"
    ),
    Variant("aimv2:text", part_of("Aimv2Config", "Aimv2TextConfig", **TOWER), "Aimv2TextModel"),
    Variant("blip:text", part_of("BlipConfig", "BlipTextConfig", **SHARED, encoder_hidden_size=32), "BlipTextModel"),
    Variant(
        "bridgetower:text", part_of("BridgeTowerConfig", "BridgeTowerTextConfig", **SHARED), "BridgeTowerTextModel"
    ),
    Variant("clap:text", part_of("ClapConfig", "ClapTextConfig", **SHARED), "ClapTextModel"),
    Variant("clipseg:text", part_of("CLIPSegConfig", "CLIPSegTextConfig", **TOWER), "CLIPSegTextModel"),
    Variant("flava:text", part_of("FlavaConfig", "FlavaTextConfig", **SHARED), "FlavaTextModel"),
    Variant("groupvit:text", part_of("GroupViTConfig", "GroupViTTextConfig", **TOWER), "GroupViTTextModel"),
    Variant("metaclip_2:text", part_of("MetaClip2Config", "MetaClip2TextConfig", **TOWER), "MetaClip2TextModel"),
    Variant("owlvit:text", part_of("OwlViTConfig", "OwlViTTextConfig", **TOWER), "OwlViTTextModel"),
    Variant("owlv2:text", part_of("Owlv2Config", "Owlv2TextConfig", **TOWER), "Owlv2TextModel"),
    Variant("siglip:text", part_of("SiglipConfig", "SiglipTextConfig", **SHARED), "SiglipTextModel"),
    Variant("siglip2:text", part_of("Siglip2Config", "Siglip2TextConfig", **SHARED), "Siglip2TextModel"),
    Variant("tipsv2_text_model", config_of("Tipsv2TextConfig"), "Tipsv2TextModel"),
    Variant("sam3_lite_text_text_model", config_of("Sam3LiteTextTextConfig"), "Sam3LiteTextTextModel"),
    Variant("videoprism:text", config_of("VideoPrismTextConfig"), "VideoPrismTextModel"),
    Variant("xclip:text", part_of("XCLIPConfig", "XCLIPTextConfig", **TOWER), "XCLIPTextModel"),
    Variant("clvp:encoder", config_of("ClvpEncoderConfig", TOWER, hidden_size=128), "ClvpEncoder"),
]


class TextPerceiver(torch.nn.Module):
    """PerceiverModel with its text preprocessor, whose input is named input_ids."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        from transformers.models.perceiver import modeling_perceiver

        self.config = config
        read = modeling_perceiver.PerceiverTextPreprocessor(config)
        self.perceiver = modeling_perceiver.PerceiverModel(config, input_preprocessor=read)

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.perceiver.input_preprocessor.embeddings

    def forward(self, input_ids: Any, attention_mask: Any = None, return_dict: bool = True) -> Any:
        return self.perceiver(input_ids, attention_mask, return_dict=return_dict)


def perceiver() -> Any:
    """Return the Perceiver of the table with random weights."""
    config = next(variant.config() for variant in VARIANTS if variant.name == "perceiver:text")
    config.model_type = "perceiver"
    torch.manual_seed(0)
    module = TextPerceiver(config).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, STD)
    return module
