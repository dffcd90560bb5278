"""What the four classes have in common: loading, prompts, lengths, modules, processes, saving.

Reference: sentence_transformers/base/model.py.
"""

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mlx_hf_bridge.checkpoints.checkpoint import read_modules
from mlx_hf_bridge.checkpoints.sources import HubOptions, Source, locate
from mlx_hf_bridge.errors import ArgumentTypeError, InputError, RepositoryError
from mlx_hf_bridge.inference.batching import Results
from mlx_hf_bridge.quantization.recipes import QuantizationLike
from mlx_hf_bridge.sentence_transformers.encoding.inputs import as_list, as_text, is_batch, split_task_dicts
from mlx_hf_bridge.sentence_transformers.encoding.pools import (
    Pool,
    check_chunk_size,
    encode_in_pool,
    start_pool,
    stop_pool,
)
from mlx_hf_bridge.sentence_transformers.encoding.results import features_to_numpy
from mlx_hf_bridge.sentence_transformers.loading import saving
from mlx_hf_bridge.sentence_transformers.loading.arguments import check_model_name, device_list, parse_load_arguments
from mlx_hf_bridge.sentence_transformers.loading.loader import ModuleLoader
from mlx_hf_bridge.sentence_transformers.loading.settings import check_prompt_name, merge_prompts, read_model_config
from mlx_hf_bridge.sentence_transformers.module_list import ModuleList
from mlx_hf_bridge.sentence_transformers.modules.base import Module
from mlx_hf_bridge.sentence_transformers.modules.input import EncodeOptions, InputModule
from mlx_hf_bridge.sentence_transformers.modules.router import Router, flatten_route

logger = logging.getLogger(__name__)

_ALWAYS_TAKEN = {"task", "processing_kwargs"}


