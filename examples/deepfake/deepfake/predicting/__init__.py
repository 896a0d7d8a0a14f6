"""A detector's answers drawn into images and videos."""
