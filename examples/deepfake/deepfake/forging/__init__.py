"""From portraits to forged clips: pairs of people, recipes, alignment, canvas, camera."""
