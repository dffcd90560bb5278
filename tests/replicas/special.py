"""Replicas that are not a Transformer with modules after it: tables of vectors, older folders, adapters, and others."""

import json
import shutil
from pathlib import Path
from typing import Any

import gliner_models
import sentence_transformers
import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file
from sentence_transformers.base.modules import Normalize
from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding, WordEmbeddings
from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer

from replicas import build as plain
from replicas.table import Replica
from replicas.vocabularies import files_of

WORDS = ["PADDING_TOKEN", "the", "cat", "dog", "film", "love", "is", "good", "today", "Berlin"]
CHAT = """{%- for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}{{ '<|im_start|>assistant\\n' }}"""


def _json(path: Path, **changes: Any) -> None:
    found = json.loads(path.read_text()) if path.is_file() else {}
    plain.write_json(path, {**found, **changes})


def _model(folder: Path, row: Replica) -> None:
    plain.write_model(folder, row)


def static(folder: Path, row: Replica) -> None:
    """A table of vectors by token id, as model2vec's potion models and static-retrieval have it."""
    (folder / "0_StaticEmbedding").mkdir(parents=True)
    (folder / "0_StaticEmbedding" / "tokenizer.json").write_bytes(files_of("wordpiece")["tokenizer.json"])
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "0_StaticEmbedding" / "tokenizer.json"))
    generator = torch.Generator().manual_seed(plain.seed_of(row))
    table = torch.randn(tokenizer.get_vocab_size(), 16, generator=generator)
    modules = [StaticEmbedding(tokenizer, embedding_weights=table.numpy())]
    if row.repo.startswith("minishlab"):
        modules.append(Normalize())
    shutil.rmtree(folder / "0_StaticEmbedding")
    sentence_transformers.SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(folder))


def words(folder: Path, row: Replica) -> None:
    """A table of vectors by word, with their mean."""
    generator = torch.Generator().manual_seed(plain.seed_of(row))
    tokenizer = WhitespaceTokenizer(WORDS, stop_words={"is"}, do_lower_case="glove" in row.repo)
    table = WordEmbeddings(tokenizer, torch.randn(len(WORDS), 8, generator=generator))
    modules = [table, Pooling(8)]
    sentence_transformers.SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(folder))


def before_2(folder: Path, row: Replica) -> None:
    """The layout before sentence-transformers 2: the transformer in a folder of its own, with torch's older files."""
    inner = folder / "0_Transformer"
    inner.mkdir()
    for path in [path for path in folder.iterdir() if path.is_file()]:
        path.rename(inner / path.name)
    plain.write_model(inner, row)
    tensors = load_file(inner / "model.safetensors")
    (inner / "model.safetensors").unlink()
    torch.save(tensors, inner / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    plain.write_json(inner / "sentence_bert_config.json", {"max_seq_length": 24, "do_lower_case": False})
    pooling = {
        "word_embedding_dimension": plain.WIDTH,
        "pooling_mode_cls_token": False,
        "pooling_mode_mean_tokens": True,
    }
    plain.write_json(folder / "1_Pooling" / "config.json", {**pooling, "pooling_mode_max_tokens": False})
    types = {"0_Transformer": "Transformer", "1_Pooling": "Pooling"}
    entries = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (path, kind) in enumerate(types.items())
    ]
    plain.write_json(folder / "modules.json", entries)


def chat(folder: Path, row: Replica) -> None:
    """A decoder whose answer "yes" or "no", or whose one label, scores a pair through a chat template."""
    labels = {"num_labels": 1} if "Sequence" in row.head else {}
    changed = {**row.config, **labels, "tie_word_embeddings": True}
    plain.write_model(folder, Replica(**{**vars(row), "config": changed}))
    (folder / "chat_template.jinja").write_text(CHAT)


def router(folder: Path, row: Replica) -> None:
    """Queries by a table of weights without a transformer, documents by SPLADE."""
    from sentence_transformers import SparseEncoder
    from sentence_transformers.base.modules import Router, Transformer
    from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding, SpladePooling

    source = folder / "source"
    source.mkdir()
    for path in [path for path in folder.iterdir() if path.is_file()]:
        path.rename(source / path.name)
    plain.write_model(source, Replica(**{**vars(row), "head": "ForMaskedLM"}))
    document = Transformer(str(source), transformer_task="fill-mask")
    tokenizer = document.tokenizer
    generator = torch.Generator().manual_seed(plain.seed_of(row))
    table = torch.rand(len(tokenizer), generator=generator)
    query = SparseStaticEmbedding(tokenizer, weight=table)
    pooling = SpladePooling("max", activation_function="log1p_relu" if "v3" in row.repo else "relu")
    modules = [Router.for_query_document([query], [document, pooling])]
    SparseEncoder(modules=modules, device="cpu").save_pretrained(str(folder))
    shutil.rmtree(source)


PYLATE = {"query_prefix": "[Q] ", "document_prefix": "[D] ", "query_length": 12, "document_length": 20}


