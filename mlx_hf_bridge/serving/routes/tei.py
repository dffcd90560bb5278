"""The routes of Text Embeddings Inference, which huggingface_hub's InferenceClient and many RAG tools speak.

Reference: https://huggingface.github.io/text-embeddings-inference/openapi.json. Where several models are served, a
field `model` names one; without it the first of the right kind answers.
"""

from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mlx_hf_bridge.errors import EmptyInputError, InputError, UnservedModelError
from mlx_hf_bridge.sentence_transformers.scoring.similarity import SIMILARITIES
from mlx_hf_bridge.serving.engine import AsyncEngine
from mlx_hf_bridge.serving.failures import TEI
from mlx_hf_bridge.serving.routes.errors import error_responses
from mlx_hf_bridge.serving.routes.json_body import StrictRoute, parse
from mlx_hf_bridge.serving.routes.options import overlong
from mlx_hf_bridge.serving.routes.responses import as_base64, json_response, note
from mlx_hf_bridge.serving.settings import Settings
from mlx_hf_bridge.serving.tasks.base import Answer, Task
from mlx_hf_bridge.serving.tasks.classification import CLASSIFIER, ClassifyTexts
from mlx_hf_bridge.serving.tasks.embedding import EMBEDDING, MULTI_VECTOR, SPARSE, EmbedSparse, EmbedTexts, EmbedTokens
from mlx_hf_bridge.serving.tasks.scoring import RERANKER, ScorePairs
from mlx_hf_bridge.serving.tokenization import decode, tokenize

TokenId = Annotated[int, Field(ge=0, lt=2**31, strict=True)]
Inputs = str | list[str] | list[TokenId] | list[list[TokenId]]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    model: str | None = None


class _Truncating(_Body):
    truncate: bool | None = None
    truncation_direction: Literal["left", "right", "Left", "Right"] | None = None


class EmbedRequest(_Truncating):
    """The body of POST /embed."""

    inputs: Inputs
    normalize: bool = True
    prompt_name: str | None = None
    dimensions: Annotated[int, Field(ge=1, strict=True)] | None = None
    encoding_format: Literal["float", "base64"] = "float"


class EmbedAllRequest(_Truncating):
    """The body of POST /embed_all and /embed_sparse."""

    inputs: Inputs
    prompt_name: str | None = None


class RerankRequest(_Truncating):
    """The body of POST /rerank."""

    query: str
    texts: list[str]
    raw_scores: bool = False
    return_text: bool = False


class PredictRequest(_Truncating):
    """The body of POST /predict: a text, [text] or [text, pair], or a list of such lists."""

    inputs: str | list[str] | list[Annotated[list[str], Field(min_length=1, max_length=2)]]
    raw_scores: bool = False


class SimilarityInput(BaseModel):
    """One sentence, and those that it is compared with."""

    model_config = ConfigDict(extra="forbid", strict=True)
    source_sentence: str
    sentences: list[str]


class SimilarityParameters(BaseModel):
    """Options of POST /similarity."""

    model_config = ConfigDict(extra="forbid", strict=True)
    truncate: bool | None = None
    truncation_direction: Literal["left", "right", "Left", "Right"] | None = None
    prompt_name: str | None = None


class SimilarityRequest(_Body):
    """The body of POST /similarity."""

    inputs: SimilarityInput
    parameters: SimilarityParameters | None = None


class TokenizeRequest(_Body):
    """The body of POST /tokenize."""

    inputs: str | list[str]
    add_special_tokens: bool = True
    prompt_name: str | None = None


class DecodeRequest(_Body):
    """The body of POST /decode."""

    ids: list[TokenId] | list[list[TokenId]]
    skip_special_tokens: bool = True


class SparseValue(BaseModel):
    """One dimension of a sparse embedding."""

    index: int
    value: float


class Rank(BaseModel):
    """The score of one text."""

    index: int
    score: float
    text: str | None = None


class Prediction(BaseModel):
    """The score of one label."""

    score: float
    label: str


