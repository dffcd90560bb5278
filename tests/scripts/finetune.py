import sys
import tempfile

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments

tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1])


class Texts(torch.utils.data.Dataset):
    def __init__(self, texts, labels):
        self.encoded, self.labels = tokenizer(texts, truncation=True, padding=True), labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return {**{key: value[index] for key, value in self.encoded.items()}, "labels": self.labels[index]}


texts = Texts(["a good film", "a bad film", "i love this", "i hate this dog"], [0, 1, 0, 1])
with tempfile.TemporaryDirectory() as folder:
    arguments = TrainingArguments(
        folder, max_steps=2, per_device_train_batch_size=2, seed=7, report_to=[], logging_steps=1, save_strategy="no"
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=texts)
    done = trainer.train()
print(f"loss {done.training_loss:.6f}")
print(f"weight {model.classifier.weight.detach().abs().sum().item():.6f}")
