"""What the commands of examples/deepfake are made of: one package for each purpose."""
