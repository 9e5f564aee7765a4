"""Trains a small neural network on scikit-learn's handwritten digits and writes its metrics: an ordinary script.

It knows nothing of notebooks or clouds; it reads arguments, prints a line an epoch and writes two CSV files.
"""

import argparse
import csv
import time

import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import confusion_matrix, log_loss
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=30)
parser.add_argument("--hidden", type=int, default=48)
parser.add_argument("--rate", type=float, default=0.002)
args = parser.parse_args()

pixels, digits = load_digits(return_X_y=True)
train_x, test_x, train_y, test_y = train_test_split(pixels, digits, test_size=0.3, random_state=7, stratify=digits)
scaler = StandardScaler().fit(train_x)
train_x, test_x = scaler.transform(train_x), scaler.transform(test_x)
print(f"{len(train_x)} images to learn from, {len(test_x)} to be judged by", flush=True)

model = MLPClassifier(hidden_layer_sizes=(args.hidden,), learning_rate_init=args.rate, random_state=7)
shuffle = np.random.default_rng(7)
rows = []
began = time.perf_counter()
for epoch in range(1, args.epochs + 1):
    order = shuffle.permutation(len(train_x))
    for batch in np.array_split(order, 20):
        model.partial_fit(train_x[batch], train_y[batch], classes=np.arange(10))
    row = {
        "epoch": epoch,
        "seconds": round(time.perf_counter() - began, 3),
        "train_loss": log_loss(train_y, model.predict_proba(train_x)),
        "test_loss": log_loss(test_y, model.predict_proba(test_x)),
        "train_accuracy": model.score(train_x, train_y),
        "test_accuracy": model.score(test_x, test_y),
    }
    rows.append(row)
    print(
        f"epoch {epoch:>2}  loss {row['train_loss']:.3f} / {row['test_loss']:.3f}"
        f"  accuracy {row['train_accuracy']:.3f} / {row['test_accuracy']:.3f}",
        flush=True,
    )

with open("metrics.csv", "w", newline="") as file:
    writer = csv.DictWriter(file, rows[0])
    writer.writeheader()
    writer.writerows(rows)
np.savetxt("confusion.csv", confusion_matrix(test_y, model.predict(test_x)), fmt="%d", delimiter=",")
print(f"done: {rows[-1]['test_accuracy']:.1%} of unseen digits read correctly")
