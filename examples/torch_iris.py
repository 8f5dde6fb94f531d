"""Train a PyTorch model on the iris flowers, and save a checkpoint after every tenth epoch.

    python torch_iris.py --learning-rate 0.1
    replicate ls

It needs no callback, only `replicate.init` and `experiment.checkpoint`. The data comes with scikit-learn.
"""

import argparse

import torch
from sklearn.datasets import load_iris
from sklearn.model_selection import train_test_split

import replicate


def train(learning_rate: float, epochs: int) -> replicate.Experiment:
    experiment = replicate.init(params={"learning_rate": learning_rate, "epochs": epochs})

    torch.manual_seed(0)
    features, species = load_iris(return_X_y=True)
    split = train_test_split(features, species, test_size=0.2, random_state=0)
    x_train, x_val = (torch.tensor(part, dtype=torch.float32) for part in split[:2])
    y_train, y_val = (torch.tensor(part) for part in split[2:])

    model = torch.nn.Sequential(torch.nn.Linear(4, 15), torch.nn.ReLU(), torch.nn.Linear(15, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    loss_function = torch.nn.CrossEntropyLoss()

    for epoch in range(epochs):
        optimizer.zero_grad()
        loss = loss_function(model(x_train), y_train)
        loss.backward()
        optimizer.step()

        if epoch % 10 == 9:
            with torch.no_grad():
                accuracy = (model(x_val).argmax(dim=1) == y_val).float().mean()
            print(f"epoch {epoch}: loss {loss:.4f}, accuracy {accuracy:.3f}")
            torch.save(model.state_dict(), "iris.pt")
            experiment.checkpoint(
                path="iris.pt",
                step=epoch,
                metrics={"loss": loss, "accuracy": accuracy},  # tensors are fine
                primary_metric=("loss", "minimize"),
            )
    experiment.stop()
    return experiment


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--learning-rate", type=float, default=0.01)
    parser.add_argument("--epochs", type=int, default=100)
    arguments = parser.parse_args()

    experiment = train(arguments.learning_rate, arguments.epochs)

    best = experiment.best()
    with best.open("iris.pt") as file:
        weights = torch.load(file)
    print(f"best checkpoint: {best.short_id}, step {best.step}, {sum(w.numel() for w in weights.values())} weights")


if __name__ == "__main__":
    main()
