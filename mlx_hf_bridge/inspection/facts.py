"""The facts about a model that `inspect` finds."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Inspection:
    """What a model is, and what works with it here.

    Attributes:
        name: The Hub id or folder as given.
        revision: The commit of a Hub repo; None for a folder.
        model_type: `model_type` of config.json; "" for a model without a transformer.
        architectures: The classes that config.json names.
        support: "native", "traced" (transformers' own module runs as a graph), "converted" (already in MLX's format) or
            "refused".
        reason: Why it is traced or refused; "" for others.
        parameters: The number of weights in the files; None if their headers cannot be read before a download.
        dtype: The dtype of most weights as safetensors spells it, such as "F32"; None if unknown.
        tokenizer: The class that reads the tokenizer; None if there is none.
        tokenizer_form: "tokenizer.json" if it is written in that form, "Python" if transformers' own class is used,
            or why it cannot be used; "" if there is none.
        max_length: The most tokens of a text; None for no limit.
        dimension: The size of an embedding; None if it is unknown.
        pooling: The pooling of token embeddings, such as ("mean",); () if there is none.
        modules: The modules that modules.json lists, by their kinds; () without the file.
        prompts: The prompts by name.
        default_prompt_name: The prompt that is used where none is named; None for none.
        similarity: The similarity function; None if the files name none.
        labels: The labels of a classifier; () for others.
        heads: The tasks whose heads the files hold, such as ("fill-mask",).
        sizes: Bytes of the weights as stored ("source") and by dtype and recipe, predicted from headers.
        works: The classes and pipelines that load it, as they are called.
        refused: Classes that one may expect and that end in an error -> the reason.
    """

    name: str
    revision: str | None
    model_type: str
    architectures: tuple[str, ...]
    support: str
    reason: str = ""
    parameters: int | None = None
    dtype: str | None = None
    tokenizer: str | None = None
    tokenizer_form: str = ""
    max_length: int | None = None
    dimension: int | None = None
    pooling: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    similarity: str | None = None
    labels: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
    works: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
