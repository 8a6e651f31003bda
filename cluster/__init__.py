"""What every stage shares, and the way onto a Ray cluster."""
