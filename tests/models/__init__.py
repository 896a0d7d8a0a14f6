"""PANet, its loss, RECCE's weights."""
