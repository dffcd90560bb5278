"""What the four model classes share: loading, prompts, preprocessing, worker processes, saving and uploading.

Reference: sentence_transformers/base/model.py.
"""

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mlx_hf_bridge.checkpoints.sources import HubOptions, Source, locate
from mlx_hf_bridge.errors import ArgumentTypeError, InputError, RepositoryError
from mlx_hf_bridge.inference.batching import Results
from mlx_hf_bridge.inference.finite import check_finite
from mlx_hf_bridge.inference.tokenizer import Text
from mlx_hf_bridge.loading.stored import naming
from mlx_hf_bridge.quantization.recipes import QuantizationLike
from mlx_hf_bridge.sentence_transformers.encoding.engine import TextPipeline, encode_texts
from mlx_hf_bridge.sentence_transformers.encoding.inputs import (
    as_list,
    as_text,
    check_optional_count,
    is_batch,
    split_task_dicts,
)
from mlx_hf_bridge.sentence_transformers.encoding.pools import (
    Pool,
    Workers,
    encode_in_pool,
    start_pool,
    stop_pool,
)
from mlx_hf_bridge.sentence_transformers.encoding.results import features_to_numpy
from mlx_hf_bridge.sentence_transformers.loading import saving
from mlx_hf_bridge.sentence_transformers.loading.arguments import (
    check_model_name,
    device_list,
    hub_options,
    parse_load_arguments,
)
from mlx_hf_bridge.sentence_transformers.loading.loader import ModuleLoader
from mlx_hf_bridge.sentence_transformers.loading.settings import check_prompt_name, merge_prompts, read_model_config
from mlx_hf_bridge.sentence_transformers.modules.base import Module
from mlx_hf_bridge.sentence_transformers.modules.input import EncodeOptions, InputModule
from mlx_hf_bridge.sentence_transformers.modules.router import Router, flatten_route
from mlx_hf_bridge.sentence_transformers.older_names import deprecated, older_names
from mlx_hf_bridge.sentence_transformers.signatures import shares_docstring
from mlx_hf_bridge.sentence_transformers.torch_methods import ModelCardData, TorchMethods

logger = logging.getLogger(__name__)

# Keyword arguments of encode that every model takes, whether or not one of its modules reads them.
_NOTHING_POOLED = (
    "; max pooling also gives it for a text of which nothing is pooled, because its prompt fills max_seq_length and "
    "include_prompt is False"
)
_ALWAYS_KNOWN = {"task", "processing_kwargs"}


