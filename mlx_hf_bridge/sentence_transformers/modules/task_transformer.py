"""TaskTransformer: an encoder with a LoRA for each task, as jina-embeddings-v3's own module (custom_st.py) has it.

Reference: the module list and model card of jinaai/jina-embeddings-v3. `task` chooses a LoRA and no prompt; prompts are
those of `prompt_name`, as in every model.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from mlx_hf_bridge.inference.model import Model
from mlx_hf_bridge.inference.tokenizer import Text, Tokenizer, Tokens
from mlx_hf_bridge.loading.load import LoadedModel
from mlx_hf_bridge.loading.tasks import check_task, model_of_task
from mlx_hf_bridge.sentence_transformers.modules.input import EncodeOptions, add_prompt
from mlx_hf_bridge.sentence_transformers.modules.transformer import Transformer
from mlx_hf_bridge.sentence_transformers.modules.transformer_settings import TransformerSettings


class TaskTransformer(Transformer):
    """A Transformer that adds the LoRA of the call's task.

    Args:
        loaded: The encoder with its config and weights.
        tokenizer: The tokenizer of the model.
        settings: The content of sentence_bert_config.json.
        overlong: What happens to texts that are too long: "truncate", with a warning once, or "error".
        default_task: The task of calls that name none; None for the weights without a LoRA.
    """

    reference: ClassVar[str] = "custom_st.Transformer"
    forward_kwargs: ClassVar[frozenset[str]] = frozenset({"task"})

    def __init__(
        self,
        loaded: LoadedModel,
        tokenizer: Tokenizer,
        settings: TransformerSettings,
        overlong: str = "truncate",
        default_task: str | None = None,
    ) -> None:
        super().__init__(loaded, tokenizer, settings, overlong)
        self._models: dict[str, Model] = {}
        self.default_task = default_task

    @property
    def default_task(self) -> str | None:
        """The task of calls that name none; it can be set to one of the model's tasks or None."""
        return self._default_task

    @default_task.setter
    def default_task(self, task: str | None) -> None:
        check_task(self.loaded, task)
        self._default_task = task

    def tokens(self, texts: Sequence[Text], options: EncodeOptions) -> list[Tokens]:
        """Tokenize texts with the prompt before each and without white space around them.

        Args:
            texts: Texts, or pairs of texts.
            options: The options of the call; prompt, task, processing_kwargs and overlong are read.

        Returns:
            The tokens of each text, in order, without padding.
        """
        # Before the batches, which may be computed in several threads at once.
        self._model_of(options.task)
        stripped = [_stripped(text) for text in add_prompt(texts, options.prompt)]
        return super().tokens(stripped, replace(options, prompt=""))

    def _model_of(self, task: str | None) -> Any:
        check_task(self.loaded, task)
        if not (chosen := task or self.default_task):
            return self.loaded.model
        if chosen not in self._models:
            self._models[chosen] = model_of_task(self.loaded, chosen)
        return self._models[chosen]

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_models": {}}


def _stripped(text: Text) -> Text:
    return text.strip() if isinstance(text, str) else (text[0].strip(), text[1].strip())
