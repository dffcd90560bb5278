"""Fill-mask: predict the words that fit best where a text has ___.

python examples/fill_mask.py [model] [text]
"""

import sys

from mlx_hf_bridge import pipeline


def main(model_name: str = "distilbert/distilroberta-base", text: str = "Paris is the ___ of France.") -> None:
    fill = pipeline("fill-mask", model=model_name)
    for guess in fill(text.replace("___", fill.tokenizer.mask_token), top_k=3):
        print(f"{guess['score']:.2f}  {guess['token_str'].strip():12} {guess['sequence']}")


if __name__ == "__main__":
    main(*sys.argv[1:])
