import sys

from sentence_transformers import SentenceTransformer, util

corpus = [
    "A man is eating food.",
    "A man is riding a horse.",
    "The girl is carrying a baby.",
    "A woman is playing violin.",
    "Two men pushed carts through the woods.",
    "A monkey is playing drums.",
    "A cheetah is running behind its prey.",
]
model = SentenceTransformer(sys.argv[1])
embeddings = model.encode(corpus, convert_to_tensor=True)
for query in ["A man is eating pasta.", "Someone in a gorilla costume is playing a set of drums."]:
    hits = util.semantic_search(model.encode(query, convert_to_tensor=True), embeddings, top_k=3)[0]
    print(query)
    for hit in hits:
        print(f"  {corpus[hit['corpus_id']]} ({hit['score']:.5f})")
print(model.similarity(model.encode(corpus[:2]), model.encode(corpus[2:4])))
