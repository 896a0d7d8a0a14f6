"""train.py that waits for the other processes for some seconds (the variable WAIT), where the command waits longer."""

import os

import train
from deepfake.common import cli
from deepfake.training import distributed

if __name__ == "__main__":
    distributed.LONGEST_WAIT = float(os.environ["WAIT"])
    cli.run(train.main)
