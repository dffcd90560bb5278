import sys

from sentence_transformers import CrossEncoder

model = CrossEncoder(sys.argv[1])
documents = ["the stock market rose today", "a dog sat on the mat", "i love this film", "news about sport"]
for hit in model.rank("is this a good film?", documents, return_documents=True):
    print(f"{hit['score']:.5f} {hit['text']}")
print(model.predict([("the cat", "a dog"), ("good film", "bad film")]).tolist())
