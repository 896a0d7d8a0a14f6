"""From an image or a video to what a detector says of it, as JSON and as pictures."""