def pylate(folder: Path, row: Replica) -> None:
    """PyLate's files: a Dense without bias, prefixes that are tokens, and lengths."""
    plain.write_model(folder, row)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    modules = [("", "sentence_transformers.models.Transformer"), ("1_Dense", "pylate.models.Dense.Dense")]
    entries = [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in enumerate(modules)]
    plain.write_json(folder / "modules.json", entries)
    dense = {"in_features": plain.WIDTH, "out_features": 8, "bias": False}
    identity = {"activation_function": "torch.nn.modules.linear.Identity", "use_residual": False}
    plain.write_json(folder / "1_Dense" / "config.json", {**dense, **identity})
    generator = torch.Generator().manual_seed(plain.seed_of(row) + 1)
    save_file(
        {"linear.weight": torch.randn(8, plain.WIDTH, generator=generator)}, folder / "1_Dense" / "model.safetensors"
    )
    expand = tokenizer.mask_token is not None
    settings = {"skiplist_words": [".", ","], "do_query_expansion": expand, "attend_to_expansion_tokens": False}
    versions = {"__version__": {"sentence_transformers": "4.0.2", "transformers": "4.48.2", "pytorch": "2.5.1"}}
    similarity = {"similarity_fn_name": "MaxSim", "prompts": {}, "default_prompt_name": None}
    plain.write_json(folder / "config_sentence_transformers.json", {**versions, **similarity, **PYLATE, **settings})
    plain.write_json(folder / "sentence_bert_config.json", {"max_seq_length": 19, "do_lower_case": False})


def stanford(folder: Path, row: Replica) -> None:
    """The files of Stanford's ColBERT: linear.weight next to the encoder, and artifact.metadata."""
    plain.write_model(folder, row)
    _json(folder / "config.json", architectures=["HF_ColBERT"])
    prefix = "roberta." if row.model in ("camembert", "xlm-roberta") else "bert."
    tensors = {prefix + name: tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    generator = torch.Generator().manual_seed(plain.seed_of(row) + 1)
    tensors["linear.weight"] = torch.randn(8, plain.WIDTH, generator=generator)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    markers = {"query_token_id": "[unused0]", "doc_token_id": "[unused1]", "attend_to_mask_tokens": False}
    plain.write_json(folder / "artifact.metadata", {**markers, "query_maxlen": 12, "doc_maxlen": 20, "dim": 8})


def dpr(folder: Path, row: Replica) -> None:
    """One of DPR's encoders, whose only output is pooled."""
    kind = "Question" if "question" in row.repo else "Context"
    torch.manual_seed(plain.seed_of(row))
    model = getattr(transformers, f"DPR{kind}Encoder")(transformers.DPRConfig(**plain.BERT)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, plain.STD)
    model.save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')


def lm_predictions(folder: Path, row: Replica) -> None:
    """DeBERTa-v3's own file: the masked LM's head has the names of DeBERTa's original code."""
    plain.write_model(folder, Replica(**{**vars(row), "head": "Model"}))
    tensors = {f"deberta.{name}": tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    head = {
        "dense.weight": (plain.WIDTH, plain.WIDTH),
        "dense.bias": (plain.WIDTH,),
        "bias": (plain.BERT["vocab_size"],),
    }
    head |= {"LayerNorm.weight": (plain.WIDTH,), "LayerNorm.bias": (plain.WIDTH,)}
    tensors |= {f"lm_predictions.lm_head.{name}": torch.zeros(shape) for name, shape in head.items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def own_class(folder: Path, row: Replica) -> None:
    """A config of the repo's own code, around a model of transformers."""
    code = {"AutoModelForSequenceClassification": "modeling_hhem_v2.HHEMv2ForSequenceClassification"}
    plain.write_json(
        folder / "config.json", {"model_type": "HHEMv2Config", "foundation": "google/flan-t5-base", "auto_map": code}
    )
    save_file({"t5.shared.weight": torch.zeros(4, 4)}, folder / "model.safetensors", {"format": "pt"})


def gliner(folder: Path, row: Replica) -> None:
    """A model of the gliner package, of which tests have recorded results."""
    gliner_models.make(folder, row.head)


def adapter_hub(folder: Path, row: Replica) -> None:
    """A bottleneck adapter of the adapters library."""
    for path in list(folder.iterdir()):
        path.unlink()
    settings = {
        "architecture": None,
        "mh_adapter": False,
        "output_adapter": True,
        "reduction_factor": 16,
        "non_linearity": "relu",
    }
    found = {
        "config": settings,
        "model_class": "BertAdapterModel",
        "model_name": "allenai/specter2_base",
        "model_type": "bert",
    }
    plain.write_json(folder / "adapter_config.json", {**found, "name": "[PRX]", "version": "0.1.2"})
    down = torch.zeros(2, plain.WIDTH)
    name = "bert.encoder.layer.0.output.adapters.[PRX].adapter_down.0.weight"
    torch.save({name: down}, folder / "pytorch_adapter.bin")


def image_text(folder: Path, row: Replica) -> None:
    """clip-ViT-B-32: one module, CLIPModel, whose folder has the model and its processor."""
    inner = folder / "0_CLIPModel"
    inner.mkdir()
    for path in [path for path in folder.iterdir() if path.is_file()]:
        path.rename(inner / path.name)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    text = {**sizes, "vocab_size": plain.SIZE, "max_position_embeddings": 40, "bos_token_id": 54, "eos_token_id": 55}
    if row.repo.endswith("L-14"):
        text["eos_token_id"] = 2  # as older files have it
    vision = {**sizes, "image_size": 32, "patch_size": 16}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    torch.manual_seed(plain.seed_of(row))
    model = transformers.CLIPModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, plain.STD)
    model.save_pretrained(inner)
    transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(inner)
    entry = {"idx": 0, "name": "0", "path": "0_CLIPModel", "type": "sentence_transformers.models.CLIPModel"}
    plain.write_json(folder / "modules.json", [entry])
