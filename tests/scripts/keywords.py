import sys

from keybert import KeyBERT
from sentence_transformers import SentenceTransformer

text = """
Supervised learning is the machine learning task of learning a function that maps an input to an output based on
example input-output pairs. It infers a function from labeled training data consisting of a set of training examples.
"""
keywords = KeyBERT(model=SentenceTransformer(sys.argv[1]))
for phrase, score in keywords.extract_keywords(text, keyphrase_ngram_range=(1, 2), top_n=5):
    print(phrase, score)
print(keywords.extract_keywords(text, use_mmr=True, diversity=0.7, stop_words="english"))
