"""BERTopic: find topics with sentence-transformers' own class, computed by MLX.

python examples/integrations/bertopic_topics.py [model]
"""

import sys

from bertopic import BERTopic
from sentence_transformers import SentenceTransformer
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

import mlx_hf_bridge.sentence_transformers  # noqa: F401  adds backend="mlx"

TEXTS = [
    f"{text} {when}"
    for text in ("the bakery sells fresh bread", "the cake has sugar", "the team won the cup", "a goal in the match")
    for when in ("today", "again", "this year")
]


def main(model_name: str = "sentence-transformers/all-MiniLM-L6-v2") -> None:
    model = SentenceTransformer(model_name, backend="mlx")
    # Without torch: model = mlx_hf_bridge.integrations.bertopic.MLXBackend(MLXSentenceTransformer(model_name))
    # For so few texts, PCA and two clusters instead of UMAP and HDBSCAN.
    topics = BERTopic(embedding_model=model, umap_model=PCA(2), hdbscan_model=KMeans(2, random_state=0))
    topics.fit_transform(TEXTS)
    print(topics.get_topic_info()[["Topic", "Count", "Name"]].to_string(index=False))


if __name__ == "__main__":
    main(*sys.argv[1:])
