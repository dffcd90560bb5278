import sys

import torch
from transformers import BertForMaskedLM, BertTokenizer, pipeline

unmasker = pipeline("fill-mask", model=sys.argv[1])
for guess in unmasker("the [MASK] sat on the mat."):
    print(guess["token_str"], round(guess["score"], 5))

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
tokenizer = BertTokenizer.from_pretrained(sys.argv[1])
model = BertForMaskedLM.from_pretrained(sys.argv[1]).to(device)
model.eval()
inputs = tokenizer("i [MASK] this film", return_tensors="pt").to(device)
with torch.no_grad():
    logits = model(**inputs).logits
place = (inputs.input_ids == tokenizer.mask_token_id)[0].nonzero()[0]
print(tokenizer.decode(logits[0, place].argmax(dim=-1)), logits[0, place].softmax(dim=-1).max().item())
print(isinstance(model, BertForMaskedLM), model.config.vocab_size, model.num_parameters())
