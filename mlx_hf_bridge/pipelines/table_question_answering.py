"""The table-question-answering pipeline: the cells of a table that answer a question, and how they are aggregated.

Reference: transformers/pipelines/table_question_answering.py, whose arguments, pre- and post-processing this runs.
Q questions of a table, L tokens.
"""

from collections import defaultdict
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, ClassVar, final

import numpy as np

import mlx_hf_bridge.pipelines.transformers_tasks.pipelines.table_question_answering as reference
from mlx_hf_bridge.errors import BackendError
from mlx_hf_bridge.inference.finite import check_finite
from mlx_hf_bridge.layers.cell_selection import COLUMN, ROW, TYPES
from mlx_hf_bridge.pipelines.base import Pipeline, as_bridge_errors
from mlx_hf_bridge.pipelines.host_array import HostArray, as_host_array
from mlx_hf_bridge.pipelines.tokenizer import tokenizer_lock
from mlx_hf_bridge.pretrained.model import MLXPreTrainedModel
from mlx_hf_bridge.runtime.executor import hold

# Columns of token_type_ids: 1 for tokens of the table, and 1 for those of the previous answer.
_SEGMENT, _PREVIOUS = 0, 3
_INPUTS = ("input_ids", "attention_mask", TYPES)
Cell = tuple[int, int]


@final
class TableQuestionAnsweringPipeline(reference.TableQuestionAnsweringPipeline):
    """Return the cells of a table that answer a question; needs pandas, as in transformers.

    Args:
        model: A model from MLXAutoModelForTableQuestionAnswering.from_pretrained.
        tokenizer: A tokenizer of transformers.
        options: See Pipeline; and defaults for the arguments of a call.

    Call arguments:
        table, query: A table (a pandas.DataFrame, or a dict of columns) of strings, with a question or a list of
            questions. Or, as `table`, {"table": ..., "query": ...}, or a list or generator of such dicts.
        sequential: Whether a table's questions are answered one after the other, each with the cells of the previous
            answer marked, for models of conversations (SQA). Default: False.
        padding, truncation: Options of the tokenizer. Default: True and "drop_rows_to_fit".
        batch_size: Accepted without effect, as the questions of one table are one batch.

    Call result:
        {"answer", "coordinates", "cells"}, with "aggregator" for models that aggregate cells. Several questions or
        tables give a list, a generator an iterator.

    Call errors:
        InputError (a ValueError) if there is no table or no question; TokenRangeError (an IndexError) if a table is too
        long for the model's positions.
    """

    task: ClassVar[str] = "table-question-answering"
    accepted_options: ClassVar[tuple[str, ...]] = ("sequential", "padding", "truncation")

    def __init__(self, model: MLXPreTrainedModel, tokenizer: Any, **options: Any) -> None:
        Pipeline.__init__(self, model, tokenizer, **options)
        raw = model.loaded.raw_config
        labels = raw.get("aggregation_labels")
        self.type = "tapas"
        self.aggregate = bool(labels and raw.get("num_aggregation_labels"))
        # JSON has no integer keys.
        model.config.aggregation_labels = labels and {int(number): label for number, label in labels.items()}

    def __call__(self, table: Any = None, query: Any = None, **options: Any) -> Any:
        """Answer one or several questions about one or several tables.

        Args:
            table: A table, a {"table", "query"} dict, or a list or generator of these dicts.
            query: A question or a list of questions about the table.
            options: sequential, padding and truncation.

        Returns:
            {"answer", "coordinates", "cells"} for one question, a list for several, an iterator for a generator.
        """
        _require_pandas()
        with as_bridge_errors():
            inputs = reference.TableQuestionAnsweringArgumentHandler()(table=table, query=query)
        results = Pipeline.__call__(self, inputs, **options)
        return results[0] if isinstance(results, list) and len(results) == 1 else results

    def _sanitize_parameters(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        preprocess_params, forward_params, _ = super()._sanitize_parameters(**options)
        return {**preprocess_params, **forward_params}, {}, {}

    def _run_batch(
        self,
        texts: list[Any],
        preprocess_params: dict[str, Any],
        postprocess_params: dict[str, Any],
        batch_size: int,
    ) -> list[Any]:
        """Answer the questions of each table; a table's cells depend on its padding, so tables share no batch."""
        options = dict(preprocess_params)
        sequential = options.pop("sequential", False)
        return [self._answer(one, sequential, options) for one in texts]

    def _answer(self, example: Mapping[str, Any], sequential: bool, options: Mapping[str, Any]) -> Any:
        with as_bridge_errors(), hold(tokenizer_lock):
            inputs = self.preprocess(example, **options)
        table = inputs.pop("table")
        outputs = self._compute_in_turn(inputs) if sequential else self._compute(inputs)
        check_finite([outputs[0]], self.model.name_or_path)
        return self.postprocess({"model_inputs": inputs, "table": table, "outputs": outputs})

    def _compute(self, inputs: Mapping[str, Any]) -> list[HostArray]:
        """Return the logits of cells (Q, L) and, for models that aggregate, those of aggregations (Q, A)."""
        outputs = self.model(**{name: np.asarray(inputs[name]) for name in _INPUTS}, return_dict=True)
        found = [outputs.logits, outputs.logits_aggregation] if self.aggregate else [outputs.logits]
        # A copy, because the tokenizer writes into it.
        return [as_host_array(np.array(array, np.float32)) for array in found]

    def _compute_in_turn(self, inputs: Mapping[str, Any]) -> list[HostArray]:
        """Return the logits of questions that are answered one after the other (`sequential_inference`)."""
        types = np.array(inputs[TYPES])
        outputs: list[list[HostArray]] = []
        answer: dict[Cell, bool] | None = None
        for number, own in enumerate(types):
            cells = _cells_of(own)
            if answer is not None:
                own[:, _PREVIOUS] = [cell is not None and answer[cell] for cell in cells]
            question = {name: np.asarray(inputs[name])[number : number + 1] for name in _INPUTS}
            outputs.append(self._compute({**question, TYPES: own[None]}))
            answer = _chosen_cells(outputs[-1][0][0], question["attention_mask"][0], cells)
        return [as_host_array(np.concatenate(parts)) for parts in zip(*outputs, strict=True)]


def _require_pandas() -> None:
    if find_spec("pandas") is None:
        raise BackendError(
            "table-question-answering needs pandas, which is not installed, as in transformers. Run "
            "`pip install 'mlx-hf-bridge[tables]'`."
        )


def _cells_of(types: np.ndarray) -> list[Cell | None]:
    """Return the column and row of each token of a table, both from 0; None for those of the question and header."""
    return [
        (int(row[COLUMN]) - 1, int(row[ROW]) - 1) if row[COLUMN] > 0 and row[ROW] > 0 and row[_SEGMENT] == 1 else None
        for row in types
    ]


def _chosen_cells(logits: np.ndarray, mask: np.ndarray, cells: list[Cell | None]) -> dict[Cell, bool]:
    """Return whether each cell belongs to the answer: the mean probability of its tokens is above a half."""
    # tanh does not overflow for excluded cells, whose logits are -10000.
    probabilities = (0.5 + 0.5 * np.tanh(np.asarray(logits, np.float64) / 2)) * mask
    found: dict[Cell, list[float]] = defaultdict(list)
    for cell, probability in zip(cells, probabilities, strict=True):
        if cell is not None:
            found[cell].append(float(probability))
    return {cell: bool(np.mean(values) > 0.5) for cell, values in found.items()}
