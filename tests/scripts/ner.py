import sys

from transformers import AutoModelForTokenClassification, AutoTokenizer, pipeline

tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForTokenClassification.from_pretrained(sys.argv[1])
ner = pipeline("ner", model=model, tokenizer=tokenizer, aggregation_strategy="simple")
for entity in ner("the cat sat on the mat. a dog is on the news today!"):
    print(entity["entity_group"], entity["word"], entity["start"], entity["end"], f"{entity['score']:.5f}")
