"""Many trainings become one candidate."""
