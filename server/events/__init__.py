"""The event API: a user of the core. Parallel fetch is scatter-gather, the breaker is a layer."""
