"""Options of `mlx-hf-bridge export-metal`."""

from mlx_hf_bridge.cli.command import Argument, Command, json_option

command = Command(
    "export-metal",
    'Export a converted folder for transformers\' "metal" quantizer.',
    [
        Argument("folder", "A folder of `convert`: affine 2, 4 or 8 bits, the same in every module."),
        Argument("output", "The folder to write; must be empty or not exist."),
        json_option(),
    ],
    """\
  mlx-hf-bridge export-metal ./minilm-mlx-q4 ./minilm-metal-q4

On Apple GPUs transformers computes with the quantized weights; elsewhere it
dequantizes them and needs accelerate:
  AutoModel.from_pretrained("./minilm-metal-q4", device_map={"": "cpu"})""",
)
