"""From a source to face crops: frames, boxes, crops."""
