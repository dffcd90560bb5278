"""Check that encoding from four threads always gives equal embeddings and exit code 0.

python -m benchmarks.threads [--processes 20] [--encodes 40]
"""

import hashlib
import subprocess
import sys

from benchmarks.models import parser

CODE = """
import sys, hashlib
from concurrent.futures import ThreadPoolExecutor
from mlx_hf_bridge import MLXSentenceTransformer
model = MLXSentenceTransformer(sys.argv[1], quantization_config="q8")
texts = ["a first text", "another one, somewhat longer than the first", ""]
with ThreadPoolExecutor(4) as pool:
    vectors = list(pool.map(lambda _: model.encode(texts).tobytes(), range(int(sys.argv[2]))))
assert len(set(vectors)) == 1, "threads disagree"
sys.stdout.write(hashlib.sha256(vectors[0]).hexdigest())
"""


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--processes", type=int, default=20)
    arguments.add_argument("--encodes", type=int, default=40)
    given = arguments.parse_args()
    codes, digests = [], []
    for _ in range(given.processes):
        done = subprocess.run(
            [sys.executable, "-c", CODE, given.model, str(given.encodes)], capture_output=True, text=True
        )
        codes.append(done.returncode)
        digests.append(done.stdout)
    print(f"{given.processes} processes x {given.encodes} encodes from 4 threads: exit codes {sorted(set(codes))}, ")
    print(f"{len(set(digests))} distinct result(s), {hashlib.sha256(digests[0].encode()).hexdigest()[:12]}")
    raise SystemExit(0 if set(codes) == {0} and len(set(digests)) == 1 else 1)


if __name__ == "__main__":
    main()