class Token(BaseModel):
    """One token of a text."""

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


def routes(engine: AsyncEngine, settings: Settings) -> APIRouter:
    """Return the routes.

    Args:
        engine: The models.
        settings: Whether texts are truncated by default.

    Returns:
        A router.
    """
    router = APIRouter(tags=["Text Embeddings Inference"], route_class=StrictRoute, responses=error_responses(TEI))

    async def run(task: Task, body: _Body, request: Request) -> tuple[Answer, dict[str, str]]:
        answer = await engine.run(task, body.model)
        _check_direction(body, answer)
        return answer, note(request, answer)

    @router.post("/embed", response_model=list[list[float]])
    async def embed(body: EmbedRequest, request: Request) -> Response:
        """Return an embedding for each text."""
        task = EmbedTexts(
            texts=_texts(body.inputs),
            prompt_name=body.prompt_name,
            truncate_dim=body.dimensions,
            normalize=body.normalize,
            overlong=overlong(body.truncate, settings),
        )
        answer, headers = await run(task, body, request)
        rows = answer.result if body.encoding_format == "float" else list(map(as_base64, answer.result))
        return await json_response(rows, headers, answer.result.size)

    @router.post("/embed_all", response_model=list[list[list[float]]])
    async def embed_all(body: EmbedAllRequest, request: Request) -> Response:
        """Return an embedding for each token of each text."""
        texts, long = _texts(body.inputs), overlong(body.truncate, settings)
        task = EmbedTokens(texts=texts, prompt_name=body.prompt_name, overlong=long)
        answer, headers = await run(task, body, request)
        return await json_response(answer.result, headers, sum(one.size for one in answer.result))

    @router.post("/embed_sparse", response_model=list[list[SparseValue]])
    async def embed_sparse(body: EmbedAllRequest, request: Request) -> Response:
        """Return the nonzero dimensions of the sparse embedding of each text."""
        texts, long = _texts(body.inputs), overlong(body.truncate, settings)
        task = EmbedSparse(texts=texts, prompt_name=body.prompt_name, overlong=long)
        answer, headers = await run(task, body, request)
        rows = [_sparse(*one) for one in answer.result]
        return await json_response(rows, headers, sum(map(len, rows)))

    @router.post("/rerank", response_model=list[Rank], response_model_exclude_none=True)
    async def rerank(body: RerankRequest, request: Request) -> Response:
        """Return the texts in the order of their scores for a query."""
        if not body.texts:
            raise EmptyInputError("`texts` cannot be empty")
        task = ScorePairs(
            pairs=[(body.query, text) for text in body.texts],
            activation="none" if body.raw_scores else "sigmoid",
            overlong=overlong(body.truncate, settings),
        )
        answer, headers = await run(task, body, request)
        order = np.argsort(-answer.result, kind="stable")
        found: list[dict[str, Any]] = [{"index": int(index), "score": float(answer.result[index])} for index in order]
        if body.return_text:
            found = [{**one, "text": body.texts[one["index"]]} for one in found]
        return await json_response(found, headers)

    @router.post("/predict", response_model=list[Prediction] | list[list[Prediction]])
    async def predict(body: PredictRequest, request: Request) -> Response:
        """Return the labels of texts or pairs of texts with their scores, best first."""
        given, single = _sequences(body.inputs)
        function = {"function_to_apply": "none"} if body.raw_scores else {}
        task = ClassifyTexts(texts=given, options=function, overlong=overlong(body.truncate, settings))
        answer, headers = await run(task, body, request)
        found = [[{"score": one["score"], "label": one["label"]} for one in labels] for labels in answer.result]
        return await json_response(found[0] if single else found, headers)

    @router.post("/similarity", response_model=list[float])
    async def similarity(body: SimilarityRequest, request: Request) -> Response:
        """Return the cosine similarity of a sentence to others."""
        if not body.inputs.sentences:
            raise EmptyInputError("`inputs.sentences` cannot be empty")
        parameters = body.parameters or SimilarityParameters()
        task = EmbedTexts(
            texts=_texts([body.inputs.source_sentence, *body.inputs.sentences]),
            prompt_name=parameters.prompt_name,
            overlong=overlong(parameters.truncate, settings),
        )
        answer, headers = await run(task, body, request)
        _check_direction(parameters, answer)
        return await json_response(SIMILARITIES["cosine"](answer.result[:1], answer.result[1:])[0], headers)

    @router.post("/tokenize", response_model=list[list[Token]])
    async def tokens(body: TokenizeRequest) -> Response:
        """Return the tokens of each text, without truncation."""
        texts = [body.inputs] if isinstance(body.inputs, str) else body.inputs
        engine.limits.check_count(len(texts))
        engine.limits.check_texts(texts)
        model = await engine.load(body.model)
        if body.prompt_name is not None:
            owner = model.model_of((EMBEDDING, SPARSE, MULTI_VECTOR, RERANKER))
            texts = [owner._resolve_prompt(None, body.prompt_name) + text for text in texts]
        found = await engine.in_thread(tokenize, model.loaded.model, texts, body.add_special_tokens)
        return await json_response(found, numbers=5 * sum(map(len, found)))

    @router.post("/decode", response_model=list[str])
    async def texts(body: DecodeRequest) -> Response:
        """Return the texts of token ids."""
        ids: Any = body.ids if body.ids and isinstance(body.ids[0], list) else [body.ids]
        model = await engine.load(body.model)
        return await json_response(await engine.in_thread(decode, model.loaded.model, ids, body.skip_special_tokens))

    by_kind: dict[str, tuple[type[_Body], Any]] = {
        EMBEDDING: (EmbedRequest, embed),
        SPARSE: (EmbedAllRequest, embed_sparse),
        MULTI_VECTOR: (EmbedAllRequest, embed_all),
        RERANKER: (RerankRequest, rerank),
        CLASSIFIER: (PredictRequest, predict),
    }

    @router.post("/", include_in_schema=False)
    async def anything(request: Request) -> Response:
        """Do what the first model is for, as huggingface_hub's InferenceClient expects of an address."""
        kind = (await engine.load()).kind
        if kind not in by_kind:
            raise UnservedModelError(f"the model is of the kind {kind!r}. Send the request to /v1/ner.")
        schema, route = by_kind[kind]
        try:
            body = schema.model_validate(parse(await request.body()))
        except ValidationError as error:
            raise RequestValidationError(error.errors()) from error
        answer: Response = await route(body, request)
        return answer

    return router