class MLXBaseModel(TorchMethods, ABC):
    """A pipeline of modules with prompts; the base of the four model classes, which differ in what they return.

    Args:
        model_name_or_path: A folder, or a model id on the Hugging Face Hub. An id without an organization is looked
            up in the class's default organization first. Default: None, which needs `modules`.
        modules: The modules to use instead of those of a checkpoint, in the order in which they run. Default: None.
        device: Accepted for compatibility and ignored: MLX selects its device itself.
        prompts: Texts to put before inputs, by prompt name; they take precedence over the saved ones. Default: None.
        default_prompt_name: The prompt that is used where a call names none; must be a key of the prompts. Default:
            None, the saved name.
        cache_folder: Where downloads from the Hub are kept. Default: None, the environment variable
            SENTENCE_TRANSFORMERS_HOME if it is set, else the Hub's usual cache.
        trust_remote_code: Accepted for compatibility: code in a repository is never run, which a warning says if there
            is some.
        revision: A branch, tag or commit id of the Hub repository. Default: None, its main branch.
        local_files_only: Use downloaded files only, and never the network. Default: False.
        token: An access token of the Hub; True for the one that is saved on this machine. Default: None.
        model_kwargs: Options of the encoder by name: `dtype` (or `torch_dtype`), `quantization_config`, `trace`,
            `variant`, `use_safetensors` and `add_pooling_layer` (as of MLXAutoModel.from_pretrained). Options that
            concern only torch are ignored. Default: None.
        processor_kwargs: Options of the tokenizer: `model_max_length`, `truncation_side`, `do_lower_case` and
            `chat_template`. Default: None.
        config_kwargs: Changes to config.json by name. Default: None.
        model_card_data: Accepted for compatibility and ignored: no new model card is generated from it.
        backend: "mlx" or, as sentence-transformers names its own default, "torch"; both are computed by MLX. Default:
            "mlx".
        quantization_config: How to quantize the weights: the name of a recipe ("q8", "q4", ...), a dict or an
            MLXQuantizationConfig. Default: None, which keeps them as they are.
        dtype: The dtype of unquantized weights: a name such as "float16", or a dtype of MLX or torch. Default: "auto",
            the dtype of the checkpoint, or float16 with quantized weights.
        overlong: What happens to a text of more tokens than `max_seq_length`: "truncate" shortens it and warns once,
            "error" raises OverlongTextError. Default: "truncate".

    Raises:
        InputError: If an argument has a value that is not supported, such as another backend.
        ArgumentTypeError: If neither a model nor modules are given, or an option would change the result and is not
            supported.
        RepositoryError: If the folder or repository cannot be found or read, or lacks a file.
        CheckpointError: If a weight file is damaged.
        ConfigError: If a configuration file has a missing or unsupported value, or a similarity function is unknown.
        UnsupportedModelError: If the model type or one of the modules is not implemented here.
        WeightsError: If tensors are missing, or have another shape than the configuration says.
        QuantizationError: If the weights cannot be quantized as requested.
    """

    model_type: ClassVar[str]
    default_huggingface_organization: ClassVar[str | None] = None
    _default_prompts: ClassVar[Mapping[str, str | None]] = {"query": None, "document": None}

    def __init__(
        self,
        model_name_or_path: str | Path | None = None,
        *,
        modules: Sequence[Module] | None = None,
        device: str | None = None,
        prompts: Mapping[str, str] | None = None,
        default_prompt_name: str | None = None,
        cache_folder: str | Path | None = None,
        trust_remote_code: bool = False,
        revision: str | None = None,
        local_files_only: bool = False,
        token: bool | str | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        processor_kwargs: Mapping[str, Any] | None = None,
        config_kwargs: Mapping[str, Any] | None = None,
        model_card_data: Any = None,
        backend: str = "mlx",
        quantization_config: QuantizationLike = None,
        dtype: Any = "auto",
        overlong: str = "truncate",
    ) -> None:
        if backend not in ("mlx", "torch"):
            raise InputError(f"backend={backend!r} is not supported: this class computes with MLX. Leave it out.")
        self._arguments = parse_load_arguments(
            quantization_config=quantization_config,
            dtype=dtype,
            overlong=overlong,
            model_kwargs=model_kwargs,
            processor_kwargs=processor_kwargs,
            config_kwargs=config_kwargs,
            trust_remote_code=trust_remote_code,
        )
        self.model_card_data = ModelCardData() if model_card_data is None else model_card_data
        saved: dict[str, Any] = {}
        self._name = ""
        self._readme: Path | None = None
        if model_name_or_path is not None:
            folder = os.environ.get("SENTENCE_TRANSFORMERS_HOME") if cache_folder is None else str(cache_folder)
            options = HubOptions(revision, token, folder, local_files_only)
            saved = self._load_repository(check_model_name(model_name_or_path), options)
        elif modules:
            self._modules = list(modules)
        else:
            raise ArgumentTypeError(
                "got neither a model nor modules. Give model_name_or_path, a folder or a model id of the Hub, or "
                "modules, a list with at least one module."
            )
        self._saved_config = saved
        self.prompts = merge_prompts(self._default_prompts, prompts, saved)
        name = saved.get("default_prompt_name") if default_prompt_name is None else default_prompt_name
        self.default_prompt_name = check_prompt_name(name, self.prompts)
        # Without a module that takes texts there is no tokenizer; such a model can still be built and saved.
        if self._input_modules:
            for module in self.all_modules():
                module.on_model_ready(self.tokenizer)

    def _load_repository(self, name: str, options: HubOptions) -> dict[str, Any]:
        """Load the modules of a folder or Hub repository, and return its saved settings."""
        options = hub_options(options, self._arguments, Path(name).expanduser().is_dir())
        source = self._locate(name, options)
        self._name, self._readme = source.name, source.folder / "README.md"
        with naming(source):
            self._modules, saved = self._load(ModuleLoader(source, self._arguments), read_model_config(source.folder))
        return saved

    def _load(self, loader: ModuleLoader, saved: dict[str, Any]) -> tuple[list[Module], dict[str, Any]]:
        """Return the modules, and those of the saved settings that apply to them."""
        entries = loader.read_entries()
        if entries is None:
            # As in sentence-transformers: without modules.json the saved settings are not read.
            return self._default_modules(loader), {}
        saved_type = saved.get("model_type", "SentenceTransformer")
        # Modules of another class may still hold an encoder that this class can put its own modules on.
        if saved_type == self.model_type:
            return loader.load_modules(entries), saved
        logger.warning("%s was saved as a %s and is loaded as a %s", loader.source.name, saved_type, self.model_type)
        return self._default_modules(loader), {}

    @abstractmethod
    def _default_modules(self, loader: ModuleLoader) -> list[Module]:
        """Return the modules for a repository without modules.json."""

    @classmethod
    def _locate(cls, name: str, options: HubOptions) -> Source:
        """Find a folder or Hub repository; a name without an organization is looked up in the default one first."""
        organization = cls.default_huggingface_organization
        is_bare = "/" not in name and "\\" not in name and not Path(name).expanduser().exists()
        if organization is None or not is_bare or not name:
            return locate(name, options)
        try:
            return locate(f"{organization}/{name}", options)
        except RepositoryError as error:
            try:
                return locate(name, options)
            except RepositoryError:
                # The first error names the repository that was most likely meant.
                raise error from None

    def get_model_kwargs(self) -> list[str]:
        """Return the names of the additional keyword arguments that this model's modules read.

        Returns:
            Sorted names, such as ["task"] for a model with a Router; encode or predict takes them next to its own.
        """
        return sorted({name for module in self.all_modules() for name in module.forward_kwargs})

    def is_singular_input(self, inputs: Any) -> bool:
        """Return whether inputs are a single one rather than several.

        Args:
            inputs: What encode or predict was given.

        Returns:
            False for a list, a tuple, an array of texts or a column of a datasets.Dataset; True for anything else.
        """
        return not is_batch(inputs)

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """Tokenize texts the way the model does, and return what its first module would compute on.

        Args:
            inputs: Texts, pairs of texts, or {"text": ...} dicts.
            prompt: A text to put before every input. Default: None.
            **kwargs: What `get_model_kwargs` names, `task`, and `processing_kwargs`, a dict of tokenizer options such
                as {"text": {"max_length": 128}}.

        Returns:
            numpy arrays by name: "input_ids" and "attention_mask" (B, L), both int32; "token_type_ids" (B, L) where
            the tokenizer has them; "modality", always "text"; "prompt_length" with a prompt. {} without inputs.

        Raises:
            InputError: If an input is not a text, an argument is unknown, or the first module takes no texts.
        """
        if not inputs:
            return {}
        self._check_kwargs("preprocess", kwargs)
        texts, options = self._parse_inputs(list(inputs), prompt or "", kwargs)
        first = flatten_route(self._modules, options.task)[0]
        if not isinstance(first, InputModule):
            raise InputError(f"the first module is a {type(first).__name__}, which does not take texts.")
        return features_to_numpy(lambda: first.features(first.tokens(texts, options), options))

    def tokenize(self, texts: Sequence[Any], **kwargs: Any) -> dict[str, Any]:
        """Tokenize texts; an older name of `preprocess`.

        Args:
            texts: Texts, pairs of texts, or {"text": ...} dicts.
            **kwargs: Further arguments of `preprocess`.

        Returns:
            numpy arrays by name, as `preprocess` returns them.
        """
        return self.preprocess(texts, **kwargs)

    def start_multi_process_pool(self, target_devices: Sequence[str] | None = None) -> Pool:
        """Start worker processes, each with a copy of the model, for the `pool` argument of encode and predict.

        A script that calls this needs its code under `if __name__ == "__main__":`, because workers import it again.

        Args:
            target_devices: One entry for each worker; only their number matters, since MLX selects its device
                itself. Default: None, four workers on a CPU and one on a GPU.

        Returns:
            The pool. Pass it to encode or predict, and to `stop_multi_process_pool` at the end.

        Example:
            >>> pool = model.start_multi_process_pool(["cpu", "cpu"])
            >>> embeddings = model.encode(sentences, pool=pool)
            >>> model.stop_multi_process_pool(pool)
        """
        return start_pool(self._inference, target_devices)

    @staticmethod
    def stop_multi_process_pool(pool: Pool) -> None:
        """Stop the worker processes of a pool.

        Args:
            pool: What `start_multi_process_pool` returned.
        """
        stop_pool(pool)

    def evaluate(self, evaluator: Any, output_path: str | None = None) -> Any:
        """Run an evaluator of sentence-transformers on this model.

        Args:
            evaluator: A callable that takes the model and the output folder.
            output_path: A folder for the evaluator's files, created if it does not exist. Default: None.

        Returns:
            What the evaluator returns: a score, or scores by name.
        """
        if output_path is not None:
            Path(output_path).mkdir(parents=True, exist_ok=True)
        return evaluator(self, output_path)

    def save(
        self,
        path: str | Path,
        model_name: str | None = None,
        create_model_card: bool = True,
        train_datasets: Sequence[str] | None = None,
        safe_serialization: bool = True,
    ) -> None:
        """Save the model to a folder, which this class and, unless quantized, sentence-transformers can load.

        Args:
            path: The folder, created if it does not exist. It stays as it was if saving fails.
            model_name: Accepted for compatibility and ignored.
            create_model_card: Copy the README.md of the loaded model, if it has one. No new card is written. Default:
                True.
            train_datasets: Accepted for compatibility and ignored.
            safe_serialization: Must be True, the default: only safetensors files are written.

        Raises:
            InputError: If safe_serialization is False.
            RepositoryError: If `path` is a file.
        """
        if not safe_serialization:
            raise InputError(
                "safe_serialization=False is not supported: only safetensors files are written. Leave it out."
            )
        saving.save(self._modules, self._model_config(), Path(path), self._readme if create_model_card else None)

    @shares_docstring(save)
    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """Save the model to a folder; `save` by the name that transformers has for it."""
        self.save(*args, **kwargs)

    def push_to_hub(
        self,
        repo_id: str,
        token: str | None = None,
        private: bool | None = None,
        safe_serialization: bool = True,
        commit_message: str | None = None,
        local_model_path: str | None = None,
        exist_ok: bool = False,
        replace_model_card: bool = False,
        train_datasets: Sequence[str] | None = None,
        revision: str | None = None,
        create_pr: bool = False,
    ) -> str:
        """Upload the model to a repository of the Hugging Face Hub, which is created if it does not exist.

        Args:
            repo_id: The repository, "organization/name" or "name".
            token: An access token of the Hub. Default: None, the one that is saved on this machine.
            private: Whether a new repository is private. Default: None, the organization's setting.
            safe_serialization: Accepted for compatibility and ignored; only safetensors files are written.
            commit_message: The title of the commit. Default: None, "Add new model."
            local_model_path: A folder to upload instead of the model. Default: None.
            exist_ok: Whether the repository may exist already. Default: False.
            replace_model_card: Accepted for compatibility and ignored; the card is always written.
            train_datasets: Accepted for compatibility and ignored.
            revision: The branch to commit to. Default: None, the main branch.
            create_pr: Open a pull request instead of committing. Default: False.

        Returns:
            The address of the commit, or of the pull request.
        """
        name = type(self).__name__
        return saving.push(
            self.save, repo_id, token, private, commit_message, local_model_path, exist_ok, revision, create_pr, name
        )

    @deprecated("save_to_hub is an older name. Use push_to_hub.")
    @older_names({"repo_name": "repo_id"})
    def save_to_hub(
        self,
        repo_id: str,
        organization: str | None = None,
        token: str | None = None,
        private: bool | None = None,
        safe_serialization: bool = True,
        commit_message: str = "Add new model.",
        local_model_path: str | None = None,
        exist_ok: bool = False,
        replace_model_card: bool = False,
        train_datasets: Sequence[str] | None = None,
    ) -> str:
        """Upload the model to a repository of the Hugging Face Hub; an older form of `push_to_hub`.

        Args:
            repo_id: The repository, "organization/name" or "name".
            organization: The organization, if `repo_id` has none. Default: None.
            token: An access token of the Hub. Default: None, the one that is saved on this machine.
            private: Whether a new repository is private. Default: None, the organization's setting.
            safe_serialization: Accepted for compatibility and ignored; only safetensors files are written.
            commit_message: The title of the commit. Default: "Add new model."
            local_model_path: A folder to upload instead of the model. Default: None.
            exist_ok: Whether the repository may exist already. Default: False.
            replace_model_card: Accepted for compatibility and ignored; the card is always written.
            train_datasets: Accepted for compatibility and ignored.

        Returns:
            The address of the commit.

        Raises:
            InputError: If `repo_id` names another organization.
        """
        if organization and repo_id.partition("/")[0] != organization:
            if "/" in repo_id:
                raise InputError(f"got organization={organization!r} and repo_id={repo_id!r}. Leave organization out.")
            repo_id = f"{organization}/{repo_id}"
        return self.push_to_hub(
            repo_id,
            token=token,
            private=private,
            commit_message=commit_message,
            local_model_path=local_model_path,
            exist_ok=exist_ok,
        )

    def _model_config(self) -> dict[str, Any]:
        """Return the current contents of config_sentence_transformers.json."""
        return {
            "model_type": self.model_type,
            "prompts": self.prompts,
            "default_prompt_name": self.default_prompt_name,
        }

    def _resolve_prompt(self, prompt: str | None, name: str | None) -> str:
        """Return the text to put before every input: the given one, or the one with the given or default name."""
        if prompt is not None:
            if not isinstance(prompt, str):
                raise InputError(f"prompt={prompt!r}, expected a text to put before every input, or None.")
            if name is not None:
                logger.warning("both prompt and prompt_name were given; prompt_name=%r is ignored", name)
            return prompt
        if name is None:
            # Prompts can be replaced by others, among which the default one may be missing.
            name = self.default_prompt_name if self.default_prompt_name in self.prompts else None
        if name is None:
            return ""
        if not isinstance(name, str) or name not in self.prompts:
            raise InputError(f"prompt_name={name!r} is not one of the model's prompts, {sorted(self.prompts)}.")
        text = self.prompts[name]
        if not isinstance(text, str):
            raise InputError(f"prompts[{name!r}] is {text!r:.80}, expected a text. Set it to one.")
        return text

    def _check_kwargs(self, method: str, kwargs: Mapping[str, Any]) -> None:
        """Raise InputError for keyword arguments that no module reads."""
        known = _ALWAYS_KNOWN | set(self.get_model_kwargs())
        if unknown := sorted(set(kwargs) - known):
            raise InputError(
                f"{type(self).__name__}.{method}() has been called with {unknown}, which this model does not use; "
                f"besides its own arguments it takes {sorted(known)}. Leave it out."
            )
        if kwargs.get("modality", "text") != "text":
            raise InputError(f"modality={kwargs['modality']!r} is not supported, only 'text'. Leave it out.")

    def _parse_inputs(
        self, inputs: Sequence[Any], prompt: str, kwargs: Mapping[str, Any]
    ) -> tuple[list[Any], EncodeOptions]:
        """Return the inputs as texts, and a call's other arguments as the options that modules read."""
        task = kwargs.get("task")
        if task is None and isinstance(self._modules[0], Router):
            task, inputs = split_task_dicts(inputs)
        texts = [as_text(item, index) for index, item in enumerate(inputs)]
        options = EncodeOptions(
            prompt=prompt,
            task=task,
            processing_kwargs=kwargs.get("processing_kwargs"),
            max_active_dims=kwargs.get("max_active_dims"),
            overlong=kwargs.get("overlong"),
        )
        return texts, options

    def _as_list(self, inputs: Any) -> tuple[list[Any], bool]:
        """Return the inputs as a list, and whether a single one was given."""
        if self.is_singular_input(inputs):
            if not isinstance(inputs, (str, dict)):
                raise InputError(f"got a {type(inputs).__name__} to encode, expected a text or a list of texts.")
            return [inputs], True
        return as_list(inputs), False

    def _compute_rows(self, inputs: list[Any], workers: Workers, **kwargs: Any) -> Results:
        """Return each input's result: computed here, in the given pool, or in a new one with a list of devices."""
        show = workers.show_progress_bar
        if show is None:
            show = logger.getEffectiveLevel() in (logging.INFO, logging.DEBUG)
        check_optional_count("chunk_size", workers.chunk_size)
        devices = device_list(workers.device)
        if workers.pool is None and (devices is None or not inputs):
            rows = self._inference(inputs, show_progress=show, **kwargs)
        else:
            # Here, where an item has its number in the whole list, and not in a worker's part of it.
            self._parse_inputs(inputs, "", kwargs)
            rows = self._rows_of_pool(inputs, workers, devices, show, kwargs)
        return check_finite(rows, self._name or type(self).__name__, _NOTHING_POOLED)

    def _rows_of_pool(
        self, inputs: list[Any], workers: Workers, devices: list[str] | None, show: bool, kwargs: dict[str, Any]
    ) -> Results:
        if workers.pool is not None:
            return encode_in_pool(workers.pool, inputs, kwargs, workers.chunk_size, show)
        pool = self.start_multi_process_pool(devices)
        try:
            return encode_in_pool(pool, inputs, kwargs, workers.chunk_size, show)
        # A pool that this call has started ends with it, also after an error.
        finally:
            stop_pool(pool)

    def _inference(
        self, inputs: list[Any], *, show_progress: bool = False, batch_size: int = 32, **kwargs: Any
    ) -> Results:
        """Return each input's result as numpy arrays, in the order of the inputs."""
        texts, pipeline = self._text_pipeline(inputs, **kwargs)
        return encode_texts(pipeline, texts, batch_size, show_progress)

    @abstractmethod
    def _text_pipeline(self, inputs: list[Any], *, prompt: str = "", **kwargs: Any) -> tuple[list[Text], TextPipeline]:
        """Return the inputs as texts, and what a call with these arguments computes of them."""
