"""Reads and writes image files and videos; finds faces, follows them through a video and crops them."""
