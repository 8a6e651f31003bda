"""Drift: an endpoint's ledger against its release's sketch, looked at without a cluster."""
