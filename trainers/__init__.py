"""A data set and a base model become a scored release."""
