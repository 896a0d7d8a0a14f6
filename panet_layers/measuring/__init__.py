"""How errors, time and memory of the layers are measured: by `panet_layers.certify` and by the benchmarks."""
