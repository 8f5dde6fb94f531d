"""A training that resumes after a kill: run it, kill it at any moment, run it again.

    python torch_resume.py           # kill -9 it, and start it again, as often as you like
    replicate ls

The model ends with the same weights, bit for bit, as one that was never killed, because the checkpoint
holds everything that training depends on. The data comes with scikit-learn.
"""

import argparse

import torch
from sklearn.datasets import load_digits

import replicate

FILE = "training.pt"


def train(epochs: int) -> torch.nn.Module:
    experiment = replicate.init(params={"epochs": epochs}, name="digits", resume="auto")

    torch.manual_seed(0)
    data = torch.utils.data.TensorDataset(*(torch.tensor(part) for part in load_digits(return_X_y=True)))
    batches = torch.utils.data.DataLoader(data, batch_size=64, shuffle=True)
    model = torch.nn.Sequential(
        torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Dropout(0.2), torch.nn.Linear(32, 10)
    )
    optimizer = torch.optim.Adam(model.parameters())
    begin = 0

    if experiment.resumed_from is not None:
        with experiment.resumed_from.open(FILE) as file:
            saved = torch.load(file)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        torch.set_rng_state(saved["random"])
        begin = saved["epoch"] + 1

    for epoch in range(begin, epochs):
        for pixels, digits in batches:
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(pixels.float() / 16), digits)
            loss.backward()
            optimizer.step()
        saved = {
            "epoch": epoch,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "random": torch.get_rng_state(),  # so that shuffling and dropout continue the same way
        }
        torch.save(saved, FILE)
        experiment.checkpoint(FILE, step=epoch, metrics={"loss": loss}, primary_metric=("loss", "minimize"))
        print(f"epoch {epoch}: loss {loss:.4f}", flush=True)

    experiment.stop()
    return model


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=10)
    model = train(parser.parse_args().epochs)
    print(f"sum of all weights: {sum(weights.double().sum() for weights in model.parameters()):.12f}")


if __name__ == "__main__":
    main()
