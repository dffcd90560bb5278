import sys

from transformers import pipeline

classifier = pipeline("zero-shot-classification", model=sys.argv[1])
result = classifier("the cat sat on the mat", candidate_labels=["sport", "news", "film"])
for label, score in zip(result["labels"], result["scores"], strict=True):
    print(f"{label}: {score:.5f}")
print(classifier(["a good film", "the stock market rose today"], candidate_labels="sport, news", multi_label=True))
