"""MTEB: evaluate an MLX model on one task.

python examples/integrations/mteb_scores.py [model] [task]
"""

import sys
from pathlib import Path

import mteb

from mlx_hf_bridge import MLXSentenceTransformer
from mlx_hf_bridge.integrations.mteb import MLXEncoder


def main(model_name: str = "sentence-transformers/all-MiniLM-L6-v2", task: str = "STSBenchmark") -> None:
    encoder = MLXEncoder(MLXSentenceTransformer(model_name), name=f"local/{Path(model_name).name}", revision="1")
    # With torch installed, mteb also takes SentenceTransformer(model_name, backend="mlx").
    result = mteb.evaluate(encoder, [mteb.get_task(task)])
    for one in result.task_results:
        print(one.task_name, one.get_score())


if __name__ == "__main__":
    main(*sys.argv[1:])