def _texts(inputs: Any) -> Any:
    """Return inputs as a list of texts, or of token ids."""
    given = [inputs] if isinstance(inputs, str) or (inputs and isinstance(inputs[0], int)) else inputs
    if not given or any(not one for one in given):
        raise EmptyInputError("`inputs` cannot be empty")
    return given


def _sequences(inputs: Any) -> tuple[list[Any], bool]:
    """Return the texts and pairs of a request for /predict, and whether it is a single one."""
    single = isinstance(inputs, str) or not inputs or isinstance(inputs[0], str)
    rows = [[inputs] if isinstance(inputs, str) else inputs] if single else inputs
    if not rows or not rows[0]:
        raise EmptyInputError("`inputs` cannot be empty")
    if any(len(row) > 2 for row in rows):
        raise InputError("`inputs` strings must have either 1 or 2 elements")
    return [row[0] if len(row) == 1 else (row[0], row[1]) for row in rows], single


def _check_direction(body: Any, answer: Answer) -> None:
    if answer.truncated and str(getattr(body, "truncation_direction", None)).lower() == "left":
        raise InputError(
            f"truncation_direction='left', and {answer.truncated} texts are too long; this server truncates on the "
            "side that the model's tokenizer names. Leave it out, or shorten the texts."
        )


def _sparse(columns: np.ndarray, values: np.ndarray) -> list[dict[str, Any]]:
    pairs = zip(columns.tolist(), values.tolist(), strict=True)
    return [{"index": index, "value": value} for index, value in pairs]
