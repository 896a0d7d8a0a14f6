"""The code behind the commands of examples/deepfake: one package per purpose."""
