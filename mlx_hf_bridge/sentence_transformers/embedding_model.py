"""What the three classes that return embeddings share: their similarity function, and prompts by task."""

from abc import abstractmethod
from collections.abc import Collection
from pathlib import Path
from typing import Any, ClassVar, Unpack

from mlx_hf_bridge.sentence_transformers.base import MLXBaseModel
from mlx_hf_bridge.sentence_transformers.loading.arguments import ConstructorOptions
from mlx_hf_bridge.sentence_transformers.scoring.similarity import check_similarity_name
from mlx_hf_bridge.sentence_transformers.signatures import extends_constructor

# In the order in which they are looked for; sentence-transformers knows the same three names.
_DOCUMENT_PROMPTS = ("document", "passage", "corpus")


@extends_constructor(MLXBaseModel)
class MLXEmbeddingModel(MLXBaseModel):
    """A model that returns embeddings, which a similarity function compares.

    Args:
        model_name_or_path: A folder, or a model id on the Hugging Face Hub. An id without an organization is looked
            up in the class's default organization first. Default: None, which needs `modules`.
        similarity_fn_name: The function that `similarity` and `similarity_pairwise` use. Default: None, the saved one.
        **kwargs: Arguments that all model classes share; MLXBaseModel describes them.
    """

    _similarities: ClassVar[Collection[str]]
    _default_similarity: ClassVar[str]

    def __init__(
        self,
        model_name_or_path: str | Path | None = None,
        *,
        similarity_fn_name: str | None = None,
        **kwargs: Unpack[ConstructorOptions],
    ) -> None:
        super().__init__(model_name_or_path, **kwargs)
        saved = self._saved_config.get("similarity_fn_name")
        # A saved function that this class does not have belongs to another class; a given one is an error.
        use_saved = similarity_fn_name is None and saved in self._similarities
        self.similarity_fn_name = saved if use_saved else similarity_fn_name

    @property
    def similarity_fn_name(self) -> str:
        """The name of the similarity function: the one that was set or saved, else the default of the class."""
        return self._similarity_fn_name or self._default_similarity

    @similarity_fn_name.setter
    def similarity_fn_name(self, name: Any) -> None:
        self._similarity_fn_name = check_similarity_name(name, self._similarities)

    @abstractmethod
    def encode(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the embeddings of texts.

        Args:
            inputs: A text, or a sequence of texts.
            *args: Further arguments of the class's own encode.
            **kwargs: Further arguments of the class's own encode.

        Returns:
            The embeddings, in the order of the texts.
        """

    def get_embedding_dimension(self) -> int | None:
        """Return the width of the embeddings.

        Returns:
            The number of dimensions, or None if no module knows it.
        """
        widths = (module.get_embedding_dimension() for module in reversed(self._modules))
        return next((width for width in widths if width is not None), None)

    def _encode_queries(
        self, inputs: Any, prompt_name: str | None = None, prompt: str | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Encode with the prompt "query", if the model has one and the call names none, and the task "query"."""
        if prompt_name is None and prompt is None and "query" in self.prompts:
            prompt_name = "query"
        return self.encode(inputs, prompt_name, prompt, *args, task="query", **kwargs)

    def _encode_documents(
        self, inputs: Any, prompt_name: str | None = None, prompt: str | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Encode with the model's prompt for documents, if the call names none, and the task "document"."""
        if prompt_name is None and prompt is None:
            prompt_name = next((name for name in _DOCUMENT_PROMPTS if name in self.prompts), None)
        return self.encode(inputs, prompt_name, prompt, *args, task="document", **kwargs)