class MLXBaseModel(ModuleList, ABC):
    """A list of modules that texts run through, with prompts; the four classes differ in what they give back."""

    model_type: ClassVar[str]
    default_huggingface_organization: ClassVar[str | None] = None
    _default_prompts: ClassVar[Mapping[str, str | None]] = {"query": None, "document": None}

    def __init__(
        self,
        model_name_or_path: str | Path | None,
        *,
        modules: Sequence[Module] | None,
        prompts: Mapping[str, str] | None,
        default_prompt_name: str | None,
        cache_folder: str | Path | None,
        revision: str | None,
        local_files_only: bool,
        token: bool | str | None,
        model_kwargs: Mapping[str, Any] | None,
        processor_kwargs: Mapping[str, Any] | None,
        config_kwargs: Mapping[str, Any] | None,
        backend: str,
        quantization_config: QuantizationLike,
        dtype: Any,
        overlong: str,
    ) -> None:
        if backend not in ("mlx", "torch"):
            raise InputError(f"backend={backend!r}, and models are computed by MLX here. Leave it out.")
        arguments = parse_load_arguments(
            quantization_config=quantization_config,
            dtype=dtype,
            overlong=overlong,
            model_kwargs=model_kwargs,
            processor_kwargs=processor_kwargs,
            config_kwargs=config_kwargs,
        )
        self._arguments = arguments
        saved: dict[str, Any] = {}
        self._name, self._readme = "", None
        if model_name_or_path is not None:
            folder = os.environ.get("SENTENCE_TRANSFORMERS_HOME") if cache_folder is None else str(cache_folder)
            source = self._locate(
                check_model_name(model_name_or_path), HubOptions(revision, token, folder, local_files_only)
            )
            saved = read_model_config(source.folder)
            self._name, self._readme = source.name, source.folder / "README.md"
            self._modules, saved = self._load(ModuleLoader(source, arguments), saved)
        elif modules:
            self._modules = list(modules)
        else:
            raise ArgumentTypeError(
                "expected model_name_or_path, a folder or a Hub id, or modules, a list that is not empty."
            )
        self.prompts = merge_prompts(self._default_prompts, prompts, saved)
        name = saved.get("default_prompt_name") if default_prompt_name is None else default_prompt_name
        self.default_prompt_name = check_prompt_name(name, self.prompts)
        self._saved_config = saved
        for module in self.all_modules():
            if self._input_modules:
                module.on_model_ready(self.tokenizer)

    def _load(self, loader: ModuleLoader, saved: dict[str, Any]) -> tuple[list[Module], dict[str, Any]]:
        """The modules, and what of the saved settings counts for them."""
        entries = read_modules(loader.source.folder)
        if entries is None:
            return self._default_modules(loader), saved
        kind = saved.get("model_type", "SentenceTransformer")
        if kind == self.model_type:
            return loader.load_modules(entries), saved
        logger.warning("%s holds a %s, and is loaded as a %s", loader.source.name, kind, self.model_type)
        return self._default_modules(loader), {}

    @abstractmethod
    def _default_modules(self, loader: ModuleLoader) -> list[Module]:
        """The modules of a repo without modules.json."""

    @classmethod
    def _locate(cls, name: str, options: HubOptions) -> Source:
        """A folder or Hub repo; a bare name belongs to sentence-transformers' organisation, else to none."""
        organisation = cls.default_huggingface_organization
        is_bare = "/" not in name and "\\" not in name and not Path(name).expanduser().exists()
        if organisation is None or not is_bare or not name:
            return locate(name, options)
        try:
            return locate(f"{organisation}/{name}", options)
        except RepositoryError as error:
            try:
                return locate(name, options)
            except RepositoryError:
                raise error from None

    def get_model_kwargs(self) -> list[str]:
        """Arguments of encode beyond those of every model."""
        inner = [
            one
            for module in self._modules
            if isinstance(module, Router)
            for r in module.sub_modules.values()
            for one in r
        ]
        return sorted({name for module in (*self._modules, *inner) for name in module.forward_kwargs})

    def is_singular_input(self, inputs: Any) -> bool:
        """Whether this is one text rather than several."""
        return not is_batch(inputs)

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """Texts -> their input_ids, attention_mask and token_type_ids (B, L) in numpy, as the model is given them."""
        if not inputs:
            return {}
        self._check_kwargs("preprocess", kwargs)
        texts, options = self._parse_inputs(list(inputs), prompt or "", kwargs)
        first = flatten_route(self._modules, options.task)[0]
        if not isinstance(first, InputModule):
            raise InputError(f"the first module is a {type(first).__name__}, which reads no texts.")
        return features_to_numpy(lambda: first.features(first.tokens(texts, options), options))

    def tokenize(self, texts: Sequence[Any], **kwargs: Any) -> dict[str, Any]:
        """preprocess, by its older name."""
        return self.preprocess(texts, **kwargs)

    def start_multi_process_pool(self, target_devices: Sequence[str] | None = None) -> Pool:
        """Worker processes, one a device, for encode's or predict's `pool`; end them with stop_multi_process_pool."""
        return start_pool(self._inference, target_devices)

    @staticmethod
    def stop_multi_process_pool(pool: Pool) -> None:
        """End the processes of a pool."""
        stop_pool(pool)

    def evaluate(self, evaluator: Any, output_path: str | None = None) -> Any:
        """What the evaluator says of this model."""
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
        """Write a folder that loads back here and, unquantised, in sentence-transformers.

        create_model_card: copy the README of the repo, where it has one; none is made. Raises RepositoryError for a
        path that is a file, InputError for safe_serialization=False, which would write torch's pickles.
        """
        if not safe_serialization:
            raise InputError("safe_serialization=False writes torch's pickles; only safetensors are written here.")
        saving.save(self._modules, self._model_config(), Path(path), self._readme if create_model_card else None)

    def save_pretrained(
        self,
        path: str | Path,
        model_name: str | None = None,
        create_model_card: bool = True,
        train_datasets: Sequence[str] | None = None,
        safe_serialization: bool = True,
    ) -> None:
        """save, by transformers' name."""
        self.save(path, model_name, create_model_card, train_datasets, safe_serialization)

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
        """Upload the saved folder, or `local_model_path` in its place, to a repo of the Hub -> the commit's address."""
        name = type(self).__name__
        return saving.push(
            self.save, repo_id, token, private, commit_message, local_model_path, exist_ok, revision, create_pr, name
        )

    def _model_config(self) -> dict[str, Any]:
        """config_sentence_transformers.json as it is now."""
        return {
            "model_type": self.model_type,
            "prompts": self.prompts,
            "default_prompt_name": self.default_prompt_name,
        }

    def _resolve_prompt(self, prompt: str | None, name: str | None) -> str:
        if prompt is not None:
            if not isinstance(prompt, str):
                raise InputError(f"prompt={prompt!r}, expected a text to put before every text, or None.")
            if name is not None:
                logger.warning("both prompt and prompt_name were given; prompt_name=%r is not used", name)
            return prompt
        name = self.default_prompt_name if name is None else name
        if name is None:
            return ""
        if name not in self.prompts:
            raise InputError(f"prompt_name={name!r} is not one of the model's prompts, {sorted(self.prompts)}.")
        return self.prompts[name]

    def _document_prompt_name(self) -> str | None:
        return next((name for name in ("document", "passage", "corpus") if name in self.prompts), None)

    def _check_kwargs(self, method: str, kwargs: Mapping[str, Any]) -> None:
        known = _ALWAYS_TAKEN | set(self.get_model_kwargs())
        if unknown := sorted(set(kwargs) - known):
            raise InputError(
                f"{type(self).__name__}.{method}() has been called with {unknown}, which this model does not use; it "
                f"takes {sorted(known)} besides the named ones. Leave it out."
            )
        if kwargs.get("modality", "text") != "text":
            raise InputError(f"modality={kwargs['modality']!r}, and only texts are read here.")

    def _parse_inputs(
        self, inputs: Sequence[Any], prompt: str, kwargs: Mapping[str, Any]
    ) -> tuple[list[Any], EncodeOptions]:
        """Inputs and the rest of a call's arguments -> texts, and what is asked of the modules."""
        task = kwargs.get("task")
        if task is None and isinstance(self._modules[0], Router):
            task, inputs = split_task_dicts(inputs)
        texts = [as_text(item, f"item {index} to encode") for index, item in enumerate(inputs)]
        options = EncodeOptions(
            prompt=prompt,
            task=task,
            processing_kwargs=kwargs.get("processing_kwargs"),
            max_active_dims=kwargs.get("max_active_dims"),
            overlong=kwargs.get("overlong"),
        )
        return texts, options

    def _as_list(self, inputs: Any) -> tuple[list[Any], bool]:
        """What a caller gives -> a list, and whether it was a single one."""
        if self.is_singular_input(inputs):
            if not isinstance(inputs, (str, dict)):
                raise InputError(f"got a {type(inputs).__name__} to encode, expected a text or a list of texts.")
            return [inputs], True
        return as_list(inputs), False

    def _compute_rows(
        self,
        inputs: list[Any],
        device: Any,
        pool: Pool | None,
        chunk_size: int | None,
        show: bool | None,
        **kwargs: Any,
    ) -> Results:
        """_inference here, or in the processes of a pool, or of one for this call where a list of devices is given."""
        if show is None:
            show = logger.getEffectiveLevel() in (logging.INFO, logging.DEBUG)
        check_chunk_size(chunk_size)
        devices = device_list(device)
        if pool is not None:
            return encode_in_pool(pool, inputs, kwargs, chunk_size, show)
        if devices is None or not inputs:
            return self._inference(inputs, show_progress=show, **kwargs)
        own = self.start_multi_process_pool(devices)
        try:
            return encode_in_pool(own, inputs, kwargs, chunk_size, show)
        finally:
            stop_pool(own)

    @abstractmethod
    def _inference(self, inputs: list[Any], *, show_progress: bool = False, **kwargs: Any) -> Results:
        """Each input's result, in order, as numpy arrays."""
