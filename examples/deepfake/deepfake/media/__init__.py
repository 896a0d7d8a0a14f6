"""Image files, videos, and the faces in them."""
