"""Training that can be trusted: typed recipes, data in a fixed order, exact resumption, health checks, provenance."""
