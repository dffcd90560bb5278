"""Named entity recognition: find people, places and organizations in a text of any length.

python examples/ner.py [model] [text]
"""

import sys

from mlx_hf_bridge import pipeline

TEXT = "Marie Curie was born in Warsaw. She worked in Paris, and won two Nobel prizes."


def main(model_name: str = "dslim/bert-base-NER", text: str = TEXT) -> None:
    # Long texts are read in windows that overlap by 32 tokens.
    find = pipeline("ner", model=model_name, aggregation_strategy="simple", stride=32)
    for entity in find(text):
        found = text[entity["start"] : entity["end"]]
        print(f"{entity['entity_group']:6} {entity['score']:.2f}  {found}")


if __name__ == "__main__":
    main(*sys.argv[1:])
