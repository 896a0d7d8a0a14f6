"""The layers: modules, functions, backends, exports."""
